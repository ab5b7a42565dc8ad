"""Find and read the two files of parallel text, and locate missing lines."""

import itertools
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ...errors import UserError
from ..corpus.text_lines import read_text_lines
from .sgm import read_sgm_pair

# Costs of two lines that differ in length (at most) and in the numbers that they contain.
_MAX_LENGTH_COST, _NUMBER_COST = 2.0, 2.0
_NUMBER = re.compile(r"\d+")
_SHOWN = 60  # number of characters of a line that an error message shows


@dataclass(frozen=True)
class ParallelFiles:
    """Two files of parallel text: plain text aligned line by line, or SGML."""

    source: str
    target: str

    @property
    def is_sgm(self) -> bool:
        """Whether the files are SGML, the format of WMT's test sets."""
        return self.source.endswith(".sgm")

    def read(self) -> Iterator[tuple[str, str]]:
        """Yield ``(source line, target line)``.

        Raises:
            UserError: the files do not match each other, or a line is not UTF-8.
        """
        if self.is_sgm:
            yield from read_sgm_pair(self.source, self.target)
            return
        check_lengths(self)
        yield from zip(_lines(self.source), _lines(self.target), strict=True)


def _lines(path: str) -> Iterator[str]:
    # A line removed from one file only would shift all lines after it.
    return read_text_lines(path, "convert the file to UTF-8, or correct that line; keep every line")


def find_parallel(name: str, source_lang: str, target_lang: str, option: str) -> ParallelFiles:
    """Return the two files that the value of an option names.

    Args:
        name: ``PREFIX`` of PREFIX.en and PREFIX.ru, or of PREFIX-src.en.sgm and
            PREFIX-ref.ru.sgm as in WMT's archives, or two file names separated by a comma.
        source_lang, target_lang: the languages, which are the extensions of the files.
        option: name of the option, for the error message.

    Raises:
        UserError: the files do not exist.
    """
    if "," in name and not os.path.exists(f"{name}.{source_lang}"):
        parts = name.split(",")
        if len(parts) != 2:
            raise UserError(f"{option} {name}: give a prefix, or two files SOURCE,TARGET")
        tried = [(parts[0], parts[1])]
    else:
        tried = [
            (f"{name}.{source_lang}", f"{name}.{target_lang}"),
            (f"{name}-src.{source_lang}.sgm", f"{name}-ref.{target_lang}.sgm"),
        ]
    for pair in tried:
        if all(map(os.path.isfile, pair)):
            if len({path.endswith(".sgm") for path in pair}) == 2:
                raise UserError(f"{option} {name}: one file is .sgm and the other is not")
            return ParallelFiles(*pair)
    near = [pair for pair in tried if any(map(os.path.isfile, pair))] or tried
    missing = [path for path in near[0] if not os.path.isfile(path)]
    raise UserError(
        f"{option} {name}: no file {' and no file '.join(missing)}"
        + (f" (nor {' and '.join(tried[1])})" if len(near) == 2 else "")
    )


# -------------------------------------------------------------- files of unequal length


def check_lengths(files: ParallelFiles) -> None:
    """Check that both files have the same number of lines.

    Raises:
        UserError: the numbers differ; the message gives the line where lines seem to be missing.
    """
    sizes = [_count_lines(path) for path in (files.source, files.target)]
    if sizes[0] == sizes[1]:
        return
    source, target = list(_lines(files.source)), list(_lines(files.target))
    place = first_difference(source, target)
    shown = []
    for path, lines in ((files.source, source), (files.target, target)):
        line = lines[place] if place < len(lines) else None
        text = "no line" if line is None else repr(line[:_SHOWN])
        shown.append(f"{os.path.basename(path)}: {text}")
    raise UserError(
        f"{files.source} has {sizes[0]} lines and {files.target} {sizes[1]}; "
        f"they seem to diverge at line {place + 1} ({'; '.join(shown)})"
    )


def _count_lines(path: str) -> int:
    count, last = 0, b"\n"
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            count += block.count(b"\n")
            last = block[-1:]
    return count + (last != b"\n")


def first_difference(source: list[str], target: list[str]) -> int:
    """Return the index at which one of two texts probably lacks lines.

    The surplus lines of the longer text are assumed to be adjacent. For each possible index, the
    lines before it are compared one to one, and the lines after it with the offset of the surplus.
    Two lines are compared by the ratio of their lengths and by the numbers that they contain. The
    index with the lowest total cost is returned.
    """
    swap = len(source) > len(target)
    short, long = (target, source) if swap else (source, target)
    surplus = len(long) - len(short)
    mean = [(sum(map(len, lines)) + 1) / (len(lines) + 1) for lines in (short, long)]
    ratio = mean[0] / mean[1]
    a, b = [_features(line) for line in short], [_features(line) for line in long]
    before = itertools.accumulate((_cost(x, y, ratio) for x, y in zip(a, b)), initial=0.0)
    behind = [_cost(x, y, ratio) for x, y in zip(a, b[surplus:])]
    rest = math.fsum(behind)
    best, place = math.inf, 0
    for index, cost in enumerate(before):
        if cost + rest < best - 1e-9:
            best, place = cost + rest, index
        if index < len(behind):
            rest -= behind[index]
    return place


def _features(line: str) -> tuple[int, frozenset[str]]:
    """Return the length of a line and the numbers in it."""
    return len(line), frozenset(_NUMBER.findall(line))


def _cost(
    short: tuple[int, frozenset[str]], long: tuple[int, frozenset[str]], ratio: float
) -> float:
    """Return the cost of aligning two lines, given their features.

    Args:
        short, long: features of a line of the shorter and of the longer text.
        ratio: mean line length of the shorter text divided by that of the longer text.
    """
    (a, numbers_a), (b, numbers_b) = short, long
    distance = abs(math.log((a + 1) / (b * ratio + 1)))
    return min(distance, _MAX_LENGTH_COST) + _NUMBER_COST * (numbers_a != numbers_b)
