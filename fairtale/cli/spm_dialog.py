"""What ``spm train --dialog`` and ``spm encode --dialog`` do with dialogs: turns, tabs, marks."""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ..data.corpus.text_lines import read_text_lines
from ..data.dialog.line_format import MARKS, escape_marks, join_turns
from ..data.dialog.text_formats import MAX_TURNS

TURN_SEPARATOR = "\t"
UNKNOWN_PIECE = "<unk>"  # fairseq's name for it, and SentencePiece's


class LeftOut(NamedTuple):
    """What takes the place of a line that is not encoded."""

    reason: str


class Encoded(NamedTuple):
    """What becomes of some lines."""

    texts: Sequence[str | LeftOut]  # one for each line
    num_pieces: int
    num_unknown: int  # pieces


def read_sides(path: str | os.PathLike[str]) -> Iterator[str]:
    """Read query and response of every dialog in a file, as sentences to learn pieces from.

    Older turns are left out: where a window slid over a conversation, each of them is the
    query or the response of another line.
    """
    for line in read_text_lines(path):
        yield from line.split(TURN_SEPARATOR)[-2:]


def add_marks(entries: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Return the entries of a dictionary with the marks of a dialog line, which come first.

    Args:
        entries: ``(piece, count)``. A piece that spells a mark is left out; see
            :func:`~fairtale.data.dialog.line_format.escape_marks`.
    """
    return [(mark, 0) for mark in MARKS] + [(p, n) for p, n in entries if p not in MARKS]


class DialogEncoder:
    """Turn lines of turns into lines ``context <CTX> query <SEP> response`` of pieces.

    Each turn is encoded alone, so its pieces do not depend on its neighbours.

    Args:
        processor: of SentencePiece.
        max_unknown: a dialog with a turn of more unknown pieces is left out.
    """

    def __init__(self, processor: Any, max_unknown: int) -> None:
        self._processor = processor
        self._max_unknown = max_unknown
        # By number and not as strings: SentencePiece spells an unknown piece with the
        # letters of the text, so a text could write fairseq's `</s>`, or a mark.
        self._pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
        self._pieces[processor.unk_id()] = UNKNOWN_PIECE

    def __call__(self, lines: list[str]) -> Encoded:
        """Return the encoded lines and their counts."""
        dialogs = [line.split(TURN_SEPARATOR) for line in lines]
        flat = [turn for turns in dialogs if len(turns) <= MAX_TURNS for turn in turns]
        encoded = iter(self._processor.encode(flat))
        texts = [self._encode(turns, encoded) for turns in dialogs]
        kept = [text.split(" ") for text in texts if isinstance(text, str)]
        num_unknown = sum(text.count(UNKNOWN_PIECE) for text in kept)
        return Encoded(texts, sum(map(len, kept)), num_unknown)

    def _encode(self, texts: list[str], encoded: Iterator[list[int]]) -> str | LeftOut:
        """Return one dialog as a line of pieces, taking as many encoded turns as it has."""
        if len(texts) > MAX_TURNS:
            return LeftOut(f"more than {MAX_TURNS} turns")
        turns = [[self._pieces[i] for i in next(encoded)] for _ in texts]
        if len(turns) < 2:
            return LeftOut("no response")
        if not turns[-2]:
            return LeftOut("empty query")
        if not turns[-1]:
            return LeftOut("empty response")
        if max(turn.count(UNKNOWN_PIECE) for turn in turns) > self._max_unknown:
            return LeftOut(f"a turn with more than {self._max_unknown} unknown pieces")
        return " ".join(join_turns(turns[:-1]) + escape_marks(turns[-1]))
