"""How much of a dialog is read: where its context is cut, by turns and by tokens.

The rule: whole turns go first, the oldest before the others, until at most
``max_context_turns`` turns stand before the query and the prefix fits into
``max_source_positions``. The query always stays; of one that does not fit even alone its end is
left. A response keeps its beginning.

:func:`kept_lengths` applies it to all prefixes of a block of lines at once, :func:`cut_prefix`
to a single one.
"""

from typing import NamedTuple

import numpy as np

from ..corpus.arrays import Ints


class DialogLimits(NamedTuple):
    """How much of a dialog is read."""

    max_context_turns: int
    max_source_positions: int  # prefix tokens, begin mark included
    max_target_positions: int  # response tokens, end mark included


def kept_lengths(ctxs: Ints, begin: Ints, close: Ints, limits: DialogLimits) -> Ints:
    """Return how many tokens are kept of the end of each prefix, int [P].

    Args:
        ctxs: places of all ``<CTX>`` in a row of tokens, ascending.
        begin, close: int [P], first and last place of each prefix in the row; the last is its
            ``<SEP>``.
        limits: how much of a dialog is read.
    """
    room = limits.max_source_positions - 1  # the begin mark takes one
    earlier = np.searchsorted(ctxs, begin)  # marks before the prefix
    context_turns = np.searchsorted(ctxs, close) - earlier
    # turns that begin so early that the rest of the prefix would be too long
    least = close + 1 - room
    too_early = (begin < least) + np.maximum(np.searchsorted(ctxs, least - 1) - earlier, 0)
    dropped = np.maximum(context_turns - limits.max_context_turns, too_early)
    dropped = dropped.clip(0, context_turns)  # never the query
    first = np.where(dropped > 0, take(ctxs, earlier + dropped - 1) + 1, begin)
    return np.minimum(close + 1 - first, room)


def take(places: Ints, numbers: Ints) -> Ints:
    """Return ``places[numbers]``, or anything for numbers that are out of range."""
    return places.take(numbers, mode="clip") if len(places) else np.zeros_like(numbers)


def cut_prefix(prefix: Ints, ctx: int, limits: DialogLimits) -> Ints:
    """Cut a prefix (ids, ending with ``<SEP>``) from its far end.

    Args:
        prefix: int [S].
        ctx: id of ``<CTX>``.
        limits: how much of a dialog is read.
    """
    ctxs, last = np.flatnonzero(prefix == ctx), np.array([len(prefix) - 1])
    kept = int(kept_lengths(ctxs, np.zeros_like(last), last, limits)[0])
    return prefix[len(prefix) - kept :]
