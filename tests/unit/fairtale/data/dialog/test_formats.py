"""Readers of dialog corpora: their dialogs, and what is left out of bad input."""

import builtins
import gzip
import json
import os
import random

import pytest

from fairtale.data.corpus.split import Splitter
from fairtale.data.dialog import text_formats
from fairtale.data.dialog.amazon import parse_literal
from fairtale.data.dialog.cleaning import Cleaning
from fairtale.data.dialog.formats import detect_format, find_sources, read_dialogs, subset_by_name
from fairtale.data.dialog.records import DialogReport
from fairtale.errors import UserError
from tests.unit.fairtale.data.corpus.test_tfrecord import example, record


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def read(path, *, strict=False, **options):
    """``(lists of turns, report)`` of one file."""
    report = DialogReport(strict=strict)
    dialogs = list(read_dialogs([str(path)], report, **options))
    assert report.num_kept == len(dialogs)
    return [dialog.turns for dialog in dialogs], report


def groups(path):
    return [dialog.group for dialog in read_dialogs([str(path)], DialogReport())]


def left_out(report):
    """``{reason: (count, line of the first place)}``."""
    return {
        kind: (count, report.places[kind][0].rsplit("/", 1)[-1])
        for kind, count in report.skipped.items()
    }


# ------------------------------------------------------------------------------- Amazon


def test_amazon_single_and_multiple_answers(tmp_path):
    lines = [
        {"asin": "B1", "questionType": "yes/no", "question": "Does it\tfit?", "answer": "Yes's"},
        {
            "asin": "B2",
            "questions": [
                {
                    "questionText": "How long?",
                    "answers": [{"answerText": "6 ft", "answerScore": "0.1"}, {"answerText": "2m"}],
                },
                {"questionText": "Red?", "answers": [{"answerText": 'He said "no"'}]},
                {"questionText": "Nobody knows", "answers": []},
            ],
        },
    ]
    path = tmp_path / "qa_Things.json.gz"
    write(path, gzip.compress("".join(f"{line}\n" for line in lines).encode()))
    turns, report = read(path)
    assert turns == [
        ["Does it fit?", "Yes's"],
        ["How long?", "6 ft"],
        ["How long?", "2m"],
        ["Red?", 'He said "no"'],
    ]
    assert groups(path) == ["B1", "B2", "B2", "B2"]
    assert not report.skipped
    assert list(report.files) == ["amazon"]


def test_code_is_refused_and_never_runs(tmp_path, monkeypatch):
    target = tmp_path / "was-run"
    calls = []
    monkeypatch.setattr(builtins, "eval", lambda *a: calls.append(a))
    code = [
        f"__import__('pathlib').Path({str(target)!r}).touch()",
        f"{{'question': open({str(target)!r}, 'w').name, 'answer': 'a'}}",
        "{'question': [x for x in 'abc'], 'answer': 'a'}",
        "{'question': 'a' * 10**9, 'answer': 'a'}",
        "{'question': f'{1}', 'answer': 'a'}",
        "lambda: 0",
    ]
    broken = ["{'question': 'a', 'answer': ", "import os", "x = 1", "{'a': 1" + "1" * 5000 + "}"]
    deep = ["[" * 100_000, "{'question':" * 90 + "1" + "}" * 90]
    deep += ["-" * n + "1" for n in (4_000, 200_000)]  # too deep for the tree, for the parser
    useless = ["42", "{'question': 'a', 'answer': 3}", "{[]: 1}", "{'questions': ['a', 3]}"]
    good = "{'question': 'Why?', 'answer': 'So.'}"
    path = tmp_path / "qa.json"
    write(path, "\n".join([good, *code, *broken, *deep, *useless, "", good]))
    turns, report = read(path)
    assert turns == [["Why?", "So."]] * 2
    assert not target.exists() and not calls
    counts = left_out(report)
    assert counts["code instead of a literal (it was not run)"] == (6, "qa.json:2")
    assert counts["not a Python literal"][0] + counts["no question or no answer in it"][0] == 12
    assert counts["not a Python literal"][1] == "qa.json:8"
    with pytest.raises(UserError, match="qa.json:2: code instead of a literal"):
        read(path, strict=True)


def test_a_literal_may_hold_any_text():
    for text in ("\\d and \\ ", "' and \"", "{[(", "__import__('os')", "naïve 😀", "# no comment"):
        value = {"question": text, "answer": text}
        assert parse_literal(repr(value)) == (value, None)


