"""Look at the beginning of a file: is it text at all, and of which layout?"""

import codecs
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ...errors import UserError
from .containers import without_packing
from .records import ByteStream

HEAD_BYTES = 1 << 20
_SHOWN = 60  # characters of a line that a message shows

# What a file begins with that is no text of a corpus: (first bytes, what it is and the remedy).
_FOREIGN: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xfe\0\0", "UTF-32 text; convert it to UTF-8 (iconv -f UTF-32)"),
    (b"\xff\xfe", "UTF-16 text; convert it to UTF-8 (iconv -f UTF-16)"),
    (b"\xfe\xff", "UTF-16 text; convert it to UTF-8 (iconv -f UTF-16)"),
    (b"\0\0\xfe\xff", "UTF-32 text; convert it to UTF-8 (iconv -f UTF-32)"),
    (b"\x1f\x8b", "gzip data inside gzip data; decompress it once (gunzip)"),
    (b"\x28\xb5\x2f\xfd", "zstd data; decompress it (unzstd)"),
    (b"7z\xbc\xaf", "a 7-Zip archive; unpack it"),
    (b"Rar!", "a RAR archive; unpack it"),
    (b"%PDF", "a PDF; save its text as UTF-8"),
    (b"{\\rtf", "RTF; save its text as UTF-8"),
    (b"SQLite format 3", "a SQLite database; `fairtale documents` reads it"),
    (b"ARROW1", "an Arrow file; save it as parquet (datasets: .to_parquet) or JSON lines"),
    (b"\xff\xff\xff\xff", "an Arrow stream, as datasets' save_to_disk writes it; save it as "
     "parquet (.to_parquet) or JSON lines (.to_json)"),
    (b"\x80\x02", "a Python pickle, which is code; save it as JSON lines"),
    (b"\x80\x03", "a Python pickle, which is code; save it as JSON lines"),
    (b"\x80\x04", "a Python pickle, which is code; save it as JSON lines"),
    (b"\x80\x05", "a Python pickle, which is code; save it as JSON lines"),
)  # fmt: skip
_PAGE = re.compile(
    rb"\s*(?:<!--.*?-->\s*)?<(?:!doctype\s+html|html)[\s>]", re.IGNORECASE | re.DOTALL
)
_ANNEX = re.compile(rb"[^\n]{0,400}/annex/objects/[^\n]*\n?\Z")
# More NULs than this share of the bytes are an encoding or binary data, not a stray control byte.
_MAX_NULS = 0.005


class Head(NamedTuple):
    """The beginning of a file, decompressed."""

    place: str  # the file, as messages name it
    name: str  # in lower case, without the extension of a compression
    data: bytes  # without a byte order mark
    whole: bool  # the file is no longer than this
    lines: list[str]  # whole lines without their ends; what is not UTF-8 becomes U+FFFD

    @property
    def spoken(self) -> list[str]:
        """The lines that are not blank."""
        return [line for line in self.lines if line.strip()]

    def begins(self, pattern: str) -> bool:
        """Return whether the text begins with a regular expression, white space aside."""
        return re.match(r"\s*" + pattern, "\n".join(self.lines[:200])) is not None

    def shown(self) -> str:
        """Return the first line that is not blank, shortened, for a message."""
        first = next(iter(self.spoken), "").strip()
        return repr(first if len(first) <= _SHOWN else first[:_SHOWN] + "...")


class Rewound:
    """A stream whose first bytes have been read already."""

    def __init__(self, head: bytes, stream: ByteStream) -> None:
        self._head, self._stream = head, stream

    def read(self, size: int = -1, /) -> bytes:
        """Return ``size`` bytes, fewer only at the end of the stream; all if it is negative."""
        if not self._head:
            return self._stream.read(size)
        end = len(self._head) if size < 0 else size
        data, self._head = self._head[:end], self._head[end:]
        return data + self._stream.read(size if size < 0 else size - len(data))


def look(stream: ByteStream, place: str) -> tuple[Head, ByteStream]:
    """Return the head of a stream, and a stream that begins with it again."""
    read = b""
    while len(read) < HEAD_BYTES and (block := stream.read(HEAD_BYTES - len(read))):
        read += block
    whole = len(read) < HEAD_BYTES
    name = without_packing(place.lower())
    data = read.removeprefix(codecs.BOM_UTF8)
    lines = data.decode("utf-8", "replace").split("\n")
    if not whole and len(lines) > 1:
        lines.pop()  # it may be cut
    head = Head(place, name, data, whole, [line.removesuffix("\r") for line in lines])
    return head, Rewound(read, stream)


def refuse_pointer(head: Head) -> None:
    """Refuse a pointer of Git LFS or git-annex, which stands for a file that was not fetched.

    Raises:
        UserError: it is one.
    """
    if head.data.startswith(b"version https://git-lfs"):
        raise UserError(
            f"{head.place}: a Git LFS pointer without the text itself; run `git lfs pull`"
        )
    if head.whole and len(head.data) < 500 and _ANNEX.match(head.data):
        raise UserError(
            f"{head.place}: a git-annex pointer without the text itself; run `git annex get`"
        )


def refuse_foreign(head: Head) -> None:
    """Refuse a file that is no UTF-8 text: a pointer, another encoding, a binary file, a web page.

    Raises:
        UserError: it is one; the message says what it is and what to do.
    """
    refuse_pointer(head)
    for magic, what in _FOREIGN:
        if head.data.startswith(magic):
            raise UserError(f"{head.place}: {what}")
    if _PAGE.match(head.data):
        raise UserError(
            f"{head.place}: an HTML page, perhaps an error page instead of the file; fetch the "
            "file itself (`fairtale documents` reads pages)"
        )
    nuls = head.data.count(0)
    if nuls > _MAX_NULS * len(head.data):
        share = 100 * nuls / len(head.data)
        raise UserError(
            f"{head.place}: {share:.0f} % NUL bytes, as UTF-16 without a mark or a binary file "
            "has; convert text to UTF-8 (iconv -f UTF-16LE -t UTF-8)"
        )


class Format(NamedTuple):
    """A layout that a reader knows."""

    name: str  # the value of --format
    what: str  # what a file of it holds, for messages
    example: str  # the beginning of a file


def unknown_layout(head: Head, seen: str, formats: Iterable[Format], page: str) -> UserError:
    """Return the error for a layout that is not recognised.

    Args:
        head: the file.
        seen: what was seen instead.
        formats: the formats that ``--format`` takes.
        page: the page of the documentation with an example of each.
    """
    return UserError(
        f"{head.place}: {seen} (first line {head.shown()}); the formats that --format takes are "
        f"{', '.join(one.name for one in formats)}; {page} has an example of each"
    )


def neighbours(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield each line that is not blank with the next one, if that is not blank either."""
    before = ""
    for line in lines:
        if before.strip() and line.strip():
            yield before, line
        before = line
