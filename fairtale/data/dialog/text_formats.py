"""Read dialogs from text files: plain lines, JSON lines, TSV and CSV.

Each reader takes a binary stream, the name of the file and the report.
"""

import csv
from collections.abc import Iterator

from ...errors import UserError
from ..corpus.records import ByteStream
from .records import DialogReport, RawDialog, read_json_lines, read_text

NO_TURNS = "no list of turns"
NO_COLUMN = "no question or no answer column"
NO_PAIR = "no text q or no text a"
TOO_MANY_TURNS = "too many turns"

# A line with more turns is taken for a table or for damaged data, not for a dialog.
MAX_TURNS = 1000
# Maximum number of lines of a document; the plain text of OPUS does not mark their ends.
_DOCUMENT_LINES = 10_000
# The first lines of a document identify it: equal first lines mean the same film.
_GROUP_LINES = 5

_QUESTION, _ANSWER = ("q", "question"), ("a", "answer")


def read_lines(stream: ByteStream, name: str, report: DialogReport) -> Iterator[RawDialog]:
    """Read documents in which every line answers the lines before it."""
    turns, start = list[str](), 1
    for line, text in read_text(stream, name, report):
        blank = not text.strip()
        if turns and (blank or len(turns) == _DOCUMENT_LINES):
            yield RawDialog(turns, "\n".join(turns[:_GROUP_LINES]), f"{name}:{start}", True)
            turns = []
        if not blank:
            start = start if turns else line
            turns.append(text)
    if turns:
        yield RawDialog(turns, "\n".join(turns[:_GROUP_LINES]), f"{name}:{start}", True)


def read_conversations(stream: ByteStream, name: str, report: DialogReport) -> Iterator[RawDialog]:
    """Read conversations: one JSON object with ``turns`` and an optional ``id`` a line."""
    for place, record in read_json_lines(stream, name, report):
        turns = record.get("turns")
        if not (isinstance(turns, list) and turns and all(isinstance(t, str) for t in turns)):
            report.skip(NO_TURNS, place)
            continue
        group = record.get("id")
        yield RawDialog(turns, turns[0] if group is None else str(group), place, True)


def read_pairs(stream: ByteStream, name: str, report: DialogReport) -> Iterator[RawDialog]:
    """Read pairs from JSON lines: ``{"q", "a"}`` or ``{"question", "answer"}``, and other fields.

    The group is the question, so that its answers share a subset.
    """
    for place, record in read_json_lines(stream, name, report):
        for fields in zip(_QUESTION, _ANSWER):
            pair = [text for text in map(record.get, fields) if isinstance(text, str)]
            if len(pair) == 2:
                yield RawDialog(pair, pair[0], place)
                break
        else:
            report.skip(NO_PAIR, place)


def find_fields(line: bytes) -> bool:
    """Return whether a JSON object, perhaps cut short, has a question and an answer."""
    return any(
        all(f'"{field}"'.encode() in line for field in fields) for fields in zip(_QUESTION, _ANSWER)
    )


def read_tsv(stream: ByteStream, name: str, report: DialogReport) -> Iterator[RawDialog]:
    """Read dialogs whose turns are separated by tabs; the group is the first turn."""
    for line, text in read_text(stream, name, report):
        if not text.strip():
            continue
        turns, place = text.split("\t"), f"{name}:{line}"
        if len(turns) > MAX_TURNS:
            report.skip(f"{TOO_MANY_TURNS}, over {MAX_TURNS}", place)
            continue
        yield RawDialog(turns, turns[0], place)


def read_csv(stream: ByteStream, name: str, report: DialogReport) -> Iterator[RawDialog]:
    """Read pairs from the columns Q and A (or question and answer); the group is the question.

    Raises:
        UserError: the header lacks a column, or the file is not CSV.
    """
    end = 0  # number of the last line that was read

    def lines() -> Iterator[str]:
        nonlocal end
        for end, text in read_text(stream, name, report):  # noqa: B007
            yield text + "\n"

    rows = csv.reader(lines())
    columns = None
    while True:
        place = f"{name}:{end + 1}"
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise UserError(f"{place}: not CSV ({error})") from None
        if row is None:
            break
        if columns is None:
            columns = find_columns(row)
            if columns is None:
                raise UserError(f"{place}: no columns Q and A, or question and answer")
        elif any(row):
            if len(row) <= max(columns):
                report.skip(NO_COLUMN, place)
                continue
            question, answer = (row[column] for column in columns)
            yield RawDialog([question, answer], question, place)


def find_columns(header: list[str]) -> list[int] | None:
    """Return the indices of question and answer in a CSV header, or None."""
    names = [name.strip().strip('"').lower() for name in header]
    places = [
        next(i for i, name in enumerate(names) if name in wanted)
        for wanted in (_QUESTION, _ANSWER)
        if set(names) & set(wanted)
    ]
    return places if len(places) == 2 else None
