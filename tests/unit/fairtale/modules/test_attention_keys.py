"""Beams that share keys, and padding of keys from several steps."""

import torch

from fairtale.modules.attention_keys import append_padding, as_bias, share_beams

S = 5


def keys(rows, seed=0):
    return torch.randn(S, rows, 3, generator=torch.Generator().manual_seed(seed))


def test_rows_that_are_equal_are_kept_once():
    key = keys(3).repeat_interleave(2, 1)
    one, value, mask = share_beams(key, key, None, 2)
    assert torch.equal(one, keys(3)) and torch.equal(value, one) and mask is None
    # two neighbouring sentences are the same: groups of two are still groups of two
    twice = key[:, [0, 1, 0, 1, 2, 3]]
    assert share_beams(twice, twice, None, 2)[0].size(1) == 3
    # keys are equal, padding is not
    pad = torch.zeros(6, S, dtype=torch.bool)
    assert share_beams(key, key, pad, 2)[2].shape == (3, S)
    pad[1, -1] = True
    assert share_beams(key, key, pad, 2)[0] is key


def test_rows_that_differ_are_kept():
    key = keys(3).repeat_interleave(2, 1)
    for beams in (1, 3, 4, 6):
        assert share_beams(key, key, None, beams)[0] is key
    key[0, 1, 0] += 1.0
    assert share_beams(key, key, None, 2)[0] is key


def test_padding_of_steps_by_hand():
    assert append_padding(None, None, 2, 3, 1) is None
    old, new = torch.tensor([[0, 1], [0, 0]]), torch.tensor([[True], [False]])
    both = append_padding(old, new, 2, 2, 1)
    assert both.tolist() == [[False, True, True], [False, False, False]]
    assert append_padding(old, None, 2, 2, 1)[:, 2].tolist() == [False, False]
    assert append_padding(None, new, 2, 2, 1).tolist() == [[False, False, True], [False] * 3]


def test_masks_as_a_bias_by_hand():
    assert as_bias(None, None, torch.float32) is None
    causal = torch.tensor([[False, True], [False, False]])
    padding = torch.tensor([[False, False], [False, True]])
    bias = as_bias(padding, causal, torch.float32)
    inf = torch.inf
    expected = [[[[0, -inf], [0, 0]]], [[[0, -inf], [0, -inf]]]]
    assert torch.equal(bias, torch.tensor(expected))
    assert as_bias(None, causal, torch.bfloat16).dtype == torch.bfloat16
    added = torch.tensor([[0.0, 1.5], [2.0, 0.0]])
    assert torch.equal(as_bias(None, added, torch.float32), added[None, None])
