"""Find and read parallel text: two files, or one with both languages."""

import itertools
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ...errors import UserError
from ..corpus.containers import PACKED, named_damage, open_stream
from ..corpus.heads import Format, Head, refuse_foreign, unknown_layout
from ..corpus.opening import look_at, open_files
from ..corpus.parquet import MAGIC
from ..corpus.plausible import JSON, MARKUP, has_cut_words, share
from ..corpus.record_files import RecordFile, recognise
from ..corpus.report import CorpusReport
from ..corpus.tables import is_header_row
from ..corpus.text_lines import read_text_lines
from .records import PairReport
from .sgm import read_sgm_pair
from .single_file import (
    SIDES,
    find_columns,
    find_sides,
    read_columns,
    read_sides,
    read_tmx,
    read_wmt,
)

PAGE = "docs/translation.md"
FORMATS = (
    Format("lines", "two files aligned line by line", "Hello, world!"),
    Format("sgm", "two files of WMT's SGML, of source and reference",
           '<srcset setid="s"><doc docid="d"><seg id="1">Hello!</seg></doc></srcset>'),
    Format("wmt", "one XML file of WMT since 2021, with source and reference",
           '<dataset id="s"><doc id="d"><src lang="en"><p><seg id="1">Hello!</seg></p></src>'
           '<ref lang="ru"><p><seg id="1">Привет!</seg></p></ref></doc></dataset>'),
    Format("tmx", "one TMX file",
           '<tmx version="1.4"><body><tu><tuv xml:lang="en"><seg>Hello!</seg></tuv>'
           '<tuv xml:lang="ru"><seg>Привет!</seg></tuv></tu></body></tmx>'),
    Format("records", "one file of JSON lines, CSV or parquet with a field for each language",
           '{"translation": {"en": "Hello!", "ru": "Привет!"}}'),
    Format("tsv", "one file with tabs between source and target", "Hello!\tПривет!"),
)  # fmt: skip
NAMES = tuple(one.name for one in FORMATS)

# Costs of two lines that differ in length (at most) and in the numbers that they contain.
_MAX_LENGTH_COST, _NUMBER_COST = 2.0, 2.0
_NUMBER = re.compile(r"\d+")
_SHOWN = 60  # number of characters of a line that an error message shows
_SGM = r"(?:<\?xml[^>]*>\s*)?(?:<!DOCTYPE[^>]*>\s*)?<(?i:srcset|refset|tstset|mteval|doc)\b"


@dataclass(frozen=True)
class ParallelFiles:
    """Parallel text in two files, or in one.

    Args:
        source: the file of the source language, or of both.
        target: the file of the target language; None if one file has both.
        languages: codes of the languages, to find them in one file.
        asked: value of ``--format``; None recognises it.
        fields: value of ``--fields``.
    """

    source: str
    target: str | None
    languages: tuple[str, str] = ("", "")
    asked: str | None = None
    fields: Sequence[str] = field(default=())

    @property
    def layout(self) -> str:
        """The name of the format, one of :data:`NAMES`.

        Raises:
            UserError: it is not known, or the two files differ in it.
        """
        paths = [path for path in (self.source, self.target) if path is not None]
        found = [self.asked or _layout(look_at(path), len(paths)) for path in paths]
        if len(set(found)) > 1:
            raise UserError(
                f"{paths[0]} is {found[0]} and {paths[1]} is {found[1]}: give two alike"
            )
        alone = found[0] not in ("lines", "sgm")
        if alone != (self.target is None):
            rule = "one file with both languages" if alone else "two files, as SOURCE,TARGET"
            raise UserError(f"{paths[-1]}: the format {found[0]} is of {rule}")
        return found[0]

    @property
    def is_sgm(self) -> bool:
        """Whether the files are SGML, the format of WMT's test sets."""
        return self.layout == "sgm"

    def read(self, report: CorpusReport | None = None) -> Iterator[tuple[str, str]]:
        """Yield ``(source line, target line)``.

        Args:
            report: counts records of one file that are damaged.

        Raises:
            UserError: the files do not match each other, or a line is not UTF-8.
        """
        layout = self.layout
        if self.target is None:
            yield from self._read_one(layout, report or PairReport(strict=True))
        elif layout == "sgm":
            yield from read_sgm_pair(self.source, self.target)
        else:
            check_lengths(self)
            yield from zip(_lines(self.source), _lines(self.target), strict=True)

    def _read_one(self, layout: str, report: CorpusReport) -> Iterator[tuple[str, str]]:
        with named_damage(self.source):
            for file in open_files(self.source, (), report):
                head, stream, name = file.head, file.stream, file.name
                if layout == "tmx":
                    yield from read_tmx(stream, name, self.languages)
                elif layout == "wmt":
                    yield from read_wmt(stream, name, self.languages)
                elif layout == "records" and (records := recognise(head)):
                    sides = find_sides(records, head, self.languages, self.fields)
                    yield from read_sides(records, sides, stream, name, report)
                else:
                    dialect, columns = find_columns(head, self.fields)
                    yield from read_columns(dialect, columns, stream, name, report)


