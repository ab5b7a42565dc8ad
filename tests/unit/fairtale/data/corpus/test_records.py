"""Records are cut from a stream as a plain split would, in little memory."""

import io
import random
import tracemalloc

import pytest

from fairtale.data.corpus import records
from fairtale.data.corpus.records import read_records


def test_reading_an_endless_line_takes_little_memory():
    class Endless(io.RawIOBase):
        left = 64 << 20

        def read(self, count):
            count = min(count, self.left)
            self.left -= count
            return b"x" * count

    tracemalloc.start()
    records = list(read_records(Endless(), b"\n", 1000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert records == [(1, None)]
    assert peak < 8 << 20


@pytest.mark.parametrize("separator", [b"\n", b"<|endoftext|>"])
@pytest.mark.parametrize("block", [1, 2, 7, 64])
def test_records_equal_a_plain_split(monkeypatch, separator, block):
    monkeypatch.setattr(records, "_BLOCK_BYTES", block)
    draw = random.Random(block)
    for _ in range(200):
        parts = [
            "".join(draw.choices("ab<|\n" if separator != b"\n" else "ab<|", k=draw.randint(0, 12)))
            for _ in range(draw.randint(1, 6))
        ]
        data = separator.join(part.encode() for part in parts)
        expected, line = [], 1
        for part in data.split(separator):
            expected.append((line, part if len(part) <= 5 else None))
            line += part.count(b"\n") + separator.count(b"\n")
        if not data.split(separator)[-1].strip():
            expected.pop()
        assert list(read_records(io.BytesIO(data), separator, 5)) == expected, data
