"""The encoder and decoder for fairseq's generator: exact results, no unnecessary copies."""

import copy

import pytest
import torch
from fairseq.data.data_utils import collate_tokens

from tests.helpers import random_rows, tiny_model

BEGIN, PAD, END = 0, 1, 2
LENGTHS = [4, 1, 7]  # of prefixes
ROOM = 32  # initial capacity of a cache, in tokens


@pytest.fixture
def model():
    return tiny_model(max_positions=100)


@pytest.fixture(autouse=True)
def inference():
    with torch.no_grad():
        yield


def read(model, rows):
    return model.encoder(collate_tokens(rows, PAD), torch.tensor([len(r) for r in rows]))


def spread(model, out, beams):
    order = torch.arange(out.next_positions.numel()).repeat_interleave(beams)
    return model.encoder.reorder_encoder_out(out, order)


def full(model, rows, generated):
    """Compute the logits after the prefix and each generated token by full forward passes."""
    beams = len(generated) // len(rows)
    found = []
    for r, words in enumerate(generated):
        row = torch.cat([rows[r // beams], words])
        found.append(model(row[None])[0][0, len(rows[r // beams]) - 1 :])
    return torch.stack(found)


def with_begin(generated):
    return torch.cat([torch.full((len(generated), 1), END), generated], 1)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("lengths", [LENGTHS, [1], [5, 5]])
def test_incremental_equals_full(model, beams, lengths):
    rows = random_rows(lengths)
    generated = torch.stack(random_rows([6] * len(rows) * beams, seed=1))
    expected = full(model, rows, generated)
    out = spread(model, read(model, rows), beams)
    tokens, state, found = with_begin(generated), {}, []
    for step in range(7):
        logits, _ = model.decoder(tokens[:, : step + 1], out, incremental_state=state)
        assert logits.shape == (len(generated), 1, 24)
        found.append(logits)
    torch.testing.assert_close(torch.cat(found, 1), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("beams", [1, 3])
def test_two_passes_without_a_state_equal_full(model, beams):
    rows = random_rows(LENGTHS)
    generated = torch.stack(random_rows([6] * 3 * beams, seed=1))
    out = spread(model, read(model, rows), beams)
    logits, _ = model.decoder(with_begin(generated), out)
    torch.testing.assert_close(logits, full(model, rows, generated), atol=1e-5, rtol=1e-5)
    features, _ = model.decoder(with_begin(generated), out, features_only=True)
    torch.testing.assert_close(features @ model.output_weight().t(), logits)


def test_several_tokens_a_step(model):
    rows = random_rows(LENGTHS)
    generated = torch.stack(random_rows([9] * 3, seed=1))
    out, tokens, state = read(model, rows), with_begin(generated), {}
    found = [model.decoder(tokens[:, :n], out, incremental_state=state)[0] for n in (3, 4, 10)]
    assert [x.size(1) for x in found] == [3, 1, 6]
    expected = full(model, rows, generated)
    torch.testing.assert_close(torch.cat(found, 1), expected, atol=1e-5, rtol=1e-5)


def test_room_grows_without_forgetting(model):
    count = 2 * ROOM + 3
    rows = random_rows([3, 8])
    generated = torch.stack(random_rows([count] * 2, seed=1))
    out, tokens, state, found = read(model, rows), with_begin(generated), {}, []
    for step in range(count + 1):
        found.append(model.decoder(tokens[:, : step + 1], out, incremental_state=state)[0])
    expected = full(model, rows, generated)
    torch.testing.assert_close(torch.cat(found, 1), expected, atol=2e-5, rtol=1e-5)


def test_the_begin_column_is_not_looked_at(model):
    out = read(model, random_rows(LENGTHS))
    first = [model.decoder(torch.full((3, 1), t), out, incremental_state={})[0] for t in (END, 7)]
    assert torch.equal(*first)


def test_half_precision(model):
    rows = random_rows(LENGTHS)
    generated = torch.stack(random_rows([4] * 6, seed=1))
    expected = full(model, rows, generated)
    model.to(torch.bfloat16)
    out = spread(model, read(model, rows), 2)
    tokens, state, found = with_begin(generated), {}, []
    for step in range(5):
        found.append(model.decoder(tokens[:, : step + 1], out, incremental_state=state)[0])
    found = torch.cat(found, 1)
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).abs().mean() < 0.05 * expected.std()


# ------------------------------------------------------------------------------ reorder


def decode_and_reorder(model, rows, beams, orders):
    """Generate random words, following each of ``orders`` (rows of the generator) in turn.

    Returns the last logits, and those of full forward passes over the remaining histories.
    """
    out, state = spread(model, read(model, rows), beams), {}
    sources = torch.arange(len(rows)).repeat_interleave(beams)
    tokens = torch.full((len(sources), 1), END)
    for number, order in enumerate(orders):
        model.decoder(tokens, out, incremental_state=state)
        order = torch.tensor(order)
        words = torch.stack(random_rows([1] * len(order), seed=10 + number))
        tokens, sources = torch.cat([tokens[order], words], 1), sources[order]
        model.decoder.reorder_incremental_state(state, order)
        out = model.encoder.reorder_encoder_out(out, order)
    found = model.decoder(tokens, out, incremental_state=state)[0][:, -1]
    expected = [
        model(torch.cat([rows[s], row[1:]])[None])[0][0, -1] for s, row in zip(sources, tokens)
    ]
    return found, torch.stack(expected)


@pytest.mark.parametrize(
    "orders",
    [
        [[0, 1, 2, 3, 4, 5]] * 3,
        [[1, 0, 2, 3, 5, 4], [0, 0, 3, 3, 4, 5], [1, 0, 3, 2, 5, 4]],
        [[1, 1, 2, 2, 4, 5], [0, 1, 5, 4], [1, 0, 3, 2], [3, 2]],  # sentences end
        [[2, 3, 0, 1], [1, 0, 2, 3]],  # the first sentence ends, others are reordered
        [[4, 0, 3, 1, 5, 2], [5, 4, 3, 2, 1, 0]],  # rows are not grouped by sentence
        [[0, 2, 5], [2, 1, 0]],  # single rows are left
    ],
    ids=["stay", "beams move", "sentences end", "sentences move", "no order", "fewer beams"],
)
def test_reordering_follows_the_rows(model, orders):
    found, expected = decode_and_reorder(model, random_rows(LENGTHS), 2, orders)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_reordering_single_rows(model):
    orders = [[0, 1, 2], [2, 0], [1, 0], [1]]
    found, expected = decode_and_reorder(model, random_rows(LENGTHS), 1, orders)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def caches_of(state):
    (cache,) = state.values()
    return [x for layer in cache.layers for x in layer]


def test_rows_that_stay_are_not_copied(model):
    out, state = spread(model, read(model, random_rows(LENGTHS)), 2), {}
    tokens = with_begin(torch.stack(random_rows([3] * 6)))
    model.decoder(tokens, out, incremental_state=state)
    before = [(x.data_ptr(), x._version, x.clone()) for x in caches_of(state)]
    model.decoder.reorder_incremental_state(state, torch.arange(6))
    for x, (place, version, _) in zip(caches_of(state), before):
        assert (x.data_ptr(), x._version) == (place, version)  # nothing moved, nothing written
    order = torch.tensor([0, 0, 3, 2, 4, 5])
    model.decoder.reorder_incremental_state(state, order)
    for x, (place, _, old) in zip(caches_of(state), before):
        assert x.data_ptr() == place
        assert torch.equal(x[:, :, :3], old[order][:, :, :3])


def test_prefixes_are_not_copied_for_beams(model):
    out = read(model, random_rows(LENGTHS))
    beams = spread(model, out, 4)
    assert beams.num_rows == 12
    order = torch.tensor([3, 3, 0, 1] + [4] * 4 + [9] * 4)
    within = model.encoder.reorder_encoder_out(beams, order)
    for later in (beams, within):
        for mine, first in zip(later.state.caches, out.state.caches):
            assert mine.keys is first.keys and mine.values is first.values
    fewer = model.encoder.reorder_encoder_out(within, torch.tensor([1] * 4 + [8] * 4))
    assert fewer.num_rows == 8
    assert fewer.next_positions.tolist() == fewer.lengths.tolist() == [4, 7]
    for mine, first in zip(fewer.state.caches, out.state.caches):
        assert torch.equal(mine.keys, first.keys[[0, 2]])


# ---------------------------------------------------------------------------- ownership


def test_parameters_are_owned_once(model):
    names = [name for name, _ in model.named_parameters()]
    assert names and all(name.startswith("transformer.") for name in names)
    assert set(model.state_dict()) == set(names)
    assert model.encoder.max_positions() == model.decoder.max_positions() == 100


def test_a_copy_has_an_encoder_and_a_decoder_of_its_own(model):
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    rows = random_rows([3])
    step = torch.full((1, 1), END)
    assert (other.decoder(step, read(other, rows))[0] == 0).all()
    assert (model.decoder(step, read(model, rows))[0] != 0).any()