def _layout(head: Head, num_files: int) -> str:
    """Return the format of a file by its content.

    Raises:
        UserError: it is not known.
    """
    if head.data.startswith(MAGIC):
        return "records"
    refuse_foreign(head)
    if head.begins(_SGM):
        return "sgm"
    if head.name.endswith((".sgm", ".sgml")):
        raise unknown_layout(head, "no SGML of a WMT set in it", FORMATS, PAGE)
    text = "\n".join(head.lines[:50])
    root = re.search(r"<([A-Za-z][\w:.-]*)", text) if head.begins(r"<") else None
    if root and root[1].lower() in ("dataset", "tmx"):
        return "tmx" if root[1].lower() == "tmx" else "wmt"
    lines = head.spoken
    if num_files == 1:
        file = recognise(head)
        if file is not None and not (file.dialect and _is_a_pair(file)):
            return "records"
        if not head.begins(r"<\?xml"):
            return "tsv"
    for pattern, what in ((MARKUP, "begin with markup"), (JSON, "look like JSON")):
        found = share(lines, pattern.match)
        if lines and found >= 0.5 or len(lines) >= 3 and found >= 0.1:
            seen = f"{100 * found:.0f} % of its lines {what}"
            raise unknown_layout(head, seen, FORMATS, PAGE)
    if len(lines) >= 3 and has_cut_words(lines):
        raise unknown_layout(head, "its words are cut into pieces (@@, ▁): give the text before",
                             FORMATS, PAGE)  # fmt: skip
    if len(lines) >= 3 and share(lines, lambda line: "\t" in line) >= 0.5:
        raise unknown_layout(head, "half of its lines have tabs, as one file with both languages "
                             "has: give it alone", FORMATS, PAGE)  # fmt: skip
    return "lines"


def _is_a_pair(file: RecordFile) -> bool:
    """Return whether the first row of a table is rather a pair of sentences than a header."""
    known = {name for pair in SIDES for name in pair}
    if known & {name.casefold() for name in file.fields}:
        return False
    rows = [list(map(str, sample.values())) for sample in file.samples]
    return not is_header_row(file.fields, rows)


def _lines(path: str) -> Iterator[str]:
    # A line removed from one file only would shift all lines after it.
    remedy = "convert the file to UTF-8, or correct that line; keep every line"
    with named_damage(path):
        yield from read_text_lines(path, remedy, opened=open_stream(path))


def find_parallel(
    name: str,
    source_lang: str,
    target_lang: str,
    option: str,
    asked: str | None = None,
    fields: Sequence[str] = (),
) -> ParallelFiles:
    """Return the files that the value of an option names.

    Args:
        name: ``PREFIX`` of PREFIX.en and PREFIX.ru, or of PREFIX-src.en.sgm and
            PREFIX-ref.ru.sgm as in WMT's archives, also with ``.gz``; two file names separated by
            a comma; or one file with both languages.
        source_lang, target_lang: the languages, which are the extensions of the files.
        option: name of the option, for the error message.
        asked: value of ``--format``.
        fields: value of ``--fields``.

    Raises:
        UserError: the files do not exist.
    """
    languages = (source_lang, target_lang)
    if "," in name and not os.path.exists(f"{name}.{source_lang}"):
        parts = name.split(",")
        if len(parts) != 2:
            raise UserError(f"{option} {name}: give a prefix, one file, or two files SOURCE,TARGET")
        tried = [(parts[0], parts[1])]
    else:
        plain = [
            (f"{name}.{source_lang}", f"{name}.{target_lang}"),
            (f"{name}-src.{source_lang}.sgm", f"{name}-ref.{target_lang}.sgm"),
        ]
        tried = [(f"{a}{z}", f"{b}{z}") for z in ("", *PACKED) for a, b in plain]
    for pair in tried:
        if all(map(os.path.isfile, pair)):
            found = ParallelFiles(*pair, languages, asked, fields)
            found.layout  # noqa: B018 (it refuses what is not known before anything is read)
            return found
    if os.path.isfile(name):
        found = ParallelFiles(name, None, languages, asked, fields)
        found.layout  # noqa: B018
        return found
    near = [pair for pair in tried if any(map(os.path.isfile, pair))] or tried[:2]
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
    assert files.target is not None
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
    with named_damage(path), open_stream(path) as stream:
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
