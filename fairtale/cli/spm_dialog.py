"""Dialogs in ``spm train --dialog`` and ``spm encode --dialog``: turns, tabs and marks."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from ..data.corpus.text_lines import read_text_lines
from ..data.dialog.line_format import MARKS, TURN_SEPARATOR, escape_marks, join_turns
from ..data.dialog.text_formats import MAX_TURNS

UNKNOWN_PIECE = "<unk>"  # the name of the unknown piece in fairseq and in SentencePiece


class LeftOut(NamedTuple):
    """The result for a line that is left out."""

    reason: str


class Encoded(NamedTuple):
    """The result of encoding or decoding some lines."""

    texts: Sequence[str | LeftOut]  # one for each line
    num_pieces: int
    num_unknown: int  # number of unknown pieces among them


def read_sides(path: str | os.PathLike[str]) -> Iterator[str]:
    """Yield the query and the response of every dialog in a file, to learn pieces from.

    Older turns are left out, because the lines of a conversation overlap: each of its turns is
    the query or the response of some line.
    """
    for line in read_text_lines(path):
        yield from line.split(TURN_SEPARATOR)[-2:]


def add_marks(entries: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Return the entries of a dictionary with the marks of a dialog line before them.

    Args:
        entries: ``(piece, count)``. A piece that equals a mark is removed, because
            :func:`~fairtale.data.dialog.line_format.escape_marks` never writes it.
    """
    return [(mark, 0) for mark in MARKS] + [(p, n) for p, n in entries if p not in MARKS]


class DialogEncoder:
    """Encode lines of turns as lines ``context <CTX> query <SEP> response`` of pieces.

    Each turn is encoded by itself, so that its pieces do not depend on its neighbours.

    Args:
        encode: returns the pieces of each of several texts, with :data:`UNKNOWN_PIECE` for what is
            unknown.
        max_unknown: maximum number of unknown pieces of a turn; other dialogs are left out.
    """

    def __init__(self, encode: Callable[[list[str]], list[list[str]]], max_unknown: int) -> None:
        self._encode_texts = encode
        self._max_unknown = max_unknown

    def __call__(self, lines: list[str]) -> Encoded:
        """Return the encoded lines and the numbers of pieces."""
        dialogs = [line.split(TURN_SEPARATOR) for line in lines]
        flat = [turn for turns in dialogs if len(turns) <= MAX_TURNS for turn in turns]
        encoded = iter(self._encode_texts(flat))
        texts = [self._encode(turns, encoded) for turns in dialogs]
        kept = [text.split(" ") for text in texts if isinstance(text, str)]
        num_unknown = sum(text.count(UNKNOWN_PIECE) for text in kept)
        return Encoded(texts, sum(map(len, kept)), num_unknown)

    def _encode(self, texts: list[str], encoded: Iterator[list[str]]) -> str | LeftOut:
        """Return one dialog as a line of pieces; take its turns from ``encoded``."""
        if len(texts) > MAX_TURNS:
            return LeftOut(f"more than {MAX_TURNS} turns")
        turns = [next(encoded) for _ in texts]
        if len(turns) < 2:
            return LeftOut("no response")
        if not turns[-2]:
            return LeftOut("empty query")
        if not turns[-1]:
            return LeftOut("empty response")
        if max(turn.count(UNKNOWN_PIECE) for turn in turns) > self._max_unknown:
            return LeftOut(f"a turn with more than {self._max_unknown} unknown pieces")
        return " ".join(join_turns(turns[:-1]) + escape_marks(turns[-1]))
