"""Split a binary stream into records: lines, or texts between separators."""

from collections.abc import Callable, Iterator
from typing import Protocol

from .report import INVALID_UTF8, TOO_LONG, CorpusReport

_BLOCK_BYTES = 1 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class ByteStream(Protocol):
    """A binary stream that can be read block by block: a file, an archive, a decompressor."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most ``size`` bytes; no bytes at the end of the stream."""
        ...


def read_records(
    stream: ByteStream,
    separator: bytes,
    max_bytes: int,
    on_overlong: Callable[[int, int], object] = lambda num_bytes, num_lines: None,
) -> Iterator[tuple[int, bytes | None]]:
    """Split a stream at ``separator``, without holding an overlong record in memory.

    Args:
        stream: a binary file.
        separator: ``b"\\n"`` gives lines.
        max_bytes: maximum size of a record; longer records are read block by block and discarded.
        on_overlong: called with the bytes and lines of a discarded record before it is yielded.

    Yields:
        ``(line, record)``: the 1-based line where the record begins, and its bytes without
        the separator, or None for a record of more than ``max_bytes``. The text after the
        last separator is a record unless it is blank.
    """
    line, carry, overlong, dropped_lines, dropped_bytes = 1, b"", False, 0, 0
    newlines_in_separator = separator.count(b"\n")
    while True:
        block = stream.read(_BLOCK_BYTES)
        records = (carry + block).split(separator)
        carry = records.pop()
        for record in records:
            num_lines = dropped_lines + record.count(b"\n")
            if overlong or len(record) > max_bytes:
                on_overlong(dropped_bytes + len(record), num_lines + 1)
                yield line, None
            else:
                yield line, record
            line += num_lines + newlines_in_separator
            overlong, dropped_lines, dropped_bytes = False, 0, 0
        if not block:
            break
        if len(carry) > max_bytes + len(separator) - 1:  # carry may end with part of a separator
            overlong = True
        if overlong:
            # Keep only the last bytes, which may be the beginning of a separator.
            keep_from = max(0, len(carry) - len(separator) + 1)
            dropped_lines += carry.count(b"\n", 0, keep_from)
            dropped_bytes += keep_from
            carry = carry[keep_from:]
    if overlong or len(carry) > max_bytes and carry.strip():
        on_overlong(dropped_bytes + len(carry), dropped_lines + carry.count(b"\n") + 1)
        yield line, None
    elif carry.strip():
        yield line, carry


def read_text_records(
    stream: ByteStream,
    separator: bytes,
    max_bytes: int,
    name: str,
    report: CorpusReport,
    errors: str = "strict",
) -> Iterator[tuple[int, str | None]]:
    """Read records as UTF-8 text, and remove a byte order mark at the beginning of the file.

    Args:
        stream, separator, max_bytes: as in :func:`read_records`.
        name: name of the file, for the report.
        report: counts records that are too long or not UTF-8.
        errors: ``surrogateescape`` yields records that are not UTF-8, with lone surrogates.

    Yields:
        ``(line, text)``: the 1-based line where the record begins, and its text, or None for
        a damaged record, which has been counted.
    """
    size = (0, 0)  # bytes and lines of the latest overlong record

    def note(num_bytes: int, num_lines: int) -> None:
        nonlocal size
        size = (num_bytes, num_lines)

    for line, record in read_records(stream, separator, max_bytes, note):
        if record is None:
            report.skip(TOO_LONG, f"{name}:{line}", *size)
            yield line, None
            continue
        if line == 1:
            record = record.removeprefix(_BYTE_ORDER_MARK)
        try:
            text = record.decode("utf-8", errors)
        except UnicodeDecodeError as error:
            wrong_line = line + record.count(b"\n", 0, error.start)
            byte = record[error.start]
            place = f"{name}:{wrong_line} (byte 0x{byte:02x})"
            report.skip(INVALID_UTF8, place, len(record), record.count(b"\n") + 1)
            yield line, None
            continue
        yield line, text
