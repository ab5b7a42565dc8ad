"""Read one work from a text file."""

import codecs
import os
import re
from collections.abc import Iterator

from ..corpus.containers import CountedStream, named_damage, open_stream, without_packing
from ..corpus.heads import look, refuse_pointer
from ..corpus.report import INVALID_UTF8, TOO_LONG
from .records import BINARY, DocumentReport, OnBytes, RawDocument

# extension -> markup
MARKUP_OF_EXTENSION = {
    ".txt": "plain",
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".fb2": "fb2",
}
# An XML file declares its encoding in its first line; without a declaration it is UTF-8.
_XML_ENCODING = re.compile(rb"""\s*<\?xml[^>]*?\bencoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")


def max_bytes(max_chars: int) -> int:
    """Return the number of bytes above which a text has more than ``max_chars`` characters."""
    return 4 * max_chars + 64  # UTF-8 has at most four bytes a character


class TextFile:
    """A source of one document.

    Args:
        path: the file.
        name: the document's id, such as the path below its folder without the extension.
        markup: one of ``cleaning.MARKUPS``; None chooses by the extension.
        max_chars: maximum length of a document; a file that must be longer is not read.
    """

    def __init__(self, path: str, name: str, markup: str | None, max_chars: int) -> None:
        self.path = path
        self._name = name
        extension = os.path.splitext(without_packing(path))[1].lower()
        self._markup = markup or MARKUP_OF_EXTENSION.get(extension, "plain")
        self._max_chars = max_chars

    def read(self, report: DocumentReport, on_bytes: OnBytes) -> Iterator[RawDocument]:
        """Yield the document; a file that is binary, too long or not UTF-8 is counted."""
        limit = max_bytes(self._max_chars)
        size = os.path.getsize(self.path)
        if size > limit:  # compressed or not, it is longer than allowed
            on_bytes(size)
            report.skip(TOO_LONG, f"{self.path} ({size:,} bytes)", size)
            return
        with named_damage(self.path), open_stream(self.path, on_bytes) as stream:
            head, again = look(stream, self.path)
            refuse_pointer(head)
            data = CountedStream(again, report).read(limit + 1)
        if len(data) > limit:
            report.skip(TOO_LONG, f"{self.path} (over {limit:,} bytes)", len(data))
            return
        text = decode(data, self.path, report, xml=self._markup == "fb2")
        if text is not None:
            yield RawDocument(self._name, text, self._markup, self.path, self._name, is_file=True)


def decode(data: bytes, place: str, report: DocumentReport, xml: bool = False) -> str | None:
    """Return a document's bytes as text, or None if they are binary or not in its encoding.

    Args:
        data: the bytes; a byte order mark at their beginning is removed.
        place: the document, for the report.
        report: counts the damaged document.
        xml: obey the encoding that an XML declaration names; other texts must be UTF-8.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        report.skip(INVALID_UTF8, f"{place} (UTF-16)", len(data))
        return None
    if b"\x00" in data:
        report.skip(BINARY, f"{place} (zero byte at {data.index(0):,})", len(data))
        return None
    encoding = "utf-8"
    declared = _XML_ENCODING.match(data) if xml else None
    if declared:
        encoding = declared[1].decode()
    try:
        return data.removeprefix(codecs.BOM_UTF8).decode(encoding)
    except LookupError:  # unknown, or not an encoding of text
        report.skip(INVALID_UTF8, f"{place} (declares the unknown encoding {encoding})", len(data))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        report.skip(INVALID_UTF8, f"{place}:{line} (byte 0x{data[error.start]:02x})", len(data))
    return None
