"""The texts in what fairseq-generate and fairseq-interactive print.

Each input has a number. ``S-number`` is the source, ``H-number`` a hypothesis as pieces with
its score before it, ``D-number`` the same as text. fairseq-generate prints inputs in the order
of their lengths. Everything is read and kept as bytes: whatever a model writes goes through.
"""

import os
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..errors import UserError

_LINE = re.compile(rb"([SHD])-(\d+)(?:\t(.*))?", re.DOTALL)


class Output(NamedTuple):
    """One hypothesis."""

    number: int  # of its input
    source: bytes | None  # pieces; None: the log does not name it
    text: bytes


def read_output(path: str, kind: str = "D") -> list[Output]:
    """Return the hypotheses in a log, in the order of their inputs; the best of each first.

    Args:
        kind: ``D`` for text, ``H`` for pieces.

    Raises:
        UserError: there is no such file.
    """
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such log file")
    with open(path, "rb") as stream:
        outputs = list(parse_output(stream, kind))
    return sorted(outputs, key=lambda output: output.number)


def parse_output(lines: Iterable[bytes], kind: str) -> Iterator[Output]:
    """Yield the hypotheses among the lines of a log as they come."""
    sources: dict[int, bytes] = {}
    for line in lines:
        found = _LINE.fullmatch(line.removesuffix(b"\n"))
        if found is None:
            continue
        letter, number, rest = found[1].decode(), int(found[2]), found[3] or b""
        if letter == "S":
            sources[number] = rest
        elif letter == kind:
            _score, _, text = rest.partition(b"\t")
            yield Output(number, sources.get(number), text)
