"""Lines of UTF-8 text files, one by one, with errors that name file and line."""

import os
import sys
from collections.abc import Iterator
from typing import BinaryIO

from ...errors import UserError

_REMEDY = "convert the file to UTF-8"


def open_binary(path: str | os.PathLike[str]) -> BinaryIO:
    """Open ``path`` for reading, ``-`` being standard input; the caller closes it."""
    return sys.stdin.buffer if path == "-" else open(path, "rb")


def read_text_lines(path: str | os.PathLike[str], remedy: str = _REMEDY) -> Iterator[str]:
    """Read the lines of a UTF-8 file.

    Only a line feed ends a line: the other characters that Python's universal newlines
    and ``splitlines`` take for one (a lone carriage return, U+2028) stay in the text, so
    line numbers agree with ``wc -l`` and other tools.

    Args:
        path: a file, or ``-`` for standard input.
        remedy: what to do about a line that is not UTF-8, for the error.

    Yields:
        each line without its line feed (and without the carriage return before it).

    Raises:
        UserError: a line is not UTF-8.
    """
    stream = open_binary(path)
    try:
        for number, line in enumerate(stream, start=1):
            yield decode_line(line, path, number, remedy)
    finally:
        if path != "-":
            stream.close()


def decode_line(
    line: bytes, path: str | os.PathLike[str], number: int, remedy: str = _REMEDY
) -> str:
    """Return one line as text, without its end.

    Args:
        line: with or without its line feed.
        path: for the error.
        number: 1-based, for the error.
        remedy: what to do about a line that is not UTF-8, for the error.

    Raises:
        UserError: it is not UTF-8.
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
    """Refuse a line of a prompt that was no UTF-8, where the stream has kept its bytes.

    Args:
        line: decoded with ``errors="surrogateescape"``.
        number: 1-based, for the error.

    Raises:
        UserError: it holds a byte that was not UTF-8.
    """
    if not line.isascii() and any("\ud800" <= c <= "\udfff" for c in line):
        raise UserError(f"input line {number} is not valid UTF-8")
