"""Read works from records: JSON lines or lists, tables and parquet, with a work in a field each."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ..corpus.containers import CountedStream, named_damage, open_stream
from ..corpus.heads import look, refuse_foreign
from ..corpus.parquet import MAGIC
from ..corpus.record_files import JSON_LINES, read_record_file, recognise
from ..corpus.records import ByteStream, read_records
from ..corpus.report import INVALID_UTF8, TOO_LONG
from .fields import FieldNames
from .records import NO_FIELD, NOT_JSON, NOT_TEXT, DocumentReport, OnBytes, RawDocument
from .text_files import max_bytes

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# A JSON escape has up to six bytes for two bytes of UTF-16 (\u0430), and the line has other fields.
_LINE_BYTES_PER_CHAR = 12
_OTHER_FIELDS_BYTES = 1 << 20


class JsonLines:
    """A source of documents in the records of a file: lines of JSON, a list, or a table's rows.

    Args:
        path: the file.
        fields: names of the fields.
        markup: markup of the texts; None for plain text, or HTML where it has HTML tags.
        max_chars: maximum length of a document.
    """

    def __init__(self, path: str, fields: FieldNames, markup: str | None, max_chars: int) -> None:
        self.path = path
        self._fields = fields
        self._markup = markup or "plain"
        self._max_line_bytes = _LINE_BYTES_PER_CHAR * max_chars + _OTHER_FIELDS_BYTES
        self._max_bytes = max_bytes(max_chars)

    def read(self, report: DocumentReport, on_bytes: OnBytes) -> Iterator[RawDocument]:
        """Yield the documents; a line that holds none is counted."""
        with named_damage(self.path), open_stream(self.path, on_bytes) as stream:
            head, again = look(stream, self.path)
            if not head.data.startswith(MAGIC):
                refuse_foreign(head)
            file = recognise(head)
            counted = CountedStream(again, report)
            records: Iterator[tuple[str, Mapping[str, Any]]]
            if file is None or file.encoding == JSON_LINES:
                records = self._lines(counted, report)
            else:
                found = read_record_file(file, counted, self.path, report)
                records = ((record.place, record.fields) for record in found)
            for place, record in records:
                document = self._document(record, place, report)
                if document is not None:
                    yield document

    def _lines(
        self, stream: ByteStream, report: DocumentReport
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        size = (0, 0)

        def note(num_bytes: int, num_lines: int) -> None:
            nonlocal size
            size = (num_bytes, num_lines)

        for number, line in read_records(stream, b"\n", self._max_line_bytes, note):
            place = f"{self.path}:{number}"
            if line is None:
                report.skip(TOO_LONG, place, *size)
                continue
            line = line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
            record = _parse(line, place, report) if line.strip() else None
            if record is not None:
                yield place, record

    def _document(
        self, record: Mapping[str, Any], place: str, report: DocumentReport
    ) -> RawDocument | None:
        fields = self._fields
        is_dialog = fields.text is None and "text" not in record and "q" in record
        texts = [
            _text(record, key, place, report)
            for key in (("q", "a") if is_dialog else (fields.text or "text",))
        ]
        if None in texts:
            return None
        names = {key: name_of(record, key) for key in (fields.id, fields.work) if key is not None}
        for key, value in names.items():
            if value is None:
                report.skip(f"{NO_FIELD}: {key}", place)
                return None
        if fields.id is not None:
            name = names[fields.id]
        else:
            name = name_of(record, "id") or name_of(record, "title")
        group = name if fields.work is None else names[fields.work]
        text, answer = texts if is_dialog else (texts[0], None)
        assert text is not None
        return RawDocument(name or place, text, self._markup, place, group, answer=answer)


def _text(record: Mapping[str, Any], key: str, place: str, report: DocumentReport) -> str | None:
    """Return the text in a field, or None if there is none, which is counted."""
    text = record.get(key)
    if isinstance(text, str):
        return text
    if key in record:
        report.skip(f"{NOT_TEXT}, field {key}", place)
    else:
        report.skip(f"{NO_FIELD}: {key}", place)
    return None


def name_of(record: Mapping[str, Any], key: str) -> str | None:
    """Return a field as a name, or None if it is missing, empty, or no text or number."""
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return str(value).strip() or None


def _parse(line: bytes, place: str, report: DocumentReport) -> dict[str, Any] | None:
    """Return the object of a line, or None if there is none, which is counted."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        report.skip(INVALID_UTF8, f"{place} (byte 0x{line[error.start]:02x})", len(line))
        return None
    try:
        record = json.loads(text, strict=False)  # the cleaning removes raw control characters
    except json.JSONDecodeError as error:
        report.skip(NOT_JSON, f"{place} ({error.msg} at character {error.pos + 1:,})", len(line))
        return None
    except (RecursionError, ValueError):  # ValueError: a number of thousands of digits
        report.skip(NOT_JSON, f"{place} (nested too deeply, or a number too long)", len(line))
        return None
    if not isinstance(record, dict):
        report.skip(NOT_JSON, place, len(line))
        return None
    return record
