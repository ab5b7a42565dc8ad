"""Read files whose records have named fields: JSON lines, JSON lists, tables and parquet."""

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from .heads import Head
from .json_values import read_json_list
from .parquet import MAGIC, parquet_columns, read_parquet
from .records import ByteStream, read_text_records
from .report import CorpusReport
from .tables import NO_COLUMN, Dialect, find_table, one_column, read_rows

NOT_JSON = "not a JSON object"
MAX_RECORD_BYTES = 16 << 20

JSON_LINES, JSON_LIST, TABLE, PARQUET = "jsonl", "json", "csv", "parquet"
_NUM_SAMPLES = 50


class Record(NamedTuple):
    """A record, or what stands in its place: ``fields`` is None for one that was lost."""

    place: str
    fields: Mapping[str, Any]
    num_bytes: int = 0
    num_lines: int = 1


class RecordFile(NamedTuple):
    """How the records of a file are encoded, and the fields of the first ones."""

    encoding: str  # JSON_LINES, JSON_LIST, TABLE or PARQUET
    fields: list[str]  # of the first records, in their order
    dialect: Dialect | None = None  # of a table
    samples: Sequence[Mapping[str, Any]] = ()  # the first records

    def named(self) -> str:
        """Return the encoding and the fields, for a message."""
        kind = {JSON_LINES: "JSON lines", JSON_LIST: "a JSON list", PARQUET: "parquet"}
        if self.dialect is not None:
            kind[TABLE] = f"a table separated by {self.dialect.delimiter!r}"
        fields = ", ".join(self.fields[:12]) or "none"
        return f"{kind[self.encoding]} with the fields {fields}"


def recognise(head: Head) -> RecordFile | None:
    """Return how a file encodes records, or None if it has no records with named fields.

    JSON is recognised by its first record; a table by its header and the width of its rows.
    """
    if head.data.startswith(MAGIC):
        rows = [fields for _, fields in itertools.islice(read_parquet(head.place), _NUM_SAMPLES)]
        return RecordFile(PARQUET, parquet_columns(head.place), samples=rows)
    first = next(iter(head.spoken), "").lstrip()
    if re.match(r"\{\s*(?:\"|$)", first):
        return _json_lines(head)
    if re.match(r"\[\s*(?:\{\s*(?:\"|$)|$)", first):
        first_of_list = _first_of_list(head)
        if first_of_list is None:
            return None
        return RecordFile(JSON_LIST, list(first_of_list), samples=[first_of_list])
    table = find_table(head)
    if table is None and head.name.endswith(".csv"):
        table = one_column(head)
    if table is None:
        return None
    samples = [dict(zip(table.columns, row)) for row in table.rows]
    return RecordFile(TABLE, table.columns, table.dialect, samples)


def _json_lines(head: Head) -> RecordFile | None:
    fields = dict[str, None]()
    lines = head.spoken[:_NUM_SAMPLES]
    samples = []
    for line in lines:
        try:
            value = json.loads(line, strict=False)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            samples.append(value)
            fields.update(dict.fromkeys(value))
    return RecordFile(JSON_LINES, list(fields), samples=samples) if samples else None


def _first_of_list(head: Head) -> dict[str, Any] | None:
    text = "\n".join(head.lines)
    start = text.index("[") + 1
    while start < len(text) and text[start].isspace():
        start += 1
    try:
        value, _ = json.JSONDecoder(strict=False).raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def read_record_file(
    file: RecordFile, stream: ByteStream, name: str, report: CorpusReport
) -> Iterator[Record]:
    """Yield the records of a file.

    Args:
        file: how its records are encoded.
        stream: a binary file; for parquet, only its path ``name`` is used.
        name: name of the file, for places.
        report: counts the records that are damaged.
    """
    if file.encoding == PARQUET:
        for place, fields in read_parquet(name):
            yield Record(place, fields)
    elif file.encoding == JSON_LIST:
        for item in read_json_list(stream, name):
            if isinstance(item.value, dict):
                yield Record(item.place, item.value, item.num_bytes, item.num_lines)
            else:
                report.skip(NOT_JSON, item.place, item.num_bytes, item.num_lines)
    elif file.encoding == JSON_LINES:
        yield from read_json_lines(stream, name, report)
    else:
        yield from _read_table(file, stream, name, report)


def read_json_lines(stream: ByteStream, name: str, report: CorpusReport) -> Iterator[Record]:
    """Yield the objects of a file with one a line; other lines that are not blank are counted."""
    for number, text in read_text_records(stream, b"\n", MAX_RECORD_BYTES, name, report):
        if text is None or not text.strip():
            continue
        place, size = f"{name}:{number}", len(text.encode("utf-8", "surrogatepass")) + 1
        try:
            value = json.loads(text, strict=False)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            yield Record(place, value, size)
        else:
            report.skip(NOT_JSON, place, size)


def _read_table(
    file: RecordFile, stream: ByteStream, name: str, report: CorpusReport
) -> Iterator[Record]:
    assert file.dialect is not None  # recognise() has set it
    rows = read_rows(stream, name, report, file.dialect)
    header = next(rows, None)
    if header is None:
        return
    columns = [cell.strip().lstrip("\ufeff") for cell in header.cells]
    for row in rows:
        if len(row.cells) != len(columns):
            report.skip(f"{NO_COLUMN}: {len(row.cells)} cells of {len(columns)}", row.place,
                        row.num_bytes, row.num_lines)  # fmt: skip
            continue
        yield Record(row.place, dict(zip(columns, row.cells)), row.num_bytes, row.num_lines)
