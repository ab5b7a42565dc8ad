"""Where the two sides of parallel text lie, and what is wrong where they do not fit."""

import itertools
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ...errors import UserError
from ..corpus.text_lines import read_text_lines
from .sgm import read_sgm_pair

# Lines are compared by their length and their numbers: how much each difference weighs.
_MAX_LENGTH_COST, _NUMBER_COST = 2.0, 2.0
_NUMBER = re.compile(r"\d+")
_SHOWN = 60  # characters of a line in an error


@dataclass(frozen=True)
class ParallelFiles:
    """Two files: line N of one is the translation of line N of the other, or SGML."""

    source: str
    target: str

    @property
    def is_sgm(self) -> bool:
        """Whether the files are SGML, as WMT's sets are published."""
        return self.source.endswith(".sgm")

    def read(self) -> Iterator[tuple[str, str]]:
        """Yield ``(source line, target line)``.

        Raises:
            UserError: they do not fit each other, or a line is not UTF-8.
        """
        if self.is_sgm:
            yield from read_sgm_pair(self.source, self.target)
            return
        check_lengths(self)
        yield from zip(_lines(self.source), _lines(self.target), strict=True)


def _lines(path: str) -> Iterator[str]:
    # a line that is left out on one side would shift all that follow
    return read_text_lines(path, "convert the file to UTF-8, or mend that line; keep every line")


def find_parallel(name: str, source_lang: str, target_lang: str, option: str) -> ParallelFiles:
    """Return the two files that ``name`` stands for.

    Args:
        name: ``PREFIX`` of PREFIX.en and PREFIX.ru, or of PREFIX-src.en.sgm and
            PREFIX-ref.ru.sgm as in WMT's archives; or two files joined by a comma.
        source_lang, target_lang: the ends of their names.
        option: for the error.

    Raises:
        UserError: there are no such files.
    """
    if "," in name and not os.path.exists(f"{name}.{source_lang}"):
        parts = name.split(",")
        if len(parts) != 2:
            raise UserError(f"{option} {name}: a prefix, or two files SOURCE,TARGET")
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


# ------------------------------------------------------------------ files that do not fit


def check_lengths(files: ParallelFiles) -> None:
    """Compare the numbers of lines.

    Raises:
        UserError: they differ; the message says where, as far as that can be told.
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
        f"they seem to part at line {place + 1} ({'; '.join(shown)})"
    )


def _count_lines(path: str) -> int:
    count, last = 0, b"\n"
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            count += block.count(b"\n")
            last = block[-1:]
    return count + (last != b"\n")


def first_difference(source: list[str], target: list[str]) -> int:
    """Return the index where one of two texts lacks lines, as their lengths and numbers suggest.

    The longer text is taken to have its surplus in one place. For each place the lines
    before it are compared one to one and those behind it with that offset: by the ratio of
    their lengths and by the numbers in them. The cheapest place wins.
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
    """Return how badly two lines fit, given their features."""
    (a, numbers_a), (b, numbers_b) = short, long
    distance = abs(math.log((a + 1) / (b * ratio + 1)))
    return min(distance, _MAX_LENGTH_COST) + _NUMBER_COST * (numbers_a != numbers_b)