def test_no_warning_for_a_backslash_in_a_text(recwarn):
    assert parse_literal(r"{'a': '\d'}") == ({"a": r"\d"}, None)
    assert not recwarn.list


# ------------------------------------------------------------------------------- PolyAI

POLYAI = [
    {
        "context": "q",
        "response": "r",
        "context/0": "c0",
        "context/1": "c1",
        "context/3": "not reached",
        "file_id": "film",
    },
    {"context": "can I", "response": "no", "product_id": "B2"},
    {"context": "first", "response": "second"},
]


def as_json(records):
    return "".join(json.dumps(r) + "\n" for r in records)


def as_tfrecord(records):
    encoded = ({k: v.encode() for k, v in r.items()} for r in records)
    return b"".join(record(example(**r)) for r in encoded)


@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "a.tfrecords", "a.tfrecord.gz", "a"])
def test_polyai_json_and_tfrecord_give_the_same(tmp_path, name):
    data = as_tfrecord(POLYAI) if "tf" in name else as_json(POLYAI).encode()
    path = tmp_path / name
    write(path, gzip.compress(data) if name.endswith("gz") else data)
    turns, report = read(path)
    assert turns == [["c1", "c0", "q", "r"], ["can I", "no"], ["first", "second"]]
    assert groups(path) == ["film", "B2", "first"]
    assert not report.skipped
    assert read(path, cleaning=Cleaning(max_context_turns=1))[0][0] == ["c0", "q", "r"]


# ---------------------------------------------------------------------- any of the formats

HALF, WHOLE = "\\ud83d", "\\ud83d\\ude00"  # escapes, as they stand in a file


@pytest.mark.parametrize(
    ("line", "turns", "group"),
    [
        (
            f'{{"turns": ["hello {HALF} there", "b {WHOLE}"]}}',
            ["hello there", "b 😀"],
            "hello  there",
        ),
        (f'{{"id": "x{HALF}", "turns": ["a", "b"]}}', ["a", "b"], "x"),
        (f"{{'question': 'hi {HALF}', 'answer': 'b {WHOLE}'}}", ["hi", "b 😀"], "hi "),
        (f"{{'asin': 'B{HALF}', 'question': 'hi', 'answer': 'b'}}", ["hi", "b"], "B"),
        (f'{{"context": "hi {HALF}", "response": "b"}}', ["hi", "b"], "hi "),
    ],
)
def test_halves_of_characters_are_dropped(line, turns, group, tmp_path):
    path = tmp_path / "a.json"
    write(path, f"{line}\n")
    dialog = next(read_dialogs([str(path)], DialogReport(strict=True), dedupe=True))
    assert (dialog.turns, dialog.group) == (turns, group)
    assert Splitter(1, 0.1, 0.1).subset(dialog) in ("train", "valid", "test")
    assert dialog.text.encode()


def test_bad_json_lines_are_counted(tmp_path):
    good = as_json(POLYAI[1:2])
    bad = ["{", "[1]", "[" * 100_000, '{"context": "a"}', '{"context": 1, "response": "b"}']
    path = tmp_path / "a.json"
    write(path, good + "\n".join(bad) + "\n\n" + good)
    path.write_bytes(path.read_bytes() + b'{"context": "\xff", "response": "a"}\n')
    turns, report = read(path)
    assert len(turns) == 2
    assert left_out(report) == {
        "not a JSON object": (3, "a.json:2"),
        "no context or no response": (2, "a.json:5"),
        "invalid UTF-8": (1, "a.json:9 (byte 0xff)"),
    }
    with pytest.raises(UserError, match="a.json:2: not a JSON object"):
        read(path, strict=True)


def test_a_broken_tfrecord(tmp_path):
    data = bytearray(as_tfrecord(POLYAI))
    data[30] ^= 1  # inside the first record
    data += record(b"\xff") + record(example(context=b"\xff", response=b"a"))
    path = tmp_path / "a.tfrecord"
    write(path, bytes(data))
    turns, report = read(path)
    assert turns == [["can I", "no"], ["first", "second"]]
    assert left_out(report) == {
        "wrong checksum": (1, "a.tfrecord:record 1"),
        "not a tf.train.Example": (1, "a.tfrecord:record 4"),
        "invalid UTF-8": (1, "a.tfrecord:record 5"),
    }
    with pytest.raises(UserError, match="a.tfrecord:record 1: wrong checksum"):
        read(path, strict=True)
    write(path, bytes(data[:-1]))
    with pytest.raises(UserError, match="a.tfrecord:record 5: the file is truncated"):
        read(path)


