"""Read story corpora of all supported layouts, and yield cleaned stories.

:mod:`.layouts` lists the layouts and recognises them. Files may be compressed, and archives
(``.tar.gz``, ``.zip``, ...) are read without unpacking them to disk. A reader holds at most one
block of the file and one story in memory.

To add a format, describe it in ``layouts.FORMATS``, recognise it in ``layouts.find_layout``, and
add its reader to :data:`READERS`.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from ...errors import UserError
from ..corpus.cleaning import clean
from ..corpus.containers import ARCHIVES, PACKED, OnBytes, named_damage, read_members
from ..corpus.entities import has_markup, without_markup
from ..corpus.json_values import has_bad_bytes
from ..corpus.opening import look_at, open_files
from ..corpus.record_files import PARQUET, read_record_file
from ..corpus.records import ByteStream, read_text_records
from ..corpus.report import DUPLICATE, INVALID_UTF8, TOO_LONG, CorpusReport
from ..corpus.source_files import find_files
from ..corpus.split import DuplicateFilter
from .books import cut_paragraphs, read_paragraphs
from .layouts import BY_HAND, END_OF_TEXT, Layout, are_single_stories, find_layout
from .records import MARKUP_KEPT, MARKUP_REMOVED, Story

DEFAULT_MAX_STORY_CHARS = 100_000
# Words of a piece of a book. With a BPE vocabulary of 5,120, books have 1.43 tokens a word, and
# 97 % of the pieces of this size fit into 256 tokens.
DEFAULT_MAX_WORDS = 160

NO_STORY = "no story field"

_IN_ARCHIVES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ".md", ".markdown")
_EXTENSIONS = (*_IN_ARCHIVES, ".parquet", *ARCHIVES)
_SEPARATOR = END_OF_TEXT.decode()
_ASCII_SPACE = " \t\n\r\x0b\x0c"


class StoryLimits(NamedTuple):
    """Maximum lengths of a story."""

    max_chars: int = DEFAULT_MAX_STORY_CHARS  # longer stories are skipped and counted
    max_words: int = DEFAULT_MAX_WORDS  # maximum number of words of a piece of a book


class Reading(NamedTuple):
    """How files are read."""

    limits: StoryLimits = StoryLimits()
    story_format: str | None = None  # of all files but archives; None: recognised for each file
    field: str | None = None  # with the story, in records; None: see ``layouts.TEXT_FIELDS``
    clean_markup: bool = False  # remove tags, and replace entities by their characters


def find_stories(sources: Iterable[str], report: CorpusReport) -> list[str]:
    """Return the files of ``sources``, as :func:`..corpus.source_files.find_files` does."""
    return find_files(sources, _EXTENSIONS, report.ignored_files, packed=PACKED)


def detect_format(path: str) -> tuple[str, str]:
    """Return the format of a file and the reason.

    Raises:
        UserError: its layout is not known.
    """
    if path.lower().endswith(ARCHIVES):
        return "archive", "extension"
    layout = find_layout(look_at(path))
    return layout.format, layout.reason


def read_stories(
    sources: Iterable[str],
    report: CorpusReport,
    limits: StoryLimits = StoryLimits(),  # noqa: B008 (it is immutable)
    *,
    story_format: str | None = None,
    field: str | None = None,
    clean_markup: bool = False,
    dedupe: bool = False,
    on_bytes: OnBytes | None = None,
) -> Iterator[Story]:
    """Read all stories of files and folders, clean them, and yield them in a fixed order.

    Args:
        sources: paths of files and folders.
        report: counts the stories that are kept and skipped, and the repairs.
        limits, story_format, field, clean_markup: see :class:`Reading`.
        dedupe: skip stories whose exact text has occurred before, and count them.
        on_bytes: called with the number of bytes that have just been read from disk.

    Raises:
        UserError: a source is missing or truncated, or its layout is not known.
    """
    duplicates = DuplicateFilter() if dedupe else None
    reading = Reading(limits, story_format, field, clean_markup)
    paths = find_stories(sources, report)
    single = _folders_of_single_stories(paths)
    for path in paths:
        is_single = os.path.dirname(path) in single
        with named_damage(path):
            for story in _read_path(path, is_single, report, reading, on_bytes):
                if duplicates and not duplicates.is_new(story):
                    report.leave_out(DUPLICATE, story.place)
                    continue
                report.num_kept += 1
                yield story


def _folders_of_single_stories(paths: list[str]) -> set[str]:
    folders: dict[str, list[tuple[str, int]]] = {}
    for path in paths:
        if path.lower().endswith(".txt") and os.path.isfile(path):
            entry = (path, os.path.getsize(path))
            folders.setdefault(os.path.dirname(path), []).append(entry)
    return {folder for folder, files in folders.items() if are_single_stories(files)}


def _read_path(
    path: str, is_single: bool, report: CorpusReport, reading: Reading, on_bytes: OnBytes | None
) -> Iterator[Story]:
    counted = False  # whether the texts of an archive have been counted
    for file in open_files(path, _IN_ARCHIVES, report, on_bytes):
        if file.in_archive and not counted and file.name.lower().endswith(".txt"):
            sizes = [(member.name, member.size) for member in read_members(path)]
            is_single = are_single_stories([s for s in sizes if s[0].lower().endswith(".txt")])
            counted = True
        layout = find_layout(file.head, reading.story_format, reading.field, is_single)
        yield from _read_one(layout, file.stream, file.name, report, reading)


def _read_one(
    layout: Layout, stream: ByteStream, name: str, report: CorpusReport, reading: Reading
) -> Iterator[Story]:
    report.files.setdefault(layout.format, []).append((name, layout.reason))
    if layout.records is not None:
        raw = _read_records(layout, stream, name, report)
    else:
        raw = READERS[layout.format](stream, name, report, reading.limits)
    is_guess = layout.format == "lines" and layout.reason != BY_HAND
    for text, group, place in raw:
        if is_guess and _SEPARATOR in text:
            raise UserError(f"{place}: {_SEPARATOR} in one story a line: give --format eot")
        if reading.clean_markup:
            without = without_markup(text)
            if without != text:
                report.mend(MARKUP_REMOVED, place)
            text = without
        elif has_markup(text):
            report.mend(MARKUP_KEPT, place)
        cleaned = clean(text, place, report, reading.limits.max_chars)
        if cleaned is not None:
            yield Story(cleaned, group, place)


# ------------------------------------------------------------------------------ readers
# Each reader takes a binary stream, the name of the file, the report and the limits, and yields
# text, group and place of each story before it is cleaned.

Raw = tuple[str, str | None, str]


def read_lines(
    stream: ByteStream, name: str, report: CorpusReport, limits: StoryLimits
) -> Iterator[Raw]:
    """Read one story a line."""
    yield from _read_cut(stream, b"\n", name, report, limits.max_chars)


def read_separated(
    stream: ByteStream, name: str, report: CorpusReport, limits: StoryLimits
) -> Iterator[Raw]:
    """Read stories separated by ``<|endoftext|>``, which need not be on a line of its own."""
    yield from _read_cut(stream, END_OF_TEXT, name, report, limits.max_chars)


def _max_bytes(max_chars: int) -> int:
    # A character has at most four bytes in UTF-8, so a record of more bytes is too long.
    return 4 * max_chars + 64


def _read_cut(
    stream: ByteStream, separator: bytes, name: str, report: CorpusReport, max_chars: int
) -> Iterator[Raw]:
    records = read_text_records(stream, separator, _max_bytes(max_chars), name, report)
    for line, record in records:
        if record is None:
            continue
        # Skip the line break after a separator, so that `line` is where the story begins.
        stripped = record.lstrip(_ASCII_SPACE)
        line += record.count("\n", 0, len(record) - len(stripped))
        yield stripped, None, f"{name}:{line}"


def read_blocks(
    stream: ByteStream, name: str, report: CorpusReport, limits: StoryLimits
) -> Iterator[Raw]:
    """Read stories of several lines with blank lines between them."""
    first, lines, damaged = 0, list[str](), False
    for number, text in read_text_records(
        stream, b"\n", _max_bytes(limits.max_chars), name, report
    ):
        if text is None:
            damaged = True
        elif text.strip():
            first = first if lines else number
            lines.append(text)
        else:
            if lines and not damaged:
                yield "\n".join(lines), None, f"{name}:{first}"
            lines, damaged = [], False
    if lines and not damaged:
        yield "\n".join(lines), None, f"{name}:{first}"


def read_file(
    stream: ByteStream, name: str, report: CorpusReport, limits: StoryLimits
) -> Iterator[Raw]:
    """Read the one story of a file."""
    limit = _max_bytes(limits.max_chars)
    data = stream.read(limit + 1)
    size, num_lines = len(data), data.count(b"\n") + 1
    while block := stream.read(1 << 20):
        size, num_lines = size + len(block), num_lines + block.count(b"\n")
    if size > limit:
        report.skip(TOO_LONG, f"{name} ({size:,} bytes)", size, num_lines)
        return
    try:
        yield data.removeprefix(b"\xef\xbb\xbf").decode("utf-8"), None, f"{name}:1"
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        place = f"{name}:{line} (byte 0x{data[error.start]:02x})"
        report.skip(INVALID_UTF8, place, size, num_lines)


def read_book(
    stream: ByteStream, name: str, report: CorpusReport, limits: StoryLimits
) -> Iterator[Raw]:
    """Read a long text and split it into pieces at the ends of paragraphs.

    A heading begins a new section. A piece never spans two sections, and the pieces of a section
    share their ``group``.
    """
    paragraphs = read_paragraphs(stream, name, report, _max_bytes(limits.max_chars))
    for line, section, text in cut_paragraphs(paragraphs, limits.max_words):
        yield text, section, f"{name}:{line}"


def _read_records(
    layout: Layout, stream: ByteStream, name: str, report: CorpusReport
) -> Iterator[Raw]:
    """Read the stories in a field of records; an empty cell of a table is an empty story."""
    assert layout.records is not None and layout.field is not None  # find_layout() has set them
    for record in read_record_file(layout.records, stream, name, report):
        text: Any = record.fields.get(layout.field)
        if layout.records.encoding == PARQUET and isinstance(text, str):
            report.num_bytes += len(text.encode("utf-8", "surrogatepass"))
        if not isinstance(text, str):
            report.skip(NO_STORY, record.place, record.num_bytes, record.num_lines)
        elif has_bad_bytes(text):
            report.skip(INVALID_UTF8, record.place, record.num_bytes, record.num_lines)
        else:
            yield text, None, record.place


Reader = Callable[[ByteStream, str, CorpusReport, StoryLimits], Iterator[Raw]]
READERS: dict[str, Reader] = {
    "eot": read_separated,
    "lines": read_lines,
    "blank": read_blocks,
    "file": read_file,
    "book": read_book,
}
