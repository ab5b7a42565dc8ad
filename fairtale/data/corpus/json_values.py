"""Read the values of a JSON file one by one: a list, or values behind each other.

The streaming parser is our own. ijson reads an intact file in four fifths of the time, but it
handles damaged ones worse: a record that is not UTF-8 or holds a raw control character loses the
rest of its file, a byte order mark is refused, a lone surrogate becomes a question mark, an
object in place of the list is read as an empty list, errors give neither line nor character, and
100,000 opening brackets take minutes.
"""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from ...errors import UserError
from .records import ByteStream

_BLOCK_CHARS = 1 << 20
_MAX_RECORD_CHARS = 64 << 20
# A JSON error this close to the end of the text read so far may be caused by that end.
_CUT_MARGIN = 64
# Lone surrogates that stand for bytes that are not UTF-8 (errors="surrogateescape").
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")


class JsonItem(NamedTuple):
    """A value of a JSON list."""

    place: str  # ``file:line (record number)``
    value: Any
    num_bytes: int  # size in the file, in characters
    num_lines: int  # line feeds inside it, plus one


class _TextWindow:
    """The part of a text stream that is held for the JSON parser, and its position."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        # Decode bytes that are not UTF-8 to lone surrogates, so that only the story that
        # contains them is lost and not the rest of the shard.
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self.text = ""
        self.at = 0  # index of the current character in text
        self.ended = False
        self._chars_before = 0  # number of characters of the file before text
        self._line = 1
        self._line_at = 0  # index in text up to which the line feeds are counted in _line

    def more(self) -> bool:
        """Read as much text as is held after ``at``, at least one block; return False at the end.

        Text before ``at`` is discarded.
        """
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
        """Move to the next character that is not white space, and return it; "" at the end."""
        while True:
            while self.at < len(self.text):
                if self.text[self.at] not in " \t\r\n":
                    return self.text[self.at]
                self.at += 1
            if not self.more():
                return ""

    def line(self) -> int:
        """Return the 1-based line number of the character at ``at``."""
        self._line += self.text.count("\n", self._line_at, self.at)
        self._line_at = self.at
        return self._line

    def position(self, offset: int = 0) -> str:
        """Return line and character number of the character at ``at + offset``, as text."""
        line = self.line() + self.text.count("\n", self.at, self.at + offset)
        return f"line {line}, character {self._chars_before + self.at + offset:,}"


def has_bad_bytes(text: str) -> bool:
    """Return whether a text that was read from JSON stands for bytes that are not UTF-8."""
    return _ESCAPED_BYTE.search(text) is not None


def read_json_list(stream: ByteStream, name: str) -> Iterator[JsonItem]:
    """Yield the values of a JSON list.

    Bytes that are not UTF-8 become lone surrogates, so that only the record that holds them is
    lost; see :func:`has_bad_bytes`.

    Args:
        stream: a binary file.
        name: name of the file, for places and error messages.

    Raises:
        UserError: the file ends inside the list, or it is not such a list.
    """
    window = _TextWindow(stream)
    # Accept raw control characters in strings (strict=False); the cleaning removes them.
    decoder = json.JSONDecoder(strict=False)
    if window.skip_space() == "\ufeff":
        window.at += 1
    if window.skip_space() != "[":
        raise UserError(f"{name}: not a JSON list: {window.position()} should be '['")
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
        value, size = _next_item(window, decoder, name, number)
        lines = window.line() - line + 1
        yield JsonItem(f"{name}:{line} (record {number})", value, size, lines)
    window.at += 1
    if window.skip_space():
        raise UserError(f"{name}: {window.position()}: text after the end of the list")


def _next_item(
    window: _TextWindow, decoder: json.JSONDecoder, name: str, number: int
) -> tuple[Any, int]:
    """Return the value that begins at the current position and its size; move to its end."""
    while True:
        try:
            item, end = decoder.raw_decode(window.text, window.at)
            size, window.at = end - window.at, end
            return item, size
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
    """Return whether the end of the window or of the file may have caused a JSON error."""
    if error.msg.startswith("Unterminated string"):
        return True
    distance = len(window.text) - error.pos
    # For a truncated escape or word such as `true`, the error gives the index of its first letter.
    return distance <= (0 if window.ended and "escape" not in error.msg else _CUT_MARGIN)


def _truncated(name: str, where: str, num_records: int) -> UserError:
    return UserError(
        f"{name}: the file is truncated: its JSON list breaks off at {where}, after "
        f"{num_records:,} whole records; fetch it again"
    )
