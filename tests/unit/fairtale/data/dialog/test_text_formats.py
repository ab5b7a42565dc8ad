"""Pairs of questions and answers as JSON lines; the other readers are in test_formats.py."""

import pytest

from fairtale.data.dialog.formats import detect_format, read_dialogs
from fairtale.data.dialog.records import DialogReport

LINES = (
    '{"q": "안녕?", "a": "네, 안녕하세요."}\n'
    '{"idx": 1, "q": "Who?", "a": "Me.", "label": 0}\n'
    '{"question": "Who?", "answer": "You."}\n'
)


def read(path, lines):
    path.write_text(lines, encoding="utf-8")
    report = DialogReport()
    return list(read_dialogs([str(path)], report)), report


def test_questions_and_their_answers(tmp_path):
    dialogs, report = read(tmp_path / "a.jsonl", LINES)
    assert [dialog.turns for dialog in dialogs] == [
        ["안녕?", "네, 안녕하세요."],
        ["Who?", "Me."],
        ["Who?", "You."],
    ]
    # answers to one question share a subset
    assert [dialog.group for dialog in dialogs] == ["안녕?", "Who?", "Who?"]
    assert not report.skipped and list(report.files) == ["pairs"]


def test_what_is_no_pair_is_counted(tmp_path):
    bad = ['{"q": "a"}', '{"q": 1, "a": "b"}', '{"q": "a", "a": null}', '{"q": "", "a": "b"}', "[]"]
    dialogs, report = read(tmp_path / "a.jsonl", LINES + "\n".join(bad))
    assert len(dialogs) == 3
    assert report.skipped == {"no text q or no text a": 3, "empty query": 1, "not a JSON object": 1}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"q": "a", "a": "b"}', "pairs"),
        ('{"idx": 3, "question": "a", "answer": "b"}', "pairs"),
        ('{"turns": ["q", "a"]}', "conversations"),
        ('{"context": "q", "response": "a"}', "polyai"),
    ],
)
def test_pairs_are_recognised(tmp_path, line, expected):
    (tmp_path / "a.jsonl").write_text(line + "\n")
    assert detect_format(str(tmp_path / "a.jsonl"))[0] == expected
