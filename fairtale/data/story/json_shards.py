"""TinyStories shards: a JSON list of stories, read object by object.

The streaming reader is our own. ijson, tried in its place, reads a good shard in four fifths of
the time, but it behaves worse on bad ones: one story that is not UTF-8 or holds a raw control
character costs the rest of its shard, a byte order mark is refused, half a surrogate pair
becomes a question mark, an object in the place of the list is an empty list, errors name neither
line nor character, and 100,000 opening brackets keep it busy for minutes.
"""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

from ...errors import UserError
from ..corpus.cleaning import clean
from ..corpus.records import ByteStream
from ..corpus.report import INVALID_UTF8, CorpusReport
from .records import Story

NO_STORY = "no story field"

_BLOCK_CHARS = 1 << 20
_MAX_RECORD_CHARS = 64 << 20
# A JSON error this near the end of what was read may just be cut there.
_CUT_MARGIN = 64
# How the decoder carries a byte that is not UTF-8 through JSON.
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")


class _TextWindow:
    """The part of a text stream that a JSON parser is looking at, with its position."""

    def __init__(self, stream: ByteStream) -> None:
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

    def more(self) -> bool:
        """Append as much as is held already, at least a block; return False at the end."""
        if self.ended:
            return False
        data = self._stream.read(max(_BLOCK_CHARS, len(self.text) - self.at))
        self.ended = not data
        self.line()
        self._chars_before += self.at
        self._line_at = 0
        self.text = self.text[self.at :] + self._decoder.decode(data, final=not data)
        self.at = 0
        return not self.ended

    def skip_space(self) -> str:
        """Move to the next character that is no white space, and return it; "" at the end."""
        while True:
            while self.at < len(self.text):
                if self.text[self.at] not in " \t\r\n":
                    return self.text[self.at]
                self.at += 1
            if not self.more():
                return ""

    def line(self) -> int:
        """Return the 1-based line of the file at which ``at`` stands."""
        self._line += self.text.count("\n", self._line_at, self.at)
        self._line_at = self.at
        return self._line

    def position(self, offset: int = 0) -> str:
        """Return line and character of the place ``offset`` characters behind ``at``."""
        line = self.line() + self.text.count("\n", self.at, self.at + offset)
        return f"line {line}, character {self._chars_before + self.at + offset:,}"


def read_json_shard(
    stream: ByteStream, name: str, report: CorpusReport, max_chars: int
) -> Iterator[Story]:
    """Read a TinyStories shard: a JSON list of objects with a ``story`` string.

    Other fields are ignored. An item without a ``story`` string is skipped and counted.
    See :func:`~fairtale.data.story.formats.read_stories` for the arguments.

    Raises:
        UserError: the file ends inside the list, or is not such a list.
    """
    for place, record in _read_list(stream, name):
        story = record.get("story") if isinstance(record, dict) else None
        if not isinstance(story, str):
            report.skip(NO_STORY, place)
            continue
        if _ESCAPED_BYTE.search(story):
            report.skip(INVALID_UTF8, place)
            continue
        text = clean(story, place, report, max_chars)
        if text is not None:
            yield Story(text, None, place)


def _read_list(stream: ByteStream, name: str) -> Iterator[tuple[str, Any]]:
    """Yield ``(place, item)`` of a JSON list."""
    window = _TextWindow(stream)
    # strict=False: raw control characters are cleaned later
    decoder = json.JSONDecoder(strict=False)
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
        place = f"{name}:{window.line()} (record {number})"
        yield place, _next_item(window, decoder, name, number)
    window.at += 1
    if window.skip_space():
        raise UserError(f"{name}: {window.position()}: text after the end of the list")


def _next_item(window: _TextWindow, decoder: json.JSONDecoder, name: str, number: int) -> Any:
    """Return the JSON value at which the window stands, and move behind it."""
    while True:
        try:
            item, window.at = decoder.raw_decode(window.text, window.at)
            return item
        except json.JSONDecodeError as error:
            where = window.position(error.pos - window.at)
            if not _may_be_cut(error, window):
                raise UserError(f"{name}: {where}: not JSON: {error.msg}") from None
            if window.ended:
                raise _truncated(name, where, number - 1) from None
            if len(window.text) - window.at > _MAX_RECORD_CHARS:
                raise UserError(f"{name}: {where}: a record without an end") from None
            window.more()
        except RecursionError:
            raise UserError(f"{name}: {window.position()}: nested too deeply") from None


def _may_be_cut(error: json.JSONDecodeError, window: _TextWindow) -> bool:
    """Return whether a JSON error is what the end of the window, or of the file, would cause."""
    if error.msg.startswith("Unterminated string"):
        return True
    distance = len(window.text) - error.pos
    # Half an escape or a word like `true` cut in two is reported where it begins.
    return distance <= (0 if window.ended and "escape" not in error.msg else _CUT_MARGIN)


def _truncated(name: str, where: str, num_records: int) -> UserError:
    return UserError(
        f"{name}: the file is truncated: its JSON list breaks off at {where}, after "
        f"{num_records:,} whole records; fetch it again"
    )