# ------------------------------------------------------- conversations, lines, tables


def test_every_turn_of_a_conversation_answers_those_before(tmp_path):
    lines = [
        {"id": 7, "turns": ["- a", "b", "[laughs]", "c", "d"]},
        {"turns": ["hello", "hello", "you"]},
        {"id": "x", "turns": ["alone"]},
        {"id": "y", "turns": "no list"},
        {"id": "z", "turns": ["a", None]},
    ]
    path = tmp_path / "a.jsonl"
    write(path, as_json(lines))
    turns, report = read(path, cleaning=Cleaning(max_context_turns=1))
    assert turns == [["a", "b"], ["a", "b", "c"], ["b", "c", "d"], ["hello", "hello", "you"]]
    assert groups(path)[2:] == ["7", "hello"]
    assert dict(report.amounts) == {"turns without words dropped": 1}
    assert left_out(report) == {
        "response equals query": (1, "a.jsonl:2 (turn 2)"),
        "a single turn, so no response": (1, "a.jsonl:3"),
        "no list of turns": (2, "a.jsonl:4"),
    }


def test_lines_answer_those_before_up_to_an_empty_one(tmp_path):
    path = tmp_path / "a.txt.gz"
    write(path, gzip.compress(b"\xef\xbb\xbfa\r\nb\n[door]\nc\n\n\nd\ne\n"))
    turns, report = read(path)
    assert turns == [["a", "b"], ["a", "b", "c"], ["d", "e"]]
    assert groups(path) == ["a\nb\n[door]\nc"] * 2 + ["d\ne"]
    assert report.places["turns without words dropped"] == [f"{path}:1"]
    assert [d.place for d in read_dialogs([str(path)], DialogReport())][2] == f"{path}:7 (turn 2)"


def test_lines_without_documents_are_cut_into_some(tmp_path, monkeypatch):
    monkeypatch.setattr(text_formats, "_DOCUMENT_LINES", 3)
    path = tmp_path / "a.txt"
    write(path, "1\n2\n3\n4\n5\n")
    assert read(path)[0] == [["1", "2"], ["1", "2", "3"], ["4", "5"]]
    assert groups(path) == ["1\n2\n3"] * 2 + ["4\n5"]


def test_tsv(tmp_path):
    path = tmp_path / "a.tsv"
    many = "\t".join("ab"[i % 2] for i in range(10_000))
    write(
        path, f"one\ttwo\tthree\nonly\n\n\tno query\nno response\t\n{many}\nuser says <SEP>\tok\n"
    )
    turns, report = read(path)
    assert turns == [["one", "two", "three"], ["user says <SEP>", "ok"]]
    assert groups(path) == ["one", "user says <SEP>"]
    assert left_out(report) == {
        "a single turn, so no response": (1, "a.tsv:2"),
        "empty query": (1, "a.tsv:4"),
        "empty response": (1, "a.tsv:5"),
        "too many turns, over 1000": (1, "a.tsv:6"),
    }


def test_csv(tmp_path):
    path = tmp_path / "a.csv"
    rows = 'Q,A,label\n안녕?,"반가워요, 네",0\n"two\nlines",ok,1\nshort\n\n같아,같아,0\n'
    write(path, rows.encode("utf-8-sig"))
    turns, report = read(path)
    assert turns == [["안녕?", "반가워요, 네"], ["two lines", "ok"]]
    assert groups(path) == ["안녕?", "two\nlines"]
    assert left_out(report) == {
        "a row without that column: 1 cells of 3": (1, "a.csv:5"),
        "response equals query": (1, "a.csv:7"),
    }
    write(path, "id,question,x,Answer\n1,why?,,so\n")
    assert read(path)[0] == [["why?", "so"]]
    write(path, "frage,antwort\na,b\n")
    with pytest.raises(UserError, match="a.csv: a table .* fields frage, antwort, .* --fields"):
        read(path)
    assert read(path, fields=("frage", "antwort"))[0] == [["a", "b"]]


