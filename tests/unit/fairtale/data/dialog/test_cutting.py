"""Truncation of dialogs: whole turns first, the query last."""

import numpy as np
import pytest

from fairtale.data.dialog.cutting import DialogLimits, cut_prefix

C, S = 90, 91  # ids of the marks


def cut_plainly(prefix, ctx, limits):
    """A plain implementation of the rule, turn by turn, for comparison."""
    room = limits.max_source_positions - 1  # <s> takes one
    starts = np.concatenate([[0], np.flatnonzero(prefix == ctx) + 1])  # of each turn
    first = max(0, len(starts) - 1 - limits.max_context_turns)
    while first < len(starts) - 1 and len(prefix) - starts[first] > room:
        first += 1
    prefix = prefix[starts[first] :]
    return prefix[-room:] if len(prefix) > room else prefix


@pytest.mark.parametrize("turns", [0, 1, 2, 10])
@pytest.mark.parametrize("positions", [3, 5, 9, 14])
def test_one_prefix_is_cut_by_the_same_rule(turns, positions):
    limits, rng = DialogLimits(turns, positions, 5), np.random.default_rng(turns * positions)
    num_cut = 0
    for _ in range(300):
        prefix = np.append(rng.choice([5, 6, 7, C], rng.integers(0, 16), p=[0.3, 0.3, 0.2, 0.2]), S)
        kept = cut_prefix(prefix, C, limits)
        assert kept.tolist() == cut_plainly(prefix, C, limits).tolist()
        num_cut += len(kept) < len(prefix)
    assert num_cut > 20


def test_whole_turns_are_cut_from_the_far_end_first():
    prefix = np.array([10, 11, C, 12, C, 13, 14, 15, S])

    def cut(turns, positions):
        return cut_prefix(prefix, C, DialogLimits(turns, positions, 5)).tolist()

    assert cut(10, 10) == prefix.tolist()
    assert cut(10, 9) == [12, C, 13, 14, 15, S]
    assert cut(10, 6) == [13, 14, 15, S]
    assert cut(1, 10) == [12, C, 13, 14, 15, S]
    assert cut(0, 10) == [13, 14, 15, S]
    # of a query that is too long by itself, the end and the mark are kept
    assert cut(10, 4) == [14, 15, S]


def test_a_thousand_turns_keep_the_newest():
    turns = [x for i in range(10_000) for x in (i % 50 + 4, C)]
    kept = cut_prefix(np.array([*turns, 60, S]), C, DialogLimits(10_000, 9, 5))
    assert kept.tolist() == [*turns[-6:], 60, S]
