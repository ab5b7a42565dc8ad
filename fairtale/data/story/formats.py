"""Readers of story corpora: TinyStories shards, separated text, lines, books.

Every reader takes a binary stream and yields :class:`Story`; none holds more than a
block of the file and one story. The formats:

    json   a list of objects with a ``story`` field, as TinyStories shards are published
    eot    plain text with ``<|endoftext|>`` between stories
    lines  one story a line
    book   Markdown or plain text with blank lines between paragraphs, cut into pieces

An archive (``.tar.gz``, ``.tgz``) of json shards is read without unpacking it to disk.
"""

import codecs
import gzip
import io
import json
import os
import re
import tarfile
import zlib
from typing import NamedTuple

from ...errors import UserError
from ..corpus import records
from ..corpus.source_files import find_files
from ..corpus.split import DuplicateFilter
from .books import cut_paragraphs, read_paragraphs

FORMATS = ("json", "eot", "lines", "book")
END_OF_TEXT = b"<|endoftext|>"

DEFAULT_MAX_STORY_CHARS = 100_000
# 1.43 pieces a word in the books with a 5,120 BPE vocabulary: 97 of 100 such pieces fit into 256.
DEFAULT_MAX_WORDS = 160

_ARCHIVES = (".tar.gz", ".tgz")
_EXTENSIONS = (".json", ".txt", ".md", *_ARCHIVES)
_SNIFF_BYTES = 1 << 20
_JSON_BLOCK_CHARS = 1 << 20
_MAX_JSON_RECORD_CHARS = 64 << 20
# A JSON error this near the end of what was read may just be cut there.
_CUT_MARGIN = 64
# How the decoder carries a byte that is not UTF-8 through JSON.
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")


class Story(NamedTuple):
    """A cleaned story.

    ``text`` is one line; ``group`` names what must not be torn between train and valid
    (the chapter of a book; None: the story stands alone); ``place`` is ``file:line``.
    """

    text: str
    group: str | None
    place: str


class _CountingFile(io.FileIO):
    """A raw file that tells how many bytes were read, for a progress bar."""

    def __init__(self, path, on_bytes):
        super().__init__(path)
        self._on_bytes = on_bytes

    def readinto(self, buffer):
        count = super().readinto(buffer)
        if self._on_bytes:
            self._on_bytes(count or 0)
        return count


def find_stories(sources, report):
    """Return the files of ``sources``, as :func:`..corpus.source_files.find_files` does."""
    return find_files(sources, _EXTENSIONS, report.ignored_files)


def detect_format(path):
    """``(format, reason)`` of a file, by extension where it is telling, else by content.

    Raises:
        UserError: the file is UTF-16, or binary.
    """
    lower = path.lower()
    if lower.endswith(_ARCHIVES):
        return "archive", "extension"
    if lower.endswith(".md"):
        return "book", "extension .md"
    with open(path, "rb") as stream:
        head = stream.read(_SNIFF_BYTES)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{path}: UTF-16 text; stories are UTF-8, convert it (iconv -f UTF-16)")
    if head[:2] == b"\x1f\x8b":
        raise UserError(f"{path}: gzip data; only .tar.gz archives are read, gunzip the others")
    if lower.endswith(".json"):
        return "json", "extension .json"
    if re.match(rb"\s*\[\s*\{", head.removeprefix(codecs.BOM_UTF8)):
        return "json", "content begins with [{"
    if END_OF_TEXT in head:
        return "eot", "content holds <|endoftext|>"
    return "lines", "content holds no <|endoftext|>"


