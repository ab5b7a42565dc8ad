"""Works in JSON lines."""

import json

import pytest

from fairtale.errors import UserError
from tests.document_helpers import read


def write(path, *records):
    lines = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in records]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def test_ids_are_of_the_field_or_of_id_or_title_or_the_line(tmp_path):
    path = write(
        tmp_path / "a.jsonl",
        {"text": "One.", "id": 7},
        {"text": "Two.", "title": "Second", "key": "k2"},
        {"text": "Three.\nAnd more.", "id": "", "key": "k3"},
        b"",
    )
    names = [name for name, _ in read(path)[0]]
    assert names == ["7", "Second", f"{path}:3"]
    found, report = read(path, id="key")
    assert found == [("k2", "Two."), ("k3", "Three.\nAnd more.")]
    assert report.places["no such field: key"] == [f"{path}:1"]


def test_another_field_of_text(tmp_path):
    path = write(tmp_path / "a.jsonl", {"text": "no", "body": "Yes &amp; <b>no</b>."})
    assert read(path, text="body")[0][0][1] == "Yes & no."


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        ({"body": "x"}, "no such field: text"),
        ({"text": None}, "value that is not text, field text"),
        ({"text": ["x"]}, "value that is not text, field text"),
        ({"text": " \n "}, "empty"),
        ({"text": "x" * 1001}, "too long"),
        ([1, 2], "not a JSON object"),
        (b"{'text': 1}", "not a JSON object"),
        (b'{"text": "cut', "not a JSON object"),
        (b"[" * 100_000, "not a JSON object"),
        (b'{"text": "x", "n": ' + b"1" * 5000 + b"}", "not a JSON object"),
        (b'{"text": "\xff"}', "invalid UTF-8"),
    ],
)
def test_damaged_lines_are_counted_and_named(tmp_path, record, kind):
    path = write(tmp_path / "a.jsonl", {"text": "Good."}, record, {"text": "Better."})
    found, report = read(path)
    assert [text for _, text in found] == ["Good.", "Better."]
    assert dict(report.skipped) == {kind: 1}
    assert report.places[kind][0].startswith(f"{path}:2")
    if kind != "empty":
        with pytest.raises(UserError, match=f"a.jsonl:2.*{kind}"):
            read(path, strict=True)


def test_a_line_of_any_length_is_not_held(tmp_path):
    path = write(tmp_path / "a.jsonl", {"text": "x" * 20_000_000}, {"text": "Good."})
    found, report = read(path)
    assert [text for _, text in found] == ["Good."]
    assert report.places["too long"] == [f"{path}:1"]


def test_half_characters_and_control_characters_are_removed(tmp_path):
    path = write(tmp_path / "a.jsonl", b'{"id": "n\\ud800", "text": "a\\ud800b\\u0000 \x01c"}')
    found, report = read(path)
    assert found == [("n?", "ab c")]
    assert report.amounts["control characters removed"] == 3


def test_a_byte_order_mark_and_windows_line_ends(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "One."}\r\n{"text": "Two."}\r\n')
    assert [text for _, text in read(path)[0]] == ["One.", "Two."]


def test_options_that_no_source_uses_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("Text.")
    with pytest.raises(UserError, match="--text-field, --id-field, --work-field: no source"):
        read(tmp_path, text="body")
    with pytest.raises(UserError, match="--table works: no source is a SQLite database"):
        read(tmp_path, table="works")
