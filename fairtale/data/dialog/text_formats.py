"""Readers of dialogs in plain text: lines, JSON lines of conversations, tabs, CSV.

Each reader takes a binary stream, the file's name and the report.
"""

import csv
from collections.abc import Iterator

from ...errors import UserError
from ..corpus.records import ByteStream
from .records import DialogReport, RawDialog, read_json_lines, read_text

NO_TURNS = "no list of turns"
NO_COLUMN = "no question or no answer column"
TOO_MANY_TURNS = "too many turns"

# More tabs than this in a line are a table or a damaged file, not a dialog.
MAX_TURNS = 1000
# Where a corpus of lines does not say where documents end, as OPUS' plain text does not.
_DOCUMENT_LINES = 10_000
# The first lines of a document tell it from others; equal ones are the same film.
_GROUP_LINES = 5

_QUESTION, _ANSWER = ("q", "question"), ("a", "answer")


def read_lines(stream: ByteStream, name: str, report: DialogReport) -> Iterator[RawDialog]:
    """Read documents of lines, each of which answers those before it."""
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
    """Read conversations, one JSON object with ``turns`` (and maybe ``id``) a line."""
    for place, record in read_json_lines(stream, name, report):
        turns = record.get("turns")
        if not (isinstance(turns, list) and turns and all(isinstance(t, str) for t in turns)):
            report.skip(NO_TURNS, place)
            continue
        group = record.get("id")
        yield RawDialog(turns, turns[0] if group is None else str(group), place, True)


def read_tsv(stream: ByteStream, name: str, report: DialogReport) -> Iterator[RawDialog]:
    """Read dialogs of turns separated by tabs; their group is the first turn."""
    for line, text in read_text(stream, name, report):
        if not text.strip():
            continue
        turns, place = text.split("\t"), f"{name}:{line}"
        if len(turns) > MAX_TURNS:
            report.skip(f"{TOO_MANY_TURNS}, over {MAX_TURNS}", place)
            continue
        yield RawDialog(turns, turns[0], place)


def read_csv(stream: ByteStream, name: str, report: DialogReport) -> Iterator[RawDialog]:
    """Read pairs from the columns Q and A (or question and answer); the question is their group.

    Raises:
        UserError: the header lacks a column, or the file is not CSV.
    """
    end = 0  # the line that was read last

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
    """Return the places of question and answer in a CSV header, or None."""
    names = [name.strip().strip('"').lower() for name in header]
    places = [
        next(i for i, name in enumerate(names) if name in wanted)
        for wanted in (_QUESTION, _ANSWER)
        if set(names) & set(wanted)
    ]
    return places if len(places) == 2 else None
