"""Layouts of dialog files: what people have is read, what is not known is refused."""

import gzip
import json
import random
import re

import pytest

from fairtale.data.dialog.cleaning import Cleaning
from fairtale.data.dialog.formats import detect_format, read_dialogs
from fairtale.data.dialog.layouts import FORMATS, NAMES
from fairtale.data.dialog.records import DialogReport
from fairtale.errors import UserError
from tests.cli.fairtale_command import ROOT

DRAW = random.Random(1)
PAIRS = [(f"Who is it, {i} or {DRAW.random()}?", f"It is me, {i}.") for i in range(60)]
TALK = [turn for pair in PAIRS for turn in pair]


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def read(*paths, **options):
    report = DialogReport()
    found = list(read_dialogs(list(map(str, paths)), report, **options))
    return [dialog.turns for dialog in found], report


def as_lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


def messages(pair, roles=("user", "assistant"), keys=("role", "content")):
    return [dict(zip(keys, message)) for message in zip(roles, pair)]


def subtitles(separator=","):
    return "".join(
        f"{i + 1}\n00:{i // 60:02}:{i % 60:02}{separator}000 --> 00:{i // 60:02}:{i % 60:02}"
        f"{separator}900\n<i>{turn}</i>\n\n"
        for i, turn in enumerate(TALK)
    )


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.jsonl", as_lines({"messages": messages(p)} for p in PAIRS), "messages"),
        ("a.json", json.dumps([{"conversations": messages(p, ("human", "gpt"), ("from", "value"))}
                               for p in PAIRS], indent=1), "messages"),
        ("a.json", json.dumps([{"turns": messages(p, ("USER", "SYSTEM"), ("speaker", "utterance"))}
                               for p in PAIRS]), "messages"),
        ("a.json", "[\n" + ",\n".join(json.dumps({"turns": p}) for p in PAIRS) + "\n]",
         "conversations"),
        ("a.jsonl", as_lines({"dialog": p, "act": [1, 2]} for p in PAIRS), "conversations"),
        ("a.jsonl", as_lines({"prompt": q, "response": a} for q, a in PAIRS), "pairs"),
        ("a.json", json.dumps([{"instruction": q, "input": "", "output": a} for q, a in PAIRS]),
         "pairs"),
        ("a.jsonl", as_lines({"instruction": q, "context": "", "response": a} for q, a in PAIRS),
         "pairs"),
        ("a.csv", "prompt,response\n" + "".join(f'"{q}","{a}"\n' for q, a in PAIRS), "csv"),
        ("a.csv", "Question;Answer\n" + "".join(f"{q};{a}\n" for q, a in PAIRS), "csv"),
        ("a.tsv", "id\tquery\treply\n" + "".join(f"7\t{q}\t{a}\n" for q, a in PAIRS), "csv"),
        ("a.txt", "".join(f"{q} __eou__ {a} __eou__\n" for q, a in PAIRS), "eou"),
        ("a.txt", "\n".join(f"User: {q}\nBot: {a}\n" for q, a in PAIRS), "labelled"),
        ("a.txt", "\n".join(f"Anna: {q}\nBen: {a}\n" for q, a in PAIRS), "labelled"),
        ("a.tsv", "".join(f"{q}\t{a}\n" for q, a in PAIRS), "tsv"),
    ],
)  # fmt: skip
def test_pairs_are_read_from_every_layout(tmp_path, name, data, expected):
    path = write(tmp_path / name, data)
    turns, report = read(path)
    assert turns == [list(pair) for pair in PAIRS] and not report.skipped
    assert list(report.files) == [expected]
    assert read(write(tmp_path / f"{name}.gz", gzip.compress(data.encode())))[0] == turns


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.srt", subtitles(), "subtitles"),
        ("a.vtt", "WEBVTT\n\nNOTE by me\nand you\n\n" + subtitles("."), "subtitles"),
        ("a.txt", subtitles().replace("\n", "\r\n"), "subtitles"),
        ("a.xml", "<document>" + "".join(f'<s id="{i}"><time id="T"/>{turn}</s>'
                                         for i, turn in enumerate(TALK)) + "</document>", "opus"),
        ("a.xml", '<?xml version="1.0"?>\n<document>' + "".join(
            "<s>" + "".join(f"<w>{w}</w>" for w in re.findall(r"[\w.]+\d|\w+|\S", turn)) + "</s>"
            for turn in TALK) + "</document>", "opus"),
        ("a.txt", "\n".join(TALK), "lines"),
    ],
)  # fmt: skip
def test_films_are_read_from_every_layout(tmp_path, name, data, expected):
    turns, report = read(write(tmp_path / name, data), cleaning=Cleaning(max_context_turns=0))
    assert turns == [list(pair) for pair in zip(TALK, TALK[1:])]
    assert list(report.files) == [expected]


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"messages": [messages(pair) for pair in PAIRS]}), path)
    turns, report = read(path)
    assert turns == [list(pair) for pair in PAIRS] and list(report.files) == ["parquet"]