def read_stories(
    sources,
    report,
    story_format=None,
    max_story_chars=DEFAULT_MAX_STORY_CHARS,
    max_words=DEFAULT_MAX_WORDS,
    dedupe=False,
    on_bytes=None,
):
    """All stories of files and folders, cleaned, in a fixed order.

    Args:
        sources: paths.
        report: a :class:`records.StoryReport`, which is filled.
        story_format: one of :data:`FORMATS`; None lets each file be recognised by itself.
        max_story_chars: longer stories are skipped and counted, characters.
        max_words: where books are cut at the latest, words.
        dedupe: skip, and count, stories whose exact text came before.
        on_bytes: called with the number of bytes just read from disk.

    Yields:
        :class:`Story`.

    Raises:
        UserError: a source is missing, truncated, or not what its format says.
    """
    duplicates = DuplicateFilter() if dedupe else None
    for path in find_stories(sources, report):
        detected, reason = detect_format(path)
        if detected != "archive" and story_format:
            detected, reason = story_format, "--format"
        report.files.setdefault(detected, []).append((path, reason))
        with io.BufferedReader(_CountingFile(path, on_bytes), 1 << 20) as stream:
            for story in _read_file(detected, stream, path, report, max_story_chars, max_words):
                if duplicates and not duplicates.is_new(story):
                    report.skip(records.DUPLICATE, story.place)
                    continue
                report.num_kept += 1
                yield story


def _read_file(detected, stream, path, report, max_chars, max_words):
    if detected == "book":
        return read_book(stream, path, report, max_chars, max_words)
    reader = {
        "archive": _read_archive,
        "json": read_json_shard,
        "eot": read_separated,
        "lines": read_lines,
    }[detected]
    return reader(stream, path, report, max_chars)


def read_lines(stream, name, report, max_chars):
    """One story a line. See :func:`read_stories` for the arguments."""
    yield from _read_cut(stream, b"\n", name, report, max_chars)


def read_separated(stream, name, report, max_chars):
    """Stories with ``<|endoftext|>`` between them, on a line of its own or not."""
    yield from _read_cut(stream, END_OF_TEXT, name, report, max_chars)


def _read_cut(stream, separator, name, report, max_chars):
    # A character takes at most four bytes, so only what is surely too long is passed over.
    for line, record in records.read_records(stream, separator, 4 * max_chars + 64):
        record = records.without_byte_order_mark(line, record)
        if record is None:
            report.skip(records.TOO_LONG, f"{name}:{line}")
            continue
        # The line break after a separator belongs to the separator.
        stripped = record.lstrip()
        line += record.count(b"\n", 0, len(record) - len(stripped))
        text = records.decode(stripped, line, name, report)
        if text is None:
            continue
        place = f"{name}:{line}"
        text = records.clean(text, place, report, max_chars)
        if text is not None:
            yield Story(text, None, place)


def read_book(stream, name, report, max_chars, max_words=DEFAULT_MAX_WORDS):
    """A long text in pieces of at most ``max_words`` words, cut where paragraphs end.

    A heading begins a new section; a piece never spans two. The pieces of one section
    share their ``group``.
    """
    paragraphs = read_paragraphs(stream, name, report, 4 * max_chars + 64)
    for line, section, text in cut_paragraphs(paragraphs, max_words):
        place = f"{name}:{line}"
        text = records.clean(text, place, report, max_chars)
        if text is not None:
            yield Story(text, section, place)


def _read_archive(stream, path, report, max_chars):
    """The json shards of a ``.tar.gz``, in the order in which they lie there."""
    try:
        # gzip checks length and checksum; tarfile's own stream mode does not.
        with gzip.GzipFile(fileobj=stream) as plain:
            with tarfile.open(fileobj=plain, mode="r|") as archive:
                for member in archive:
                    base = os.path.basename(member.name)
                    if not member.isfile() or base.startswith("."):
                        continue  # folders; macOS's ._copies
                    name = f"{path}:{member.name}"
                    if not base.lower().endswith(".json"):
                        report.ignored_files.append(name)
                        continue
                    yield from read_json_shard(archive.extractfile(member), name, report, max_chars)
            while plain.read(1 << 20):
                pass  # to the checksum at the end
    except (EOFError, tarfile.TarError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"{path}: damaged or incomplete archive ({error}); fetch it again"
        ) from error


