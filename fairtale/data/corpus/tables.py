"""Read tables as text: comma, semicolon, tab or bar between columns, with or without a header."""

import csv
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from .heads import Head
from .records import ByteStream, read_text_records
from .report import INVALID_UTF8, CorpusReport

BAD_ROW = "a row that is not CSV, such as one with an open quotation mark"
NO_COLUMN = "a row without that column"

DELIMITERS = (",", ";", "\t", "|")
_MAX_ROW_BYTES = 4 << 20
_MAX_ROW_LINES = 2000  # a row with more has an open quotation mark
_MAX_CELL_OF_HEADER = 48
_ROWS_LOOKED_AT = 200
_NAME = re.compile(r"[^\W\d][\w-]*(?:\.[\w-]+)*")
csv.field_size_limit(_MAX_ROW_BYTES)


class Dialect(NamedTuple):
    """How the cells of a table are separated and quoted."""

    delimiter: str
    quoted: bool = True  # a quotation mark at the beginning of a cell encloses it
    backslash: bool = False  # a quotation mark inside is written \\" instead of ""


class Row(NamedTuple):
    """A row of a table."""

    place: str  # ``file:line``
    cells: list[str]
    num_bytes: int
    num_lines: int


class _Damage(CorpusReport):
    """Counts the rows of a head that are not CSV; nobody sees it."""

    def lines(self) -> Iterator[str]:
        """Yield nothing."""
        yield from ()

    def as_dict(self) -> dict[str, Any]:
        """Return nothing."""
        return {}


class Table(NamedTuple):
    """What the head of a file tells of a table."""

    dialect: Dialect
    columns: list[str]  # the names in the header, stripped
    share: float  # of the rows that have as many cells as the header
    rows: list[list[str]]  # the first rows below it
    num_uneven: int  # rows with another number of cells, or that are not CSV

    @property
    def is_even(self) -> bool:
        """Whether nearly all rows have as many cells as the header."""
        return self.share >= 0.9 or self.num_uneven <= 2 and self.share >= 0.5


def parse(lines: list[str], dialect: Dialect) -> list[list[str]]:
    """Return the rows of whole lines.

    Raises:
        csv.Error: the lines are not whole rows of this dialect.
    """
    return list(
        csv.reader(
            (line + "\n" for line in lines),
            delimiter=dialect.delimiter,
            quoting=csv.QUOTE_MINIMAL if dialect.quoted else csv.QUOTE_NONE,
            escapechar="\\" if dialect.backslash else None,
            doublequote=not dialect.backslash,
            strict=True,
        )
    )


def read_rows(
    stream: ByteStream, name: str, report: CorpusReport, dialect: Dialect
) -> Iterator[Row]:
    """Yield the rows of a table; blank lines are passed over.

    A row that is not CSV costs its first line and not the rows behind it: after an open quotation
    mark, reading goes on with the next line. A row with bytes that are not UTF-8 is lost, and
    nothing is joined to its neighbours.

    Args:
        stream: a binary file.
        name: name of the file, for places.
        report: counts the rows that are lost.
        dialect: how cells are separated.
    """
    waiting: list[tuple[int, str]] = []  # lines that are read again after an open quote
    source = _lines(stream, name, report)
    held: list[tuple[int, str]] = []  # lines of the row that is being read
    size = 0  # their bytes
    while True:
        following = waiting.pop() if waiting else next(source, None)
        if following is not None:
            if not held and not following[1].strip():
                continue
            held.append(following)
            size += _size(following[1])
        elif not held:
            return
        number, first = held[0]
        cells, is_open = _row([text for _, text in held], dialect)
        fits = size <= _MAX_ROW_BYTES and len(held) < _MAX_ROW_LINES
        if is_open and following is not None and fits:
            continue  # a quotation mark is open: the row goes on in the next line
        place = f"{name}:{number}"
        if cells is None:
            report.skip(BAD_ROW, place, _size(first))
            waiting += held[:0:-1]
        elif any("\udc80" <= c <= "\udcff" for cell in cells for c in cell if c > "\ud7ff"):
            report.skip(INVALID_UTF8, place, size, len(held))
        else:
            yield Row(place, cells, size, len(held))
        held, size = [], 0