def test_only_an_assistant_responds(tmp_path):
    chat = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "One?"},
        {"role": "user", "content": [{"type": "text", "text": "Two?"}, {"type": "image_url"}]},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": "42"},
        {"role": "assistant", "content": "Three."},
        {"role": "user", "content": "Four?"},
        {"role": "assistant", "content": "Five."},
    ]
    records = [{"id": 3, "messages": chat}, {"messages": chat[:2]}, {"messages": "none"}]
    turns, report = read(write(tmp_path / "a.jsonl", as_lines(records)))
    assert turns == [["One? Two?", "Three."], ["One? Two?", "Three.", "Four?", "Five."]]
    assert report.skipped == {"no message of an assistant after another one": 2}


def test_speakers_continue_their_turns(tmp_path):
    data = "User: One\nand more.\nUser: Again.\nBot: Two.\n---\nUser: Three.\nBot: Four.\n"
    turns, _ = read(write(tmp_path / "a.txt", data))
    assert turns == [["One and more. Again.", "Two."], ["Three.", "Four."]]


def test_subtitles_of_two_speakers_and_over_two_times(tmp_path):
    data = (
        "1\n00:00:01,000 --> 00:00:02,000\n- Who is it?\n- It is\nme.\n\n"
        "2\n00:00:03,000 --> 00:00:04,000\n{\\an8}I came, because\n\n"
        "3\n00:00:05,000 --> 00:00:06,000\nyou &amp; I are friends.\n"
    )
    turns, _ = read(write(tmp_path / "a.srt", data))
    assert turns[-1] == ["Who is it?", "It is me.", "I came, because you & I are friends."]


def test_a_lost_line_parts_its_neighbours(tmp_path):
    data = b"One.\nTwo.\ncaf\xe9\nFour.\nFive.\n"
    turns, report = read(write(tmp_path / "a.txt", data))
    assert turns == [["One.", "Two."], ["Four.", "Five."]]
    assert report.lost_bytes["invalid UTF-8"] == 4 and report.num_bytes == len(data)
    data = b"User: One.\nBot: Tw\xff.\nUser: Three.\nBot: Four.\nUser: Five.\n"
    assert read(write(tmp_path / "a.txt", data))[0] == [["Three.", "Four."]]


def test_a_turn_that_cannot_be_seen_is_empty(tmp_path):
    turns, report = read(write(tmp_path / "a.tsv", "Who?\t\u200b\u200d \u200c\nWho?\tMe.\n"))
    assert turns == [["Who?", "Me."]] and report.skipped == {"empty response": 1}


def test_an_open_quotation_mark_costs_one_row(tmp_path):
    rows = [f"{q.replace(',', '')},{a.replace(',', '')}" for q, a in PAIRS] * 10
    rows[3] = '"open,' + rows[3]
    turns, report = read(write(tmp_path / "a.csv", "question,answer\n" + "\n".join(rows)))
    assert len(turns) == 599 and sum(report.damaged.values()) == 1


def test_columns_by_name_and_number(tmp_path):
    path = write(tmp_path / "a.tsv", "".join(f"{i}\t{q}\t{a}\n" for i, (q, a) in enumerate(PAIRS)))
    assert read(path, fields=("2", "3"))[0] == [list(pair) for pair in PAIRS]
    with pytest.raises(UserError, match="--fields 2,9: its first line has 3 columns"):
        read(path, fields=("2", "9"))
    path = write(tmp_path / "b.jsonl", as_lines({"x": q, "y": a} for q, a in PAIRS))
    assert read(path, fields=("x", "y"))[0] == [list(pair) for pair in PAIRS]
    with pytest.raises(UserError, match="--fields x,z: JSON lines with the fields x, y"):
        read(path, fields=("x", "z"))


