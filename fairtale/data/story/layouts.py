"""Recognise the layout of a file of stories; what is not recognised is refused."""

import os
from collections.abc import Sequence
from typing import NamedTuple

from ...errors import UserError
from ..corpus.containers import open_stream
from ..corpus.heads import Format, Head, refuse_foreign, unknown_layout
from ..corpus.parquet import MAGIC
from ..corpus.plausible import doubts, doubts_of_texts
from ..corpus.record_files import JSON_LIST, TABLE, RecordFile, recognise

END_OF_TEXT = b"<|endoftext|>"
TEXT_FIELDS = ("story", "text", "content")  # the first one that a record has is the story
PAGE = "docs/stories.md"
BY_HAND = "--format"  # the reason of a layout that was asked for

FORMATS = (
    Format(
        "json",
        "objects with a field story, text or content, one a line or in a list",
        '{"text": "Once upon a time, there was a fox."}',
    ),
    Format(
        "csv",
        "a table with a header that has such a column",
        'id,text\n1,"Once upon a time, there was a fox."',
    ),
    Format("parquet", "a table with such a column", "PAR1"),
    Format(
        "eot",
        "<|endoftext|> between stories",
        "Once there was a fox.\nIt was red.\n<|endoftext|>\nOnce there was a hen.",
    ),
    Format("lines", "one story a line", "Once there was a fox. It was red.\nOnce there was a hen."),
    Format(
        "blank",
        "stories of several lines, blank lines between them",
        "Once there was a fox.\nIt was red.\n\nOnce there was a hen.",
    ),
    Format("file", "one story a file", "The fox\n\nOnce there was a fox.\nIt was red."),
    Format(
        "book",
        "blank lines between paragraphs, which become pieces of --max-words",
        "# Chapter 1\n\nThere was a fox that lived\nin a wood.\n\nIt was red.",
    ),
)
NAMES = tuple(one.name for one in FORMATS)

# A folder or archive of at least this many small texts has one story a file.
_MIN_FILES = 5
_MAX_FILE_BYTES = 64 << 10
_SUBSETS = ("train", "valid", "val", "dev", "test", "stories")


class Layout(NamedTuple):
    """How a file is read."""

    format: str
    reason: str  # why, for the report
    records: RecordFile | None = None  # of json, csv and parquet
    field: str | None = None  # of a record, with the story


def are_single_stories(files: Sequence[tuple[str, int]]) -> bool:
    """Return whether the texts of one folder or archive hold one story each.

    They do if there are several, nearly all of them small, and none has the name of a subset.

    Args:
        files: names and sizes in bytes of the files ``.txt``.
    """
    if len(files) < _MIN_FILES:
        return False
    bases = [name.replace("\\", "/").rsplit("/", 1)[-1].lower() for name, _ in files]
    if any(base.startswith(_SUBSETS) for base in bases):
        return False
    small = sum(size <= _MAX_FILE_BYTES for _, size in files)
    return small >= 0.9 * len(files)


def find_layout(
    head: Head, asked: str | None = None, field: str | None = None, is_single: bool = False
) -> Layout:
    """Return the layout of a file, judged by its content and by its name.

    Args:
        head: the beginning of the file.
        asked: value of ``--format``; None recognises it.
        field: value of ``--text-field``.
        is_single: the file is one of a folder with one story a file.

    Raises:
        UserError: the layout is not known, or the file lacks the field.
    """
    if not head.data.startswith(MAGIC):
        refuse_foreign(head)
    if asked in ("json", "csv", "parquet"):
        file = recognise(head)
        if file is None:
            if asked == "json" and not head.spoken:
                return Layout("json", BY_HAND, RecordFile(JSON_LIST, []), TEXT_FIELDS[0])
            raise UserError(f"{head.place}: --format {asked}: no records with named fields in it "
                            f"(first line {head.shown()})")  # fmt: skip
        return _of_records(head, file, field, BY_HAND)
    if asked:
        return Layout(asked, BY_HAND)
    if head.name.endswith((".md", ".markdown")):
        return Layout("book", "extension .md")
    file = recognise(head)
    if file is not None and not (file.encoding == TABLE and END_OF_TEXT in head.data):
        if file.encoding != TABLE or field or head.name.endswith((".csv", ".tsv")) or _named(file):
            return _of_records(head, file, field, None)
    if head.name.endswith(".json") or head.begins(r"\[\s*\{"):
        # The reader of lists says where a damaged or truncated one breaks off.
        return Layout("json", "extension .json", RecordFile(JSON_LIST, []), field or "story")
    if END_OF_TEXT in head.data:
        return Layout("eot", "content holds <|endoftext|>")
    if head.name.endswith((".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")):
        raise unknown_layout(head, "no records with named fields in it", FORMATS, PAGE)
    if is_single:
        return Layout("file", "small .txt files of a folder")
    # A pipe, or a file of an archive, cannot be read twice; read_lines() refuses a separator.
    if not head.whole and os.path.isfile(head.place) and _holds_end_of_text(head.place):
        return Layout("eot", "content holds <|endoftext|>")
    seen = doubts(head) or doubts_of_texts(head)
    if seen:
        raise unknown_layout(head, seen, FORMATS, PAGE)
    return Layout("lines", "plain lines, no <|endoftext|>")


def _named(file: RecordFile) -> bool:
    return any(name.casefold() in TEXT_FIELDS for name in file.fields)


def _of_records(head: Head, file: RecordFile, field: str | None, reason: str | None) -> Layout:
    """Return the layout of a file of records.

    Raises:
        UserError: no field is known to hold the story.
    """
    names = {name.casefold(): name for name in reversed(file.fields)}
    if field is None:
        found = [names[name] for name in TEXT_FIELDS if name in names]
        if not found:
            raise UserError(
                f"{head.place}: {file.named()}: none of {', '.join(TEXT_FIELDS)} is among them; "
                "name the one with the story by --text-field"
            )
        field = found[0]
    elif field not in file.fields:
        raise UserError(f"{head.place}: {file.named()}: --text-field {field} is not among them")
    encoding = "json" if file.encoding == "jsonl" else file.encoding
    return Layout(encoding, reason or f"field {field}", file, field)


def _holds_end_of_text(path: str) -> bool:
    """Return whether ``<|endoftext|>`` occurs anywhere in a file."""
    carry = b""
    with open_stream(path) as stream:
        while block := stream.read(1 << 20):
            if END_OF_TEXT in carry + block:
                return True
            carry = block[-len(END_OF_TEXT) :]
    return False
