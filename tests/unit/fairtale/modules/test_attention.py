"""Self-attention, compared with its definition, and its three modes, compared with each other."""

import math

import pytest
import torch

from fairtale.modules.attention import LayerCache, SelfAttention
from fairtale.modules.attention_masks import PrefixLayout, packing_index
from tests.helpers import randomize

C, H = 12, 3
D = C // H


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def attention():
    return randomize(SelfAttention(C, H), seed=1).eval()


def by_definition(attention, x, visible):
    """softmax(q k / sqrt(D)) v of one row [T, C], one head and one query at a time.

    ``visible(i)`` is the number of tokens that query i attends to.
    """
    q, k, v = (x @ attention.qkv_proj.weight.t() + attention.qkv_proj.bias).split(C, -1)
    out = torch.zeros_like(x)
    for i in range(len(x)):
        for h in range(H):
            part = slice(h * D, (h + 1) * D)
            seen = visible(i)
            scores = torch.stack([q[i, part] @ k[j, part] for j in range(seen)]) / math.sqrt(D)
            weights = scores.exp() / scores.exp().sum()
            out[i, part] = sum(weights[j] * v[j, part] for j in range(seen))
    return out @ attention.out_proj.weight.t() + attention.out_proj.bias


def test_forward_is_causal_attention(attention):
    x = torch.randn(2, 5, C)
    expected = torch.stack([by_definition(attention, row, lambda i: i + 1) for row in x])
    torch.testing.assert_close(attention(x), expected, atol=1e-5, rtol=1e-5)


def layout_of(lengths, both_directions=False, packed=False):
    """Return the layout of padded prefixes, in separate rows or in one row."""
    lengths = torch.tensor(lengths)
    width = int(lengths.max())
    real = (torch.arange(width) < lengths.unsqueeze(1))[:, None, None]
    rows = packing_index(lengths) if packed else None
    last = lengths.cumsum(0) - 1 if packed else torch.arange(len(lengths)) * width + lengths - 1
    return PrefixLayout(real, real if both_directions else None, rows, lengths - 1, last)


@pytest.mark.parametrize("both_directions", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_read_prefix_keeps_to_its_mask(attention, both_directions, packed):
    x, lengths = torch.randn(3, 5, C), [5, 3, 1]
    layout = layout_of(lengths, both_directions, packed)
    given = torch.cat([row[:n] for row, n in zip(x, lengths)])[None] if packed else x
    y, cache = attention.read_prefix(given, layout)
    assert y.shape == given.shape
    last, same = attention.read_prefix(given, layout, only_last=True)
    for row, n in enumerate(lengths):
        expected = by_definition(
            attention, x[row, :n], lambda i, n=n: n if both_directions else i + 1
        )
        begin = sum(lengths[:row])
        found = y[0, begin : begin + n] if packed else y[row, :n]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(last[row, 0], expected[-1], atol=1e-5, rtol=1e-5)
        keys = attention.qkv_proj(x[row, :n])[:, C : 2 * C].view(n, H, D).transpose(0, 1)
        torch.testing.assert_close(cache.keys[row, :, :n], keys, atol=1e-5, rtol=1e-5)
    assert cache.keys.shape == cache.values.shape == same.keys.shape == (3, H, 5, D)
    assert last.shape == (3, 1, C) and cache.values.isfinite().all()


@pytest.mark.parametrize("lengths", [[4], [3, 3], [1, 5, 2], [1, 1, 7, 1]])
def test_packed_rows_equal_separate_rows_forward_and_backward(attention, lengths):
    rows = [torch.randn(1, n, C, requires_grad=True) for n in lengths]
    weights = [torch.randn(1, n, C) for n in lengths]
    apart = [attention(row) for row in rows]
    sum((y * w).sum() for y, w in zip(apart, weights)).backward()
    expected = [row.grad for row in rows] + [p.grad.clone() for p in attention.parameters()]
    attention.zero_grad()

    line = torch.cat([row.detach() for row in rows], 1).requires_grad_()
    together = attention(line, packing_index(lengths))
    torch.testing.assert_close(together, torch.cat(apart, 1), atol=1e-6, rtol=1e-6)
    (together * torch.cat(weights, 1)).sum().backward()
    found = list(line.grad.split(lengths, 1)) + [p.grad for p in attention.parameters()]
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def prefixes_and_rest(attention, lengths, beams, new):
    """Read random prefixes; return also new tokens and the output of a full forward pass."""
    x = torch.randn(len(lengths), max(lengths), C)
    rest = torch.randn(len(lengths) * beams, new, C)
    expected = torch.cat(
        [
            attention(torch.cat([x[r // beams, : lengths[r // beams]], rest[r]])[None])[:, -new:]
            for r in range(len(rest))
        ]
    )
    _, cache = attention.read_prefix(x, layout_of(lengths))
    real = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    bias = torch.zeros(real.shape).masked_fill(~real, -torch.inf)[:, None, None]
    return cache, bias, rest, expected


@pytest.mark.parametrize("lengths", [[1], [4], [3, 1, 6]])
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("steps", [[1] * 5, [5], [2, 3]])
@torch.no_grad()
def test_continuing_equals_the_full_forward(attention, lengths, beams, steps):
    cache, bias, rest, expected = prefixes_and_rest(attention, lengths, beams, sum(steps))
    # cells that are not yet written may hold any value
    past = LayerCache(*torch.full((2, len(rest), H, 9, D), torch.nan))
    found, done = [], 0
    for step in steps:
        chunk = rest[:, done : done + step]
        found.append(attention.continue_prefix(chunk, cache, bias, past, done))
        done += step
    torch.testing.assert_close(torch.cat(found, 1), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_padding_of_a_prefix_is_not_seen(attention):
    cache, bias, rest, expected = prefixes_and_rest(attention, [2, 5], 2, 1)
    for x in cache:
        x[0, :, 2:] = 1e4
    past = LayerCache(*torch.empty(2, 4, H, 1, D))
    found = attention.continue_prefix(rest, cache, bias, past, 0)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_prefixes_are_not_written_to(attention):
    cache, bias, rest, _ = prefixes_and_rest(attention, [2, 5], 2, 3)
    before = LayerCache(cache.keys.clone(), cache.values.clone())
    past = LayerCache(*torch.empty(2, 4, H, 3, D))
    attention.continue_prefix(rest, cache, bias, past, 0)
    assert torch.equal(cache.keys, before.keys) and torch.equal(cache.values, before.values)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_continuing_in_half_precision(attention, dtype):
    cache, bias, rest, expected = prefixes_and_rest(attention, [3, 1, 6], 2, 4)
    attention.to(dtype)
    cache = LayerCache(cache.keys.to(dtype), cache.values.to(dtype))
    past = LayerCache(*torch.empty(2, 6, H, 4, D, dtype=dtype))
    found = attention.continue_prefix(rest.to(dtype), cache, bias.to(dtype), past, 0)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, atol=0.06, rtol=0.06)


def test_attention_dropout_only_in_training():
    attention = randomize(SelfAttention(C, H, dropout=0.5), seed=1)
    x = torch.randn(1, 6, C)
    assert not torch.equal(attention(x), attention(x))
    attention.eval()
    plain = randomize(SelfAttention(C, H), seed=1)
    assert torch.equal(attention(x), plain(x))
