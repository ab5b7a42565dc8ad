"""The layout of sequences in rows, the causal mask and UniLM's mask."""

import pytest
import torch

from fairtale.modules.attention_masks import (
    lay_out_prefixes,
    packing_index,
    repack,
    unilm_rows,
)
from tests.dialog_helpers import (
    batch_of,
    dialog_dataset,
    dialog_dictionary,
    dialog_model,
    logits_of,
    random_lines,
)

LINES = random_lines(5, seed=4)


@pytest.fixture(scope="module")
def model():
    return dialog_model()


def test_packing_index_by_hand():
    packed = packing_index([2, 3, 1])
    assert packed.pad_index.tolist() == [[0, 1, 0], [2, 3, 4], [5, 5, 5]]
    assert packing_index([2, 1], width=4).pad_index.tolist() == [[0, 1, 0, 0], [2, 2, 2, 2]]
    assert packed.unpad_index.tolist() == [0, 1, 3, 4, 5, 6]


def test_repack_has_the_gradient_of_a_selection():
    packed = packing_index([2, 4, 3])
    cells, back = packed.pad_index.view(-1), packed.unpad_index
    x = torch.randn(9, 2, requires_grad=True)
    weight = torch.randn(9, 2)
    (x.index_select(0, cells).sin().index_select(0, back) * weight).sum().backward()
    expected, x.grad = x.grad, None
    (repack(repack(x, cells, back).sin(), back, cells) * weight).sum().backward()
    torch.testing.assert_close(x.grad, expected)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_prefixes_are_read_in_one_row_where_much_would_be_padding(bidirectional):
    lengths = torch.tensor([5, 1, 2])
    layout = lay_out_prefixes(5, lengths, bidirectional)
    assert layout.real[:, 0, 0].tolist() == [[True] * n + [False] * (5 - n) for n in (5, 1, 2)]
    assert layout.mask is (layout.real if bidirectional else None)
    assert layout.rows is not None and layout.rows.pad_index.shape == (3, 5)
    assert layout.ends.tolist() == [4, 0, 1] and layout.last.tolist() == [4, 5, 7]
    full = lay_out_prefixes(5, torch.tensor([5, 5, 4]), bidirectional)
    assert full.rows is None
    assert full.ends.tolist() == [4, 4, 3] and full.last.tolist() == [4, 9, 13]


def sides(batch):
    """Yield (first token, first response input, end) of each dialog of a packed batch."""
    start = 0
    sides = batch["net_input"]["sides"]
    lengths = zip(sides["prefix_lengths"], sides["response_lengths"])
    for prefix, response in lengths:
        yield start, start + int(prefix), start + int(prefix + response)
        start += int(prefix + response)


def changed(model, batch, place, seq2seq):
    """Return which logits change when the input token at ``place`` does, bool [N]."""
    before = logits_of(model, batch, seq2seq)
    tokens = batch["net_input"]["src_tokens"].clone()
    tokens[0, place] = 4 + (tokens[0, place] - 3) % 20
    other = {**batch, "net_input": {**batch["net_input"], "src_tokens": tokens}}
    return (logits_of(model, other, seq2seq) - before).abs().amax(1) > 1e-6


def test_a_response_token_is_seen_by_later_ones_only(model):
    batch = batch_of(dialog_dataset(LINES))
    for _, response, end in sides(batch):
        if end - response < 2:
            continue
        place = response + 1
        seen = changed(model, batch, place, seq2seq=True)
        assert seen[place:end].all()
        assert not seen[:place].any() and not seen[end:].any()


def test_a_prefix_token_is_seen_by_its_whole_dialog(model):
    batch = batch_of(dialog_dataset(LINES))
    for start, response, end in sides(batch):
        place = response - 2  # the last word before <SEP>
        seen = changed(model, batch, place, seq2seq=True)
        assert seen[start:end].all()
        assert not seen[:start].any() and not seen[end:].any()


def test_causally_a_prefix_token_is_seen_by_later_ones_only(model):
    batch = batch_of(dialog_dataset(LINES))
    for _, response, end in sides(batch):
        place = response - 2
        seen = changed(model, batch, place, seq2seq=False)
        assert seen[place:end].all()
        assert not seen[:place].any() and not seen[end:].any()


@pytest.mark.parametrize("seq2seq", [True, False])
def test_batching_changes_nothing(model, seq2seq):
    dataset = dialog_dataset(LINES)
    together = logits_of(model, batch_of(dataset), seq2seq)
    alone = torch.cat(
        [logits_of(model, dataset.collater([dataset[i]]), seq2seq) for i in range(len(LINES))]
    )
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_gradients_equal_those_of_a_dense_mask(model):
    """The two blocks against one scaled_dot_product_attention with the whole mask."""
    attention = model.transformer.layers[0].self_attn
    prefix, response = torch.tensor([3, 5]), torch.tensor([4, 1])
    rows = unilm_rows(prefix, response, 5, 4)
    qkv = torch.randn(1, 13, 48, requires_grad=True)
    ours = rows.attend(attention, qkv)
    dense = []
    for start, p, r in ((0, 3, 4), (7, 5, 1)):
        q, k, v = attention.split(qkv[:, start : start + p + r])
        mask = torch.ones(p + r, p + r, dtype=torch.bool).tril()
        mask[:p, :p] = True
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        dense.append(y.transpose(1, 2).reshape(1, p + r, -1))
    dense = torch.cat(dense, 1)
    torch.testing.assert_close(ours, dense)
    weight = torch.randn_like(dense)
    found = torch.autograd.grad((ours * weight).sum(), qkv)[0]
    expected = torch.autograd.grad((dense * weight).sum(), qkv)[0]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("unilm", [True, False])
def test_generation_in_two_passes_equals_the_training_forward(unilm):
    dictionary = dialog_dictionary()
    model = dialog_model(dictionary, unilm=unilm, seed=2)
    batch = batch_of(dialog_dataset(LINES, dictionary))
    whole = logits_of(model, batch, seq2seq=unilm)
    net = batch["net_input"]
    spans = list(sides(batch))
    longest = max(r - s for s, r, _ in spans)
    prefixes = {}
    for name in ("src_tokens", "positions", "segments"):
        rows = [net[name][0, s:r] for s, r, _ in spans]
        fill = dictionary.pad() if name == "src_tokens" else 0
        prefixes[name] = torch.stack(
            [torch.nn.functional.pad(x, (0, longest - len(x)), value=fill) for x in rows]
        )
    lengths = net["sides"]["prefix_lengths"]
    with torch.no_grad():
        read = model.encoder(
            src_lengths=lengths,
            next_positions=torch.zeros_like(lengths),
            next_segments=torch.ones_like(lengths),
            **prefixes,
        )
        width = max(e - r for _, r, e in spans)
        tokens = torch.full((len(spans), 1 + width), dictionary.pad())
        for row, (_, r, e) in zip(tokens, spans):
            row[1 : 1 + e - r] = net["src_tokens"][0, r:e]
        found, _ = model.decoder(tokens, read)
    for row, (_, r, e) in zip(found, spans):
        torch.testing.assert_close(row[: 1 + e - r], whole[r - 1 : e], atol=1e-5, rtol=1e-5)
