"""Works in files: one a file, and what is no text is counted."""

import gzip

import pytest

from fairtale.data.corpus.heads import HEAD_BYTES
from fairtale.errors import UserError
from tests.document_helpers import read

TEXT = "Первый абзац.\nВторой абзац.\n"


def test_a_folder_gives_its_files_in_order_with_their_paths_as_ids(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two.md").write_text("Two *words*.")
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "c.html").write_text("<p>Three.</p>")
    (tmp_path / ".hidden.txt").write_text("Hidden.")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    found, report = read(tmp_path)
    assert found == [("a", TEXT.strip()), ("c", "Three."), ("b/two", "Two words.")]
    assert report.ignored_files == [str(tmp_path / "picture.png")]
    assert report.num_kept == 3 and report.num_chars == sum(len(text) for _, text in found)


@pytest.mark.parametrize(
    ("data", "kind", "place"),
    [
        (b"", "empty", ""),
        (b" \n\r\n\xef\xbb\xbf\t\n", "empty", ""),
        (b"one\ntwo \xff\n", "invalid UTF-8", ":2 (byte 0xff)"),
        ("текст".encode("cp1251"), "invalid UTF-8", ":1 (byte 0xf2)"),
        ("текст".encode("utf-16"), "invalid UTF-8", " (UTF-16)"),
        (b"\x7fELF\x00\x01", "binary data, not text", " (zero byte at 4)"),
        (b"a " * 600, "too long", " (1,199 characters)"),
        (b"a" * 5000, "too long", " (5,000 bytes)"),
    ],
)
def test_what_is_no_text_is_counted_and_named(tmp_path, data, kind, place):
    path = tmp_path / "bad.txt"
    path.write_bytes(data)
    (tmp_path / "good.txt").write_text("Good.")
    found, report = read(tmp_path)
    assert [name for name, _ in found] == ["good"]
    assert dict(report.skipped) == {kind: 1}
    assert report.places[kind] == [f"{path}{place}"]
    if kind == "empty":
        read(tmp_path, strict=True)
    else:
        with pytest.raises(UserError, match=f"bad.txt.*{kind}; --strict allows none"):
            read(tmp_path, strict=True)


@pytest.mark.parametrize("pack", [None, gzip.compress], ids=["plain", "gzip"])
def test_a_long_work_is_read_to_its_end(tmp_path, pack):
    """It is longer than the beginning that tells what the file is."""
    text = "\n".join(f"Line {number} of a long work." for number in range(HEAD_BYTES // 16))
    path = tmp_path / ("a.txt.gz" if pack else "a.txt")
    path.write_bytes(pack(text.encode()) if pack else text.encode())
    found, report = read(path, max_chars=len(text))
    assert found == [("a", text)] and report.num_bytes == len(text) > HEAD_BYTES


def test_a_work_that_occurs_twice_is_kept_once(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text(TEXT if name != "b" else TEXT.replace("\n", "\r\n"))
    found, report = read(tmp_path)
    assert [name for name, _ in found] == ["a"]
    assert report.places["duplicate"] == [str(tmp_path / "b.txt"), str(tmp_path / "c.txt")]
    with pytest.raises(UserError, match="b.txt: duplicate; --strict"):
        read(tmp_path, strict=True)


def test_a_file_named_twice_is_read_once(tmp_path):
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "link.txt").symlink_to(tmp_path / "a.txt")
    found, report = read(tmp_path, tmp_path / "a.txt")
    assert len(found) == 1 and not report.skipped


def test_xml_obeys_its_declaration_and_html_is_utf8(tmp_path):
    head = (
        '<?xml version="1.0" encoding="{}"?><FictionBook><body><p>Слово.</p></body></FictionBook>'
    )
    (tmp_path / "a.fb2").write_bytes(head.format("windows-1251").encode("cp1251"))
    (tmp_path / "b.fb2").write_bytes(head.format("no-such").encode())
    (tmp_path / "c.fb2").write_bytes(head.format("hex").encode())
    found, report = read(tmp_path)
    assert found == [("a", "Слово.")]
    assert report.places["invalid UTF-8"] == [
        f"{tmp_path}/b.fb2 (declares the unknown encoding no-such)",
        f"{tmp_path}/c.fb2 (declares the unknown encoding hex)",
    ]


def test_a_file_name_that_is_not_utf8_is_a_name_all_the_same(tmp_path):
    (tmp_path / "a\udcff.txt").write_text("Text.")
    assert read(tmp_path)[0] == [("a?", "Text.")]


@pytest.mark.parametrize("name", ["nothing", "nothing.txt"])
def test_a_missing_source_is_an_error(tmp_path, name):
    with pytest.raises(UserError, match=f"{name}: no such file or folder"):
        read(tmp_path / name)


def test_a_folder_without_works_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no .txt, .md, .* file in this folder"):
        read(tmp_path)
