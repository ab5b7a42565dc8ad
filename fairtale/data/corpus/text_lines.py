"""Read UTF-8 text files line by line, with errors that name the file and the line."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import IO, BinaryIO

from ...errors import UserError

_REMEDY = "convert the file to UTF-8"


def open_binary(path: str | os.PathLike[str]) -> BinaryIO:
    """Return ``path`` opened for reading, or standard input for ``-``; the caller closes it."""
    return sys.stdin.buffer if path == "-" else open(path, "rb")


def read_text_lines(
    path: str | os.PathLike[str],
    remedy: str = _REMEDY,
    opened: contextlib.AbstractContextManager[IO[bytes]] | None = None,
) -> Iterator[str]:
    """Read the lines of a UTF-8 file.

    Only a line feed ends a line. The other characters that Python's universal newlines and
    ``splitlines`` treat as line ends (a lone carriage return, U+2028) stay in the text, so
    line numbers agree with ``wc -l`` and other tools.

    Args:
        path: a file, or ``-`` for standard input.
        remedy: what to do about a line that is not UTF-8, for the error message.
        opened: opens the file, such as a decompressor; None reads it as it is.

    Yields:
        each line without its line feed and without a carriage return before it.

    Raises:
        UserError: a line is not UTF-8.
    """
    if opened is None:
        is_input = path == "-"
        file = sys.stdin.buffer if is_input else open(path, "rb")  # noqa: SIM115 (closed below)
        opened = contextlib.nullcontext(file) if is_input else file
    with opened as stream:
        for number, line in enumerate(stream, start=1):
            yield decode_line(line, path, number, remedy)


def decode_line(
    line: bytes, path: str | os.PathLike[str], number: int, remedy: str = _REMEDY
) -> str:
    """Return one line as text without its line end; the first line loses its byte order mark.

    Args:
        line: the bytes of the line, with or without its line feed.
        path: the file, for the error message.
        number: 1-based number of the line.
        remedy: what to do about a line that is not UTF-8, for the error message.

    Raises:
        UserError: the line is not UTF-8.
    """
    if number == 1:
        line = line.removeprefix(b"\xef\xbb\xbf")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = line[error.start]
        name = "standard input" if path == "-" else path
        raise UserError(
            f"{name}:{number}: not UTF-8 (byte 0x{byte:02x} at column {error.start + 1}); {remedy}"
        ) from None
    return text.removesuffix("\n").removesuffix("\r")


def check_utf8(line: str, number: int) -> None:
    """Refuse an input line that was not valid UTF-8 before it was decoded.

    Args:
        line: text decoded with ``errors="surrogateescape"``, which keeps invalid bytes.
        number: 1-based number of the line, for the error message.

    Raises:
        UserError: the line holds a byte that was not UTF-8.
    """
    if not line.isascii() and any("\ud800" <= c <= "\udfff" for c in line):
        raise UserError(f"input line {number} is not valid UTF-8")
