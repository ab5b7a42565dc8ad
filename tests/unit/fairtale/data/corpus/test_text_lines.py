"""Lines end at line feeds and nowhere else."""

import pytest

from fairtale.data.corpus.text_lines import read_text_lines
from fairtale.errors import UserError


def lines(tmp_path, data):
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    return list(read_text_lines(str(path)))


def test_only_line_feeds_end_a_line(tmp_path):
    text = "one\rstill one\u2028still\x0b one\x85\n\ntwo\r\nthree"
    expected = ["one\rstill one\u2028still\x0b one\x85", "", "two", "three"]
    assert lines(tmp_path, text.encode()) == expected
    assert lines(tmp_path, b"\xef\xbb\xbfone\n\xef\xbb\xbftwo\n") == ["one", "\ufefftwo"]
    assert lines(tmp_path, b"") == []


def test_a_line_that_is_not_utf8_is_named(tmp_path):
    with pytest.raises(UserError, match=r"a\.txt:3: not UTF-8 \(byte 0xe9 at column 4\)"):
        lines(tmp_path, b"one\ntwo\ncaf\xe9\n")