INDEXED = "".join(f"{i}\t{q}\t{a}\n" for i, (q, a) in enumerate(PAIRS))
SCORED = "".join(f"{q}\t{a}\t0.{i:03}\n" for i, (q, a) in enumerate(PAIRS))
NUMBERED = "".join(f"{i % 9 + 1} {q}\t{a}\n" for i, (q, a) in enumerate(PAIRS))


@pytest.mark.parametrize(
    ("name", "data", "seen"),
    [
        ("a.tsv", INDEXED, "column 1 of its table holds numbers or ids.*--fields"),
        ("a.tsv", SCORED, "column 3 of its table holds numbers or ids.*--fields"),
        ("a.tsv", "".join(f"{q}\t{a}\tjoy\n" for q, a in PAIRS), "column 3 .* few values"),
        ("a.tsv", "first_turn\tsecond_turn\n" + INDEXED[:0] + "".join(
            f"{q}\t{a}\n" for q, a in PAIRS), "names of columns"),
        ("a.txt", NUMBERED, "begin with numbers"),
        ("a.txt", "".join(f"L{i} +++$+++ u0 +++$+++ {q}\n" for i, (q, _) in enumerate(PAIRS)),
         r"'\+\+\+\$\+\+\+' inside"),
        ("a.txt", "".join(f"[12:{i:02}] <anna> {q}\n" for i, (q, _) in enumerate(PAIRS)),
         "begin with a time"),
        ("a.txt", "".join(f"01/03/2024, 12:{i:02} - Anna: {q}\n" for i, (q, _) in enumerate(PAIRS)),
         "begin with a time"),
        ("a.txt", "".join(f"{{{i}}}{{{i + 9}}}{q}\n" for i, (q, _) in enumerate(PAIRS)), "JSON"),
        ("a.txt", "[Script Info]\n" + "".join(f"Dialogue: 0,{q}\n" for q, _ in PAIRS), "a label"),
        ("a.xml", "<TEI><text><body><u>Hello</u></body></text></TEI>", "begin with markup|XML of"),
        ("a.xml", '<?xml version="1.0"?><TEI><u>Hello</u></TEI>', "XML of <TEI>"),
        ("a.srt", "Hello\nyou\n", "a subtitle file without times"),
        ("a.jsonl", as_lines({"chosen": "x", "rejected": "y"} for _ in PAIRS), "fields chosen"),
        ("a.jsonl", as_lines({"text": q, "role": "user"} for q, _ in PAIRS), "fields text, role"),
        ("a.csv", "dialog,act\n" + "".join(f"\"['{q}' '{a}']\",[1 2]\n" for q, a in PAIRS),
         "fields dialog, act"),
        ("a.txt", "\n".join(TALK).encode("utf-16-le"), "UTF-16 without a mark"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused(tmp_path, name, data, seen):
    with pytest.raises(UserError, match=f"{name}: .*({seen})") as error:
        read(write(tmp_path / name, data))
    if "first line" in str(error.value):
        assert ", ".join(NAMES) in str(error.value) and "docs/dialogs.md" in str(error.value)


def test_markup_goes_where_the_corpus_has_it(tmp_path):
    film = write(tmp_path / "a.srt", subtitles())
    talk = write(tmp_path / "b.txt", "Tom &amp; <i>Ann</i>?\nYes.\n")
    assert read(film)[0][0][0] == TALK[0]
    turns, report = read(talk)
    assert turns[0][0] == "Tom &amp; <i>Ann</i>?"
    assert any("--markup clean" in line for line in report.lines())
    assert read(talk, cleaning=Cleaning(clean_markup=True))[0][0][0] == "Tom & Ann?"


@pytest.mark.parametrize("one", FORMATS, ids=NAMES)
def test_the_examples_of_the_page_are_recognised(one, tmp_path):
    page = (ROOT / "docs" / "dialogs.md").read_text(encoding="utf-8").replace("<TAB>", "\t")
    assert f"| `{one.name}`" in page
    if one.name not in ("parquet", "tfrecord"):
        assert all(line in page for line in one.example.split("\n"))
        path = str(write(tmp_path / "a", one.example))
        assert detect_format(path)[0] == one.name
        assert read(path)[0]
