"""JSON lines: texts with line breaks, and damaged lines by their place."""

import json

import pytest

from fairtale.data.corpus.json_lines import read_texts
from fairtale.errors import UserError


def test_line_breaks_inside_texts_are_kept(tmp_path):
    texts = ["a\n\nb\r\n ", "", "\x00 ж😀 \u2028"]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps({"text": t, "id": 1}) + "\n" for t in texts))
    assert list(read_texts(path)) == texts
    (tmp_path / "x.txt").write_text('{"text": "a"}\n b \n')
    assert list(read_texts(tmp_path / "x.txt")) == ['{"text": "a"}', " b "]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "not JSON"),
        (b'{"text": "a', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"text": "\xff"}', "not UTF-8"),
        (b'["a"]', "not an object with a string in its field 'text'"),
        (b'{"text": 1}', "not an object with a string in its field 'text'"),
        (b'{"text": "\\ud800"}', "its text has half of a surrogate pair"),
    ],
)
def test_damaged_lines_are_named(line, reason, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"text": "a"}\n' + line + b"\n")
    with pytest.raises(UserError) as error:
        list(read_texts(path))
    assert str(error.value).startswith(f"{path}:2: {reason}")
