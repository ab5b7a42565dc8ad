"""The dialog line: its marks, its turns, its segments and positions.

``context <CTX> context <CTX> query <SEP> response``. ``<CTX>`` closes a context turn and
``<SEP>`` the query. Both are single dictionary entries that only this module writes: the
same letters in somebody's text stay text.
"""

import numpy as np

from ...errors import UserError
from ..corpus.arrays import Ints

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
    out: list[str] = []
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


def describe_prefix(prefix: Ints, ctx: int) -> tuple[Ints, Ints]:
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