def _size(line: str) -> int:
    return len(line.encode("utf-8", "surrogateescape")) + 1


def _row(lines: list[str], dialect: Dialect) -> tuple[list[str] | None, bool]:
    """Return the cells of a row, and whether a quotation mark is still open at its end."""
    if dialect.quoted and len(lines) > 1 and '"' not in lines[-1]:
        return None, True
    try:
        rows = parse(lines, dialect)
    except csv.Error as error:
        return None, "unexpected end" in str(error)
    return rows[0] if len(rows) == 1 else None, False


def _lines(stream: ByteStream, name: str, report: CorpusReport) -> Iterator[tuple[int, str]]:
    records = read_text_records(
        stream, b"\n", _MAX_ROW_BYTES, name, report, errors="surrogateescape"
    )
    for number, text in records:
        if text is not None:
            yield number, text.removesuffix("\r")


# ---------------------------------------------------------------------------- recognition


def find_table(head: Head, delimiters: tuple[str, ...] = DELIMITERS) -> Table | None:
    """Return the table that a file holds, or None if it has no header with such rows below it.

    A header has short names that are all different and no numbers, and at least nine tenths of
    the rows have as many cells. Of several delimiters, the one with the most columns wins.
    """
    found: list[Table] = []
    for delimiter in delimiters:
        if delimiter not in next(iter(head.spoken), ""):
            continue
        candidates = [Dialect(delimiter), Dialect(delimiter, backslash=True)]
        if delimiter == "\t":
            candidates.append(Dialect(delimiter, quoted=False))
        tables = [_table(head, dialect) for dialect in candidates]
        best = max((t for t in tables if t), key=lambda table: table.share, default=None)
        if best is not None and best.is_even:
            found.append(best)
    return max(found, key=lambda table: len(table.columns), default=None)


def one_column(head: Head) -> Table | None:
    """Return the table of a file whose header is a single name, with quoted or plain rows."""
    lines = head.spoken
    if not lines or len(lines[0]) > _MAX_CELL_OF_HEADER:
        return None
    tables = [_table(head, Dialect(",")), _table(head, Dialect(",", backslash=True))]
    table = max((t for t in tables if t), key=lambda table: table.share, default=None)
    return table if table and len(table.columns) == 1 else None


def _table(head: Head, dialect: Dialect) -> Table | None:
    damage = _Damage()
    stream = io.BytesIO("\n".join(head.lines).encode("utf-8", "replace"))
    rows = [
        row.cells
        for row in itertools.islice(
            read_rows(stream, head.place, damage, dialect), _ROWS_LOOKED_AT + 1
        )
    ]
    if not rows:
        return None
    columns = [cell.strip().lstrip("\ufeff") for cell in rows[0]]
    if not _are_names(columns) or f"{head.place}:1" in damage.places.get(BAD_ROW, ()):
        return None
    alike = sum(len(row) == len(columns) for row in rows[1:])
    num_rows = len(rows) - 1 + damage.skipped[BAD_ROW]
    share = alike / num_rows if num_rows else 1.0
    return Table(dialect, columns, share, rows[1:], num_rows - alike)


def _are_names(cells: list[str]) -> bool:
    """Return whether cells can be the names of columns; the first may be empty (an index)."""
    names = [cell.casefold() for cell in cells]
    if len(set(names)) < len(names) or not all(names[1:]) or not any(names):
        return False
    return all(
        len(name) <= _MAX_CELL_OF_HEADER and not name.replace(".", "").isdigit() for name in names
    )


def is_header_row(cells: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Return whether a first row looks like names, since the rows below look like sentences.

    Names have no spaces and no punctuation; most rows below have a cell with a space.
    """
    if len(cells) < 2 or not rows or not all(map(_NAME.fullmatch, map(str.strip, cells))):
        return False
    sentences = sum(any(" " in cell.strip() for cell in row) for row in rows)
    return sentences >= 0.8 * len(rows)
