"""The dialog line: its marks, its turns, its segments and positions.

``context <CTX> context <CTX> query <SEP> response``. ``<CTX>`` closes a context turn and
``<SEP>`` the query. Both are single dictionary entries that only this module writes: the
same letters in somebody's text stay text.
"""

from typing import NamedTuple

import numpy as np

from ...errors import UserError

CTX = "<CTX>"
SEP = "<SEP>"
MARKS = (CTX, SEP)

# segment ids
PADDING, RESPONSE, QUERY, CONTEXT = range(4)
NUM_SEGMENTS = 4


def escape_marks(pieces: list[str]) -> list[str]:
    """Split every piece that spells a mark into its characters.

    A tokenizer that has often seen ``<SEP>`` in user text may have learned it as a piece.
    """
    out = []
    for piece in pieces:
        out.extend(piece if piece in MARKS else (piece,))
    return out


def join_turns(turns: list[list[str]]) -> list[str]:
    """Return the pieces of a prefix: context turns, oldest first, then the query.

    Raises:
        UserError: there is no query, or it is empty.
    """
    if not turns or not turns[-1]:
        raise UserError("a dialog needs a query: the last turn is empty")
    line = []
    for turn in turns[:-1]:
        if turn:
            line += escape_marks(turn) + [CTX]
    return line + escape_marks(turns[-1]) + [SEP]


class DialogLimits(NamedTuple):
    """How much of a dialog is read."""

    max_context_turns: int
    max_source_positions: int  # prefix tokens, begin mark included
    max_target_positions: int  # response tokens, end mark included


def cut_prefix(prefix: np.ndarray, ctx: int, limits: DialogLimits) -> np.ndarray:
    """Cut a prefix (ids, ending with ``<SEP>``) from its far end.

    Whole turns go first, the oldest before the others; what is left of a query that does
    not fit even alone is its end.
    """
    room = limits.max_source_positions - 1  # the begin mark takes one
    starts = np.concatenate([[0], np.flatnonzero(prefix == ctx) + 1])  # of each turn
    first = max(0, len(starts) - 1 - limits.max_context_turns)
    while first < len(starts) - 1 and len(prefix) - starts[first] > room:
        first += 1
    prefix = prefix[starts[first] :]
    return prefix[-room:] if len(prefix) > room else prefix


def describe_prefix(prefix: np.ndarray, ctx: int) -> tuple[np.ndarray, np.ndarray]:
    """Return segments and positions of ``<s>`` followed by ``prefix``, each [1 + length].

    ``<s>`` takes position 0 of the first turn; every other turn begins at 0 anew.
    """
    length = len(prefix) + 1
    closes = np.flatnonzero(prefix == ctx) + 1  # places of <CTX>, the begin mark counted
    segments = np.full(length, QUERY)
    if len(closes):
        segments[: closes[-1] + 1] = CONTEXT
    positions = np.arange(length)
    for start, end in zip(closes + 1, [*(closes[1:] + 1), length]):
        positions[start:end] -= start
    return segments, positions