class _TextWindow:
    """The part of a text stream that a JSON parser is looking at, with its position."""

    def __init__(self, stream):
        self._stream = stream
        # Bytes that are not UTF-8 pass through as lone surrogates, so that one bad story
        # does not cost the shard.
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self.text = ""
        self.at = 0  # index into text
        self.ended = False
        self._chars_before = 0  # of the file, before text
        self._line = 1
        self._line_at = 0  # index into text up to which _line has counted

    def more(self):
        """Appends as much as is held already, at least a block; False at the end."""
        if self.ended:
            return False
        data = self._stream.read(max(_JSON_BLOCK_CHARS, len(self.text) - self.at))
        self.ended = not data
        self.line()
        self._chars_before += self.at
        self._line_at = 0
        self.text = self.text[self.at :] + self._decoder.decode(data, final=not data)
        self.at = 0
        return not self.ended

    def skip_space(self):
        """Moves to the next character that is no white space; "" at the end."""
        while True:
            while self.at < len(self.text):
                if self.text[self.at] not in " \t\r\n":
                    return self.text[self.at]
                self.at += 1
            if not self.more():
                return ""

    def line(self):
        """The 1-based line of the file at which ``at`` stands."""
        self._line += self.text.count("\n", self._line_at, self.at)
        self._line_at = self.at
        return self._line

    def position(self, offset=0):
        line = self.line() + self.text.count("\n", self.at, self.at + offset)
        return f"line {line}, character {self._chars_before + self.at + offset:,}"


def read_json_shard(stream, name, report, max_chars):
    """A TinyStories shard: a JSON list of objects with a ``story`` string.

    The list is read object by object. Other fields are ignored. An item without a
    ``story`` string is skipped and counted.

    Raises:
        UserError: the file ends inside the list, or is not such a list.
    """
    window = _TextWindow(stream)
    scan = json.JSONDecoder(strict=False).raw_decode  # raw control characters are cleaned later
    if window.skip_space() == "\ufeff":
        window.at += 1
    if window.skip_space() != "[":
        raise UserError(f"{name}: not a list of stories: {window.position()} should be '['")
    window.at += 1
    number = 0
    while True:
        following = window.skip_space()
        if following == "]":
            break
        if number and following:
            if following != ",":
                raise UserError(f"{name}: {window.position()}: ',' or ']' should follow a record")
            window.at += 1
            following = window.skip_space()
        if not following:
            raise _truncated(name, window.position(), number)
        number += 1
        line = window.line()
        record = _next_json(window, scan, name, number)
        place = f"{name}:{line} (record {number})"
        story = record.get("story") if isinstance(record, dict) else None
        if not isinstance(story, str):
            report.skip(records.NO_STORY, place)
            continue
        if _ESCAPED_BYTE.search(story):
            report.skip(records.INVALID_UTF8, place)
            continue
        text = records.clean(story, place, report, max_chars)
        if text is not None:
            yield Story(text, None, place)
    window.at += 1
    if window.skip_space():
        raise UserError(f"{name}: {window.position()}: text after the end of the list")


def _next_json(window, scan, name, number):
    while True:
        try:
            record, window.at = scan(window.text, window.at)
            return record
        except json.JSONDecodeError as error:
            where = window.position(error.pos - window.at)
            if not _may_be_cut(error, window):
                raise UserError(f"{name}: {where}: not JSON: {error.msg}") from None
            if window.ended:
                raise _truncated(name, where, number - 1) from None
            if len(window.text) - window.at > _MAX_JSON_RECORD_CHARS:
                raise UserError(f"{name}: {where}: a record without an end") from None
            window.more()
        except RecursionError:
            raise UserError(f"{name}: {window.position()}: nested too deeply") from None


def _may_be_cut(error, window):
    """Whether a JSON error is what the end of the window, or of the file, would cause."""
    if error.msg.startswith("Unterminated string"):
        return True
    distance = len(window.text) - error.pos
    # Half an escape or a word like `true` cut in two is reported where it begins.
    return distance <= (0 if window.ended and "escape" not in error.msg else _CUT_MARGIN)


def _truncated(name, where, num_records):
    return UserError(
        f"{name}: the file is truncated: its JSON list breaks off at {where}, after "
        f"{num_records:,} whole records; fetch it again"
    )
