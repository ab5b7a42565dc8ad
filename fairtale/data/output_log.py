"""Parse the output of fairseq-generate and fairseq-interactive.

Each input has a number. A line ``S-number`` holds the source, ``H-number`` the score and the
pieces of a hypothesis, and ``D-number`` its score and its text. fairseq-generate prints the
inputs in the order of their lengths. All texts are kept as bytes, because the output of a model
need not be valid UTF-8.

A text of a byte-level tokenizer may contain line breaks. The line ``P-number`` with the scores of
its tokens follows every text, and shows where it ends.
"""

import os
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..errors import UserError

_LINE = re.compile(rb"([SHD])-(\d+)(?:\t(.*))?", re.DOTALL)
_OTHER_LINE = re.compile(rb"[A-OQ-Z]-\d+(?:\t.*)?", re.DOTALL)
_SCORES = re.compile(rb"P-(\d+)\t[-+.\deinfa ]*")


class Output(NamedTuple):
    """One hypothesis of a model."""

    number: int  # number of the input
    source: bytes | None  # pieces of the input; None if the log does not contain them
    text: bytes


def read_output(path: str, kind: str = "D") -> list[Output]:
    """Return the hypotheses in a log, in the order of their inputs, the best of each input first.

    Args:
        path: what fairseq-generate or fairseq-interactive has printed.
        kind: ``D`` to read text, ``H`` to read pieces.

    Raises:
        UserError: the file does not exist.
    """
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such log file")
    with open(path, "rb") as stream:
        outputs = list(parse_output(stream, kind))
    return sorted(outputs, key=lambda output: output.number)


def parse_output(lines: Iterable[bytes], kind: str) -> Iterator[Output]:
    """Yield the hypotheses of a log in the order of its lines; see :func:`read_output`."""
    sources: dict[int, bytes] = {}
    for line in _joined(lines):
        found = _LINE.fullmatch(line)
        if found is None:
            continue
        letter, number, rest = found[1].decode(), int(found[2]), found[3] or b""
        if letter == "S":
            sources[number] = rest
        elif letter == kind:
            _score, _, text = rest.partition(b"\t")
            yield Output(number, sources.get(number), text)


def _joined(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of a log without their line feeds, each text with all of its lines."""
    text: bytes | None = None
    number, more = b"", list[bytes]()  # lines that belong to the text if its scores follow
    for line in lines:
        line = line.removesuffix(b"\n")
        ends = _SCORES.fullmatch(line)
        if text is not None and not ends and not _OTHER_LINE.fullmatch(line):
            more.append(line)
            continue
        if text is not None:
            yield b"\n".join([text, *more]) if ends and ends[1] == number else text
            text, more = None, []
        if line.startswith(b"D-"):
            text, number = line, line[2:].partition(b"\t")[0]
        else:
            yield line
    if text is not None:
        yield text
