"""Read story corpora of all supported formats, and yield cleaned stories.

Every reader takes a binary stream and yields :class:`Story`. A reader holds at most one block of
the file and one story in memory. The formats are:

    json   a list of objects with a ``story`` field, as TinyStories shards are published
    eot    plain text with ``<|endoftext|>`` between stories
    lines  one story a line
    book   Markdown or plain text with blank lines between paragraphs, split into pieces

An archive (``.tar.gz``, ``.tgz``) of json shards is read without unpacking it to disk.

To add a format, write a reader, add it to :data:`READERS`, and extend :func:`detect_format`.
"""

import codecs
import gzip
import io
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, NamedTuple

from ...errors import UserError
from ..corpus.cleaning import clean
from ..corpus.records import ByteStream, read_text_records
from ..corpus.report import DUPLICATE, CorpusReport
from ..corpus.source_files import find_files
from ..corpus.split import DuplicateFilter
from .books import cut_paragraphs, read_paragraphs
from .json_shards import read_json_shard
from .records import Story

END_OF_TEXT = b"<|endoftext|>"

DEFAULT_MAX_STORY_CHARS = 100_000
# Words of a piece of a book. With a BPE vocabulary of 5,120, books have 1.43 tokens a word, and
# 97 % of the pieces of this size fit into 256 tokens.
DEFAULT_MAX_WORDS = 160

_ARCHIVES = (".tar.gz", ".tgz")
_EXTENSIONS = (".json", ".txt", ".md", *_ARCHIVES)
_SNIFF_BYTES = 1 << 20
_ASCII_SPACE = " \t\n\r\x0b\x0c"


class StoryLimits(NamedTuple):
    """Maximum lengths of a story."""

    max_chars: int = DEFAULT_MAX_STORY_CHARS  # longer stories are skipped and counted
    max_words: int = DEFAULT_MAX_WORDS  # maximum number of words of a piece of a book


class _CountingFile(io.FileIO):
    """An unbuffered file that reports how many bytes were read, for a progress bar."""

    def __init__(self, path: str, on_bytes: Callable[[int], object] | None) -> None:
        super().__init__(path)
        self._on_bytes = on_bytes

    def readinto(self, buffer: bytearray | memoryview, /) -> int | None:  # type: ignore[override]
        count = super().readinto(buffer)
        if self._on_bytes:
            self._on_bytes(count or 0)
        return count


def find_stories(sources: Iterable[str], report: CorpusReport) -> list[str]:
    """Return the files of ``sources``, as :func:`..corpus.source_files.find_files` does."""
    return find_files(sources, _EXTENSIONS, report.ignored_files)


def detect_format(path: str) -> tuple[str, str]:
    """Return the format of a file and the reason, judged by its extension or else its content.

    Raises:
        UserError: the file is UTF-16 text, or gzip data that is no archive.
    """
    lower = path.lower()
    if lower.endswith(_ARCHIVES):
        return "archive", "extension"
    if lower.endswith(".md"):
        return "book", "extension .md"
    with open(path, "rb") as stream:
        head = stream.read(_SNIFF_BYTES)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{path}: UTF-16 text; convert it to UTF-8 (iconv -f UTF-16)")
    if head[:2] == b"\x1f\x8b":
        raise UserError(f"{path}: gzip data other than a .tar.gz archive; decompress it (gunzip)")
    if lower.endswith(".json"):
        return "json", "extension .json"
    if re.match(rb"\s*\[\s*\{", head.removeprefix(codecs.BOM_UTF8)):
        return "json", "content begins with [{"
    if END_OF_TEXT in head:
        return "eot", "content holds <|endoftext|>"
    return "lines", "content holds no <|endoftext|>"


def read_stories(
    sources: Iterable[str],
    report: CorpusReport,
    limits: StoryLimits = StoryLimits(),  # noqa: B008 (it is immutable)
    *,
    story_format: str | None = None,
    dedupe: bool = False,
    on_bytes: Callable[[int], object] | None = None,
) -> Iterator[Story]:
    """Read all stories of files and folders, clean them, and yield them in a fixed order.

    Args:
        sources: paths of files and folders.
        report: counts the stories that are kept and skipped, and the repairs.
        limits: maximum lengths of a story.
        story_format: format of all files but archives, one of :data:`FORMATS`; None detects the
            format of each file.
        dedupe: skip stories whose exact text has occurred before, and count them.
        on_bytes: called with the number of bytes that have just been read from disk.

    Raises:
        UserError: a source is missing or truncated, or it does not have its format.
    """
    duplicates = DuplicateFilter() if dedupe else None
    for path in find_stories(sources, report):
        detected, reason = detect_format(path)
        if detected != "archive" and story_format:
            detected, reason = story_format, "--format"
        report.files.setdefault(detected, []).append((path, reason))
        with io.BufferedReader(_CountingFile(path, on_bytes), 1 << 20) as stream:
            for story in _read_file(detected, stream, path, report, limits):
                if duplicates and not duplicates.is_new(story):
                    report.leave_out(DUPLICATE, story.place)
                    continue
                report.num_kept += 1
                yield story


