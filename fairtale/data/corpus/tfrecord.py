"""Read TFRecord files of ``tf.train.Example`` without TensorFlow, and verify the checksums.

A record consists of its length (8 bytes, little-endian), the masked CRC-32C of those 8 bytes
(4 bytes), the data, and the masked CRC-32C of the data (4 bytes). The data is an ``Example`` in
protobuf's wire format: ``Example.features (1) -> Features.feature (1), a map of name (1) and
Feature (2) -> Feature.bytes_list (1) -> BytesList.value (1)``.

Source: TensorFlow's guide to TFRecord; RFC 3720, appendix B.4, for CRC-32C.
"""

import struct
from collections.abc import Iterator

from crc32c import crc32c

from ...errors import UserError
from .records import ByteStream

_MASK_DELTA = 0xA282EAD8
_HEAD_BYTES = 12  # length and its checksum
_MAX_RECORD_BYTES = 64 << 20
# Wire types of protobuf: length-delimited, and those of fixed size with their bytes; 0 is a varint.
_LEN, _FIXED = 2, {1: 8, 5: 4}


def masked_crc32c(data: bytes) -> int:
    """Return the CRC-32C as TFRecord stores it: rotated right by 15 bits, plus a constant."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def is_tfrecord(head: bytes) -> bool:
    """Return whether the first bytes of a file are a length followed by its checksum."""
    if len(head) < _HEAD_BYTES:
        return False
    checksum: int = struct.unpack("<I", head[8:_HEAD_BYTES])[0]
    return masked_crc32c(head[:8]) == checksum


def read_tfrecord(stream: ByteStream, name: str) -> Iterator[tuple[int, bytes | None]]:
    """Read the records of a TFRecord file.

    Args:
        stream: a binary file.
        name: name of the file, for error messages.

    Yields:
        ``(number, data)``: the 1-based number of a record, and its bytes, or None if their
        checksum is wrong. The length has its own checksum, so the next record is still found.

    Raises:
        UserError: the file is truncated, or a length is damaged, so the next record cannot be
            found.
    """
    number = 0
    while head := _read(stream, _HEAD_BYTES):
        number += 1
        place = f"{name}:record {number}"
        if len(head) < _HEAD_BYTES:
            raise UserError(f"{place}: the file is truncated; fetch it again")
        length, checksum = struct.unpack("<QI", head)
        if masked_crc32c(head[:8]) != checksum:
            raise UserError(
                f"{place}: the checksum of its length is wrong: not a TFRecord file, or a "
                "damaged one; fetch it again"
            )
        if length > _MAX_RECORD_BYTES:
            raise UserError(f"{place}: {length} bytes; at most {_MAX_RECORD_BYTES} are allowed")
        data = _read(stream, length + 4)
        if len(data) < length + 4:
            raise UserError(f"{place}: the file is truncated; fetch it again")
        data, checksum = data[:-4], struct.unpack("<I", data[-4:])[0]
        yield number, data if masked_crc32c(data) == checksum else None


def _read(stream: ByteStream, size: int) -> bytes:
    """Return ``size`` bytes, or fewer at the end of the file."""
    data = stream.read(size)
    while len(data) < size:
        more = stream.read(size - len(data))
        if not more:
            break
        data += more
    return data


def parse_example(data: bytes) -> dict[str, list[bytes]]:
    """Return the byte-string features of a serialised ``tf.train.Example`` by name.

    Numeric features are left out.

    Raises:
        ValueError: the bytes are not such a message.
    """
    features: dict[str, list[bytes]] = {}
    for _, message in _messages(data, 1):
        for _, entry in _messages(message, 1):
            name, values = "", list[bytes]()
            for field, value in _messages(entry, 1, 2):
                if field == 1:
                    name = value.decode("utf-8")
                else:
                    lists = _messages(value, 1)
                    values = [item for _, part in lists for _, item in _messages(part, 1)]
            if values:
                features[name] = values
    return features


def _messages(data: bytes, *wanted: int) -> Iterator[tuple[int, bytes]]:
    """Yield ``(field number, bytes)`` of the wanted length-delimited fields, in their order."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        field, wire = key >> 3, key & 7
        if wire == 0:
            _, at = _varint(data, at)
            continue
        if wire == _LEN:
            size, at = _varint(data, at)
        elif wire in _FIXED:
            size = _FIXED[wire]
        else:
            raise ValueError(f"wire type {wire}")
        if field == 0 or size > end - at:
            raise ValueError("field number 0" if field == 0 else "a field is cut off")
        if wire == _LEN and field in wanted:
            yield field, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the varint that begins at ``at``, and the index after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("a number is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than ten bytes")
