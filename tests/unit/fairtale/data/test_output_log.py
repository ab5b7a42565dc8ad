"""Texts are read from the output of fairseq-generate and fairseq-interactive."""

import pytest

from fairtale.data.output_log import read_output
from fairtale.errors import UserError

LOG = (
    b"2026 | INFO | x | D-7\tno\n"
    b"S-10\t\xe2\x96\x81c\nT-10\tc\nH-10\t-1\t\xe2\x96\x81z\nD-10\t-1\t\nP-10\t-1\n"
    b"S-0\ta b\nH-0\t-1\tx\nD-0\t-1\tx y\tz\nH-0\t-2\ty\nD-0\t-2\tsecond \xff\x00\x85\n"
    b"S-1\t\nD-1\t-2\tinvented\nS-2\nD-2\t-1\nD-3\t-0.5\tno source"
)


def test_texts_are_in_the_order_of_the_inputs(tmp_path):
    (tmp_path / "log").write_bytes(LOG)
    found = [(o.number, o.source, o.text) for o in read_output(str(tmp_path / "log"))]
    assert found == [
        (0, b"a b", b"x y\tz"),
        (0, b"a b", b"second \xff\x00\x85"),
        (1, b"", b"invented"),
        (2, b"", b""),
        (3, None, b"no source"),
        (10, "▁c".encode(), b""),
    ]
    pieces = [(o.number, o.text) for o in read_output(str(tmp_path / "log"), "H")]
    assert pieces == [(0, b"x"), (0, b"y"), (10, "▁z".encode())]


def test_texts_may_contain_line_breaks(tmp_path):
    """The scores of the tokens show where a text ends; without them, it is one line."""
    log = (
        b"S-0\tx\nH-0\t-1\ta\nD-0\t-1\tone\n\ntwo\r\nP-0\tis no score\n"
        b"P-0\t-1.2500 -inf nan\nI-0\t3\nS-1\ty\nD-1\t-2\t\n\nP-1\t-0.5\nD-2\t-1\tcut\nnoise\n"
        b"D-3\t-1\tx\nS-4\tz\nP-3\t-1.0\nD-4\t-1\tend\n2026 | INFO\nP-3\t-1.0\n"
    )
    (tmp_path / "log").write_bytes(log)
    found = [(o.number, o.text) for o in read_output(str(tmp_path / "log"))]
    assert found == [
        (0, b"one\n\ntwo\r\nP-0\tis no score"),
        (1, b"\n"),
        (2, b"cut"),
        (3, b"x"),
        (4, b"end"),
    ]


def test_no_such_file(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such log file"):
        read_output(str(tmp_path / "nowhere"))