def _read_file(
    detected: str, stream: BinaryIO, path: str, report: CorpusReport, limits: StoryLimits
) -> Iterator[Story]:
    if detected == "archive":
        return _read_archive(stream, path, report, limits)
    return READERS[detected](stream, path, report, limits)


# ------------------------------------------------------------------------------ readers
# Each reader takes a binary stream, the name of the file, the report and the limits.


def read_lines(
    stream: ByteStream, name: str, report: CorpusReport, limits: StoryLimits
) -> Iterator[Story]:
    """Read one story a line."""
    yield from _read_cut(stream, b"\n", name, report, limits.max_chars)


def read_separated(
    stream: ByteStream, name: str, report: CorpusReport, limits: StoryLimits
) -> Iterator[Story]:
    """Read stories separated by ``<|endoftext|>``, which need not be on a line of its own."""
    yield from _read_cut(stream, END_OF_TEXT, name, report, limits.max_chars)


def _max_bytes(max_chars: int) -> int:
    # A character has at most four bytes in UTF-8, so a record of more bytes is too long.
    return 4 * max_chars + 64


def _read_cut(
    stream: ByteStream, separator: bytes, name: str, report: CorpusReport, max_chars: int
) -> Iterator[Story]:
    records = read_text_records(stream, separator, _max_bytes(max_chars), name, report)
    for line, record in records:
        if record is None:
            continue
        # Skip the line break after a separator, so that `line` is where the story begins.
        stripped = record.lstrip(_ASCII_SPACE)
        line += record.count("\n", 0, len(record) - len(stripped))
        place = f"{name}:{line}"
        text = clean(stripped, place, report, max_chars)
        if text is not None:
            yield Story(text, None, place)


def read_book(
    stream: ByteStream, name: str, report: CorpusReport, limits: StoryLimits
) -> Iterator[Story]:
    """Read a long text and split it into pieces at the ends of paragraphs.

    A heading begins a new section. A piece never spans two sections, and the pieces of a section
    share their ``group``.
    """
    paragraphs = read_paragraphs(stream, name, report, _max_bytes(limits.max_chars))
    for line, section, text in cut_paragraphs(paragraphs, limits.max_words):
        place = f"{name}:{line}"
        cleaned = clean(text, place, report, limits.max_chars)
        if cleaned is not None:
            yield Story(cleaned, section, place)


def read_json(
    stream: ByteStream, name: str, report: CorpusReport, limits: StoryLimits
) -> Iterator[Story]:
    """Read a TinyStories shard."""
    yield from read_json_shard(stream, name, report, limits.max_chars)


def _read_archive(
    stream: BinaryIO, path: str, report: CorpusReport, limits: StoryLimits
) -> Iterator[Story]:
    """Read the json shards of a ``.tar.gz`` archive in their order."""
    try:
        # gzip.GzipFile verifies length and checksum; tarfile's own stream mode does not.
        with gzip.GzipFile(fileobj=stream) as plain:
            with tarfile.open(fileobj=plain, mode="r|") as archive:
                for member in archive:
                    base = os.path.basename(member.name)
                    if not member.isfile() or base.startswith("."):
                        continue  # a folder, or a hidden file such as macOS's ._NAME
                    name = f"{path}:{member.name}"
                    shard = archive.extractfile(member)
                    if shard is None or not base.lower().endswith(".json"):
                        report.ignored_files.append(name)
                        continue
                    yield from read_json(shard, name, report, limits)
            while plain.read(1 << 20):
                pass  # read to the end, where the checksum is verified
    except (EOFError, tarfile.TarError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"{path}: damaged or incomplete archive ({error}); fetch it again"
        ) from error


Reader = Callable[[ByteStream, str, CorpusReport, StoryLimits], Iterator[Story]]
READERS: dict[str, Reader] = {
    "json": read_json,
    "eot": read_separated,
    "lines": read_lines,
    "book": read_book,
}
FORMATS = tuple(READERS)
