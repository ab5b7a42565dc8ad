"""Rows of different lengths in one cache, against whole rows; and batch sizes that round alike."""

import pytest
import torch

from fairtale.modules.row_cache import BLOCK, RowCache
from fairtale.modules.row_decoder import (
    Piece,
    RowDecoder,
    attend_by_products,
    attend_fused,
)
from fairtale.modules.same_rounding import Sizes, sizes_that_round_alike
from tests.helpers import random_rows, tiny_transformer

POSITIONS = 40


def decoder(transformer, rows=12):
    return RowDecoder(transformer, RowCache(transformer, rows, POSITIONS))


def piece(row, tokens, start=0, end=None, bidirectional=False):
    end = len(tokens) if end is None else end
    places = torch.arange(start, end)
    last = end == len(tokens)
    return Piece(row, start, tokens[start:end], places, None, bidirectional, last)


def features(transformer, rows):
    """Return the features of the last token of each row, read as a whole."""
    with torch.no_grad():
        return torch.cat([transformer(row.unsqueeze(0))[:, -1] for row in rows])


def close(a, b):
    torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("attend", [None, attend_fused, attend_by_products])
def test_prompts_and_steps_equal_whole_rows(attend):
    transformer = tiny_transformer(max_positions=POSITIONS)
    own = decoder(transformer)
    own._attend = attend
    rows = random_rows([1, 9, 30, 4, 17, 2, 2, 8, 21, 3])
    prompts = [row[: max(1, len(row) - 5)] for row in rows]
    found = own.read([piece(i, prompt) for i, prompt in enumerate(prompts)])
    close(found, features(transformer, prompts))
    lengths = [len(prompt) for prompt in prompts]
    for _ in range(3):
        new = [int(token) for token in torch.cat(random_rows([len(rows)], seed=lengths[0]))]
        found = own.step(new, lengths, None, lengths)
        prompts = [torch.cat([p, torch.tensor([t])]) for p, t in zip(prompts, new)]
        close(found, features(transformer, prompts))
        lengths = [n + 1 for n in lengths]
    with torch.no_grad():
        close(own.logits(found), transformer.logits(found))


def test_a_prompt_read_in_pieces_is_the_same_prompt():
    transformer = tiny_transformer(max_positions=POSITIONS)
    own = decoder(transformer)
    long, short = random_rows([30, 6])
    assert own.read([piece(0, long, 0, 16)]).shape == (0, 16)
    found = own.read([piece(0, long, 16), piece(3, short)])
    close(found, features(transformer, [long, short]))


def test_both_directions():
    transformer = tiny_transformer(max_positions=POSITIONS, bidirectional_prefix=True)
    own, (row,) = decoder(transformer), random_rows([12])
    with torch.no_grad():
        state = transformer.read_prefix(row.unsqueeze(0), torch.tensor([12]))
    close(own.read([piece(2, row, bidirectional=True)]), state.features)


def test_a_row_may_move():
    transformer = tiny_transformer(max_positions=POSITIONS)
    own, rows = decoder(transformer), random_rows([5, 9])
    own.read([piece(0, rows[0]), piece(7, rows[1])])
    own.cache.clear(0)
    own.cache.move(7, 0, 9)
    found = own.step([6], [9], None, [9])
    close(found, features(transformer, [torch.cat([rows[1], torch.tensor([6])])]))


def test_the_cache_has_whole_blocks():
    transformer = tiny_transformer()
    cache = RowCache(transformer, 3, BLOCK + 1)
    assert cache.positions == 2 * BLOCK
    assert cache.num_bytes == 3 * RowCache.bytes_of_row(transformer, BLOCK + 1)
    assert cache.num_bytes == 2 * 2 * 3 * 2 * BLOCK * 16 * 4  # layers, keys and values, ..., fp32


# ------------------------------------------------------------------------ sizes of batches


def test_batches_are_filled_up_or_split():
    sizes = Sizes([16, 8, 32])
    counts = (0, 1, 8, 9, 17, 32, 33, 64, 70)
    assert [sizes.fitting(n) for n in counts] == [0, 8, 8, 16, 32, 32, 40, 64, 72]
    x = torch.arange(40.0).view(-1, 1)
    assert sizes.fill(x[:33]).shape == (40, 1) and sizes.fill(x[:33])[33:].eq(0).all()
    calls = []

    def double(a, b):
        calls.append(len(a))
        return a + b

    assert torch.equal(sizes.apply(double, x, x), 2 * x) and calls == [32, 8]


def test_sizes_that_round_otherwise_are_left_out():
    rows = torch.randn(32, 4)

    def by_size(x):
        return x * (1 + 1e-7 if len(x) == 16 else 1)

    def by_place(x):
        return torch.cat([x[:1] * (1 + 1e-7), x[1:]]) if len(x) == 32 else x

    for function, left in ((by_size, [8, 32]), (by_place, [8, 16])):
        assert sizes_that_round_alike(function, rows, [8, 16, 32]).sizes == left


def test_steps_of_another_rounding_are_split(monkeypatch):
    transformer = tiny_transformer(max_positions=POSITIONS)
    own, rows = decoder(transformer), random_rows([3] * 11)
    expected = own.read([piece(i, row) for i, row in enumerate(rows)])
    own.read_sizes = Sizes([8])
    assert torch.equal(own.read([piece(i, row) for i, row in enumerate(rows)]), expected)
    step = ([7] * 11, [3] * 11, None, [3] * 11)
    expected = own.step(*step)
    own.step_sizes = Sizes([8])
    assert torch.equal(own.step(*step), expected)
