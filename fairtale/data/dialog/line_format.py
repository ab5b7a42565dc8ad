"""The format of a dialog as a line of tokens: marks, turns, segments and positions.

A line is ``context <CTX> context <CTX> query <SEP> response``. ``<CTX>`` ends a context turn, and
``<SEP>`` ends the query. Both are single dictionary entries that only this module writes; the
same characters in a user's text remain ordinary text.
"""

import numpy as np

from ...errors import UserError
from ..corpus.arrays import Ints

CTX = "<CTX>"
SEP = "<SEP>"
MARKS = (CTX, SEP)
TURN_SEPARATOR = "\t"  # between the turns of a dialog as text

# Segment ids.
PADDING, RESPONSE, QUERY, CONTEXT = range(4)
NUM_SEGMENTS = 4


def escape_marks(pieces: list[str]) -> list[str]:
    """Split every piece that equals a mark into its characters.

    A tokenizer may have learned ``<SEP>`` as a piece if its training text contained it often.
    """
    out: list[str] = []
    for piece in pieces:
        out.extend(piece if piece in MARKS else (piece,))
    return out


def join_turns(turns: list[list[str]]) -> list[str]:
    """Return the pieces of a prefix, with the marks.

    Args:
        turns: pieces of each turn, oldest first; the last turn is the query. Empty context turns
            are skipped.

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


def describe_prefix(prefix: Ints, ctx: int) -> tuple[Ints, Ints]:
    """Return segments and positions of ``<s>`` followed by ``prefix``, each int64 [S + 1].

    ``<s>`` has position 0 in the first turn; positions restart from 0 in every other turn.

    Args:
        prefix: token ids without ``<s>``, int [S].
        ctx: id of ``<CTX>``.
    """
    length = len(prefix) + 1
    closes = np.flatnonzero(prefix == ctx) + 1  # indices of <CTX> after <s> is prepended
    segments = np.full(length, QUERY)
    if len(closes):
        segments[: closes[-1] + 1] = CONTEXT
    positions = np.arange(length)
    for start, end in zip(closes + 1, [*(closes[1:] + 1), length]):
        positions[start:end] -= start
    return segments, positions
