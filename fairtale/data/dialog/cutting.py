"""Truncate dialogs to a maximum number of context turns and of tokens.

The oldest context turns are removed, each as a whole, until at most ``max_context_turns`` turns
precede the query and the prefix fits into ``max_source_positions``. The query is never removed;
if it does not fit by itself, its last tokens are kept. Of a response, the first tokens are kept.

:func:`kept_lengths` applies this rule to all prefixes of a block of lines at once, and
:func:`cut_prefix` applies it to a single prefix.
"""

from typing import NamedTuple

import numpy as np

from ..corpus.arrays import Ints


class DialogLimits(NamedTuple):
    """Maximum lengths of a dialog."""

    max_context_turns: int
    max_source_positions: int  # tokens of the prefix, including <s>
    max_target_positions: int  # tokens of the response, including </s>


def kept_lengths(ctxs: Ints, begin: Ints, close: Ints, limits: DialogLimits) -> Ints:
    """Return how many tokens to keep at the end of each prefix, int [P].

    Args:
        ctxs: ascending indices of all ``<CTX>`` in a row of tokens.
        begin, close: int [P], indices of the first and last token of each prefix in the row; the
            last token is ``<SEP>``.
        limits: maximum lengths of a dialog.
    """
    room = limits.max_source_positions - 1  # <s> takes one position
    earlier = np.searchsorted(ctxs, begin)  # number of <CTX> before the prefix
    context_turns = np.searchsorted(ctxs, close) - earlier
    # Count the turns that begin so early that the prefix from there on would be too long.
    least = close + 1 - room
    too_early = (begin < least) + np.maximum(np.searchsorted(ctxs, least - 1) - earlier, 0)
    dropped = np.maximum(context_turns - limits.max_context_turns, too_early)
    dropped = dropped.clip(0, context_turns)  # the query is never dropped
    first = np.where(dropped > 0, take(ctxs, earlier + dropped - 1) + 1, begin)
    return np.minimum(close + 1 - first, room)


def take(places: Ints, numbers: Ints) -> Ints:
    """Return ``places[numbers]``; the result is arbitrary where a number is out of range."""
    return places.take(numbers, mode="clip") if len(places) else np.zeros_like(numbers)


def cut_prefix(prefix: Ints, ctx: int, limits: DialogLimits) -> Ints:
    """Return the end of a prefix that fits the limits.

    Args:
        prefix: token ids without ``<s>``, ending with ``<SEP>``, int [S].
        ctx: id of ``<CTX>``.
        limits: maximum lengths of a dialog.
    """
    ctxs, last = np.flatnonzero(prefix == ctx), np.array([len(prefix) - 1])
    kept = int(kept_lengths(ctxs, np.zeros_like(last), last, limits)[0])
    return prefix[len(prefix) - kept :]