# --------------------------------------------------------------------- files and limits


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.json", "{'asin': 'B', 'question': 'a', 'answer': 'b'}\n", "amazon"),
        ("a.json", "code()\n{'question': 'a'}\n", "amazon"),
        ("a.json", '{"context": "a", "response": "b"}\n', "polyai"),
        ("a.jsonl", '\n{"turns": ["a", "b"]}\n', "conversations"),
        ("a", '{"turns": ["a", "b"]}\n', "conversations"),
        ("a.txt", "Q,A,label\na,b,0\n", "csv"),
        ("a.csv", "Q;A\na;b\n", "csv"),
        ("a.tsv", "one\n", "tsv"),
        ("a.txt", "one\ttwo\n", "tsv"),
        ("a.txt", "one\ntwo\tthree\n", "lines"),
        ("a.txt", "", "lines"),
    ],
)
def test_formats_are_recognised(tmp_path, name, data, expected):
    assert detect_format(write(tmp_path / name, data))[0] == expected
    assert detect_format(write(tmp_path / name, gzip.compress(data.encode())))[0] == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('{"story": "a"}\n', "JSON lines with the fields story"),
        ("a\n".encode("utf-16"), "UTF-16"),
        (b"a\0b", "33 % NUL bytes"),
        (gzip.compress(b"a\nb\n" * 9999)[:-9], "damaged or incomplete compressed"),
        (gzip.compress(os.urandom(99_999))[:-9], "damaged or incomplete compressed|NUL bytes"),
    ],
)
def test_files_that_are_refused(tmp_path, data, message):
    path = write(tmp_path / "a.json", data)
    with pytest.raises(UserError, match=f"a.json: .*({message})"):
        read(path)


def test_folders_are_searched_in_order(tmp_path):
    for name in ("b/2.txt", "b/1.json.gz", "a.tsv", ".hidden.txt", "b/x.tfrecords", "b/notes.md"):
        write(tmp_path / name, "")
    report = DialogReport()
    found = [os.path.relpath(path, tmp_path) for path in find_sources([str(tmp_path)], report)]
    assert found == ["a.tsv", "b/1.json.gz", "b/2.txt", "b/x.tfrecords"]
    assert [os.path.basename(path) for path in report.ignored_files] == ["notes.md"]
    with pytest.raises(UserError, match="none: no such file or folder"):
        find_sources([str(tmp_path / "none")], report)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: no .json"):
        find_sources([str(tmp_path / "empty")], report)


def test_subsets_by_name():
    names = {
        "train-00000-of-00004.json": "train",
        "x/test.tsv": "test",
        "Valid_1.txt": "valid",
        "dev": "valid",
        "testing.txt": None,
        "trainers.json": None,
        "qa_test.json": None,
    }
    assert {name: subset_by_name(name) for name in names} == names


def test_dedupe_counts_equal_dialogs(tmp_path):
    path = tmp_path / "a.tsv"
    write(path, "a\tb\nc\ta\tb\na\tb\n")
    turns, report = read(path, dedupe=True)
    assert turns == [["a", "b"], ["c", "a", "b"]]
    assert left_out(report) == {"duplicate": (1, "a.tsv:3")}


def test_a_long_line_is_passed_over(tmp_path):
    path = tmp_path / "a.tsv"
    write(path, "x" * (5 << 20) + "\ty\na\tb\n")
    turns, report = read(path)
    assert turns == [["a", "b"]]
    assert left_out(report) == {"too long": (1, "a.tsv:1")}


def test_bytes_are_reported(tmp_path):
    path = tmp_path / "a.tsv"
    rows = (f"question {random.randbytes(60).hex()}\tanswer {i}\n" for i in range(50_000))
    write(path, gzip.compress("".join(rows).encode(), 1))
    seen = []
    list(read_dialogs([str(path)], DialogReport(), on_bytes=seen.append))
    assert sum(seen) == path.stat().st_size and sum(n > 0 for n in seen) > 1  # not all at once


def test_a_conversation_is_never_torn_apart(tmp_path):
    path = tmp_path / "a.jsonl"
    write(path, as_json({"id": i, "turns": [f"{i} {t}" for t in "abcdef"]} for i in range(300)))
    splitter = Splitter(1, 0.2, 0.2)
    subsets = {}
    for dialog in read_dialogs([str(path)], DialogReport(), Cleaning()):
        subsets.setdefault(dialog.group, set()).add(splitter.subset(dialog))
    assert len(subsets) == 300 and all(len(s) == 1 for s in subsets.values())
    assert set.union(*subsets.values()) == {"train", "valid", "test"}
