"""TFRecord files and tf.train.Example, read without TensorFlow."""

import io
import struct

import pytest
from crc32c import crc32c

from fairtale.data.corpus.tfrecord import (
    is_tfrecord,
    masked_crc32c,
    parse_example,
    read_tfrecord,
)
from fairtale.errors import UserError


def varint(value):
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def example(**features):
    """A serialised tf.train.Example; a value is bytes, or a ready Feature in a list."""
    message = b""
    for name, value in features.items():
        feature = value[0] if isinstance(value, list) else field(1, field(1, value))
        message += field(1, field(1, name.encode()) + field(2, feature))
    return field(1, message)


def record(data):
    head = struct.pack("<Q", len(data))
    checksums = (struct.pack("<I", masked_crc32c(part)) for part in (head, data))
    return head + next(checksums) + data + next(checksums)


def read(data):
    return list(read_tfrecord(io.BytesIO(data), "a.tfrecord"))


@pytest.mark.parametrize(
    ("data", "expected"),
    [  # RFC 3720, B.4, and the check value of the catalogue of CRCs
        (b"\0" * 32, 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ],
)
def test_crc32c(data, expected):
    assert crc32c(data) == expected


def test_masking():
    # the first twelve bytes of a file that TensorFlow has written: a record of 24 bytes
    head = bytes.fromhex("1800000000000000a37f4b22")
    assert is_tfrecord(head)
    assert not is_tfrecord(b"\x19" + head[1:])
    assert not is_tfrecord(head[:11])


def test_records_are_read_in_order():
    assert read(record(b"one") + record(b"") + record(b"three")) == [
        (1, b"one"),
        (2, b""),
        (3, b"three"),
    ]
    assert read(b"") == []


class Dribble(io.BytesIO):
    """A stream that gives three bytes at most, as pipes and archives may."""

    def read(self, size=-1):
        return super().read(min(size, 3))


def test_a_slow_stream():
    assert list(read_tfrecord(Dribble(record(b"one") + record(b"two")), "")) == [
        (1, b"one"),
        (2, b"two"),
    ]


def test_a_wrong_checksum_costs_one_record():
    data = bytearray(record(b"one") + record(b"two"))
    data[13] ^= 1
    assert read(bytes(data)) == [(1, None), (2, b"two")]


def test_a_wrong_length_ends_the_file():
    data = bytearray(record(b"one") + record(b"two"))
    data[len(record(b"one"))] ^= 1
    with pytest.raises(UserError, match=r"^a.tfrecord:record 2: the checksum of its length"):
        read(bytes(data))


@pytest.mark.parametrize("missing", [1, 4, 5, 8, 18])
def test_a_truncated_file(missing):
    with pytest.raises(UserError, match=r"^a.tfrecord:record 2: the file is truncated"):
        read((record(b"one") + record(b"two"))[:-missing])


def test_a_record_that_would_fill_the_memory_is_refused():
    head = struct.pack("<Q", 1 << 40)
    with pytest.raises(UserError, match="at most"):
        read(head + struct.pack("<I", masked_crc32c(head)))


def test_features():
    data = example(context="à".encode(), long=b"x" * 300, empty=b"")
    assert parse_example(data) == {"context": ["à".encode()], "long": [b"x" * 300], "empty": [b""]}
    assert parse_example(b"") == {}


def test_numbers_are_passed_over():
    floats = field(2, field(1, b"\0\0\x80\x3f"))
    integers = field(3, field(1, b"\x05\x06"))
    assert parse_example(example(a=[floats], b=[integers], c=b"yes")) == {"c": [b"yes"]}


def test_several_values_and_unknown_fields():
    two = field(1, field(1, b"one") + field(1, b"two"))
    unknown = varint(9 << 3) + varint(300) + varint(10 << 3 | 1) + b"\0" * 8
    unknown += varint(11 << 3 | 5) + b"\0" * 4 + field(12, b"text")
    assert parse_example(unknown + example(a=[two]) + unknown) == {"a": [b"one", b"two"]}


@pytest.mark.parametrize(
    "data",
    [
        example(a=b"text")[:-1],
        b"\x0a\xff",  # a length that is cut off
        b"\xff" * 11,  # a number without end
        b"\x0b\x01",  # a deprecated wire type of protobuf
        b"\x02\x01a",  # field number 0
        field(1, field(1, field(1, b"\xff"))),  # a name that is not UTF-8
    ],
)
def test_what_is_no_example(data):
    with pytest.raises(ValueError):
        parse_example(data)
