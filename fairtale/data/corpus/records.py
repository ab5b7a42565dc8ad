"""Split a binary stream into records: lines, or texts between separators."""

from collections.abc import Iterator
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
    stream: ByteStream, separator: bytes, max_bytes: int
) -> Iterator[tuple[int, bytes | None]]:
    """Split a stream at ``separator``, without holding an overlong record in memory.

    Args:
        stream: a binary file.
        separator: ``b"\\n"`` gives lines.
        max_bytes: maximum size of a record; longer records are read block by block and discarded.

    Yields:
        ``(line, record)``: the 1-based line where the record begins, and its bytes without
        the separator, or None for a record of more than ``max_bytes``. The text after the
        last separator is a record unless it is blank.
    """
    line, carry, overlong, dropped_lines = 1, b"", False, 0
    newlines_in_separator = separator.count(b"\n")
    while True:
        block = stream.read(_BLOCK_BYTES)
        records = (carry + block).split(separator)
        carry = records.pop()
        for record in records:
            yield line, None if overlong or len(record) > max_bytes else record
            line += dropped_lines + record.count(b"\n") + newlines_in_separator
            overlong, dropped_lines = False, 0
        if not block:
            break
        if len(carry) > max_bytes + len(separator) - 1:  # carry may end with part of a separator
            overlong = True
        if overlong:
            # Keep only the last bytes, which may be the beginning of a separator.
            keep_from = max(0, len(carry) - len(separator) + 1)
            dropped_lines += carry.count(b"\n", 0, keep_from)
            carry = carry[keep_from:]
    if carry.strip() or overlong:
        yield line, None if overlong or len(carry) > max_bytes else carry


def read_text_records(
    stream: ByteStream, separator: bytes, max_bytes: int, name: str, report: CorpusReport
) -> Iterator[tuple[int, str | None]]:
    """Read records as UTF-8 text, and remove a byte order mark at the beginning of the file.

    Args:
        stream, separator, max_bytes: as in :func:`read_records`.
        name: name of the file, for the report.
        report: counts records that are too long or not UTF-8.

    Yields:
        ``(line, text)``: the 1-based line where the record begins, and its text, or None for
        a damaged record, which has been counted.
    """
    for line, record in read_records(stream, separator, max_bytes):
        if record is None:
            report.skip(TOO_LONG, f"{name}:{line}")
            yield line, None
            continue
        if line == 1:
            record = record.removeprefix(_BYTE_ORDER_MARK)
        try:
            text = record.decode("utf-8")
        except UnicodeDecodeError as error:
            wrong_line = line + record.count(b"\n", 0, error.start)
            byte = record[error.start]
            report.skip(INVALID_UTF8, f"{name}:{wrong_line} (byte 0x{byte:02x})")
            yield line, None
            continue
        yield line, text
