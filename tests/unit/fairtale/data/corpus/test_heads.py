"""What is no text is refused by name; the beginning that was looked at is read again."""

import gzip
import io

import pytest

from fairtale.data.corpus.heads import HEAD_BYTES, look, refuse_foreign
from fairtale.errors import UserError

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1924281556\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (LFS.encode(), "Git LFS pointer.*git lfs pull"),
        (b"../.git/annex/objects/Xx/SHA256E-s1--ab.txt\n", "git-annex pointer"),
        ("text".encode("utf-16"), "UTF-16 text"),
        ("Once there was a fox.\n".encode("utf-16-le"), "50 % NUL bytes, as UTF-16 without a mark"),
        ("Once there was a fox.\n".encode("utf-16-be"), "50 % NUL bytes"),
        ("狐狸住在山里。\n".encode("utf-16-le") * 9, "NUL bytes"),
        ("text".encode("utf-32"), "UTF-32"),
        (gzip.compress(b"x"), "gzip data inside"),
        (b"%PDF-1.7\n", "a PDF"),
        (b"SQLite format 3\0", "SQLite database"),
        (b"\x80\x04\x95", "pickle, which is code"),
        (b"\x28\xb5\x2f\xfdxx", "zstd"),
        (b"\n<!DOCTYPE html>\n<html><body>404</body></html>", "an HTML page"),
        (b"{\\rtf1 x}", "RTF"),
    ],
)
def test_what_is_no_text_of_a_corpus(data, message):
    with pytest.raises(UserError, match=f"x.txt: .*{message}"):
        refuse_foreign(look(io.BytesIO(data), "x.txt")[0])


def test_text_is_not_refused():
    stray = b"A stray \0 control character. " + b"And a long text. " * 99
    for data in (b"", "Ärger 狐狸\n".encode(), stray, b"version 2 of the story\n"):
        refuse_foreign(look(io.BytesIO(data), "x.txt")[0])


@pytest.mark.parametrize("size", [0, 10, HEAD_BYTES, HEAD_BYTES + 1, 3 * HEAD_BYTES])
def test_the_stream_begins_again(size):
    data = (b"\xef\xbb\xbf" + b"0123456789abcde\n" * (size // 16 + 1))[:size]
    head, stream = look(io.BytesIO(data), "A.TXT.gz")
    assert head.name == "a.txt" and head.whole == (size < HEAD_BYTES)
    parts = []
    while block := stream.read(1000):
        parts.append(block)
    assert b"".join(parts) == data
    assert look(io.BytesIO(data), "x")[1].read() == data


@pytest.mark.parametrize("size", [HEAD_BYTES - 1, HEAD_BYTES, 3 * HEAD_BYTES])
def test_a_stream_that_begins_again_gives_as_many_bytes_as_are_asked_for(size):
    """A reader of whole files asks once."""
    data = b"0123456789abcdef" * (size // 16) + b"0" * (size % 16)
    stream = look(io.BytesIO(data), "x")[1]
    asked = HEAD_BYTES // 2, HEAD_BYTES, size
    assert [stream.read(count) for count in asked] == [
        data[: asked[0]],
        data[asked[0] : sum(asked[:2])],
        data[sum(asked[:2]) :],
    ]
    assert stream.read(1) == b""
