"""`fairtale dialogs`, `spm --dialog` and `score-dialog`: raw conversations to data and scores."""

import json

import pytest
import sentencepiece
from fairseq.data import Dictionary, data_utils

from tests.cli.fairtale_command import assert_user_error, fairtale, script

NAMES = ["Lily", "Tom", "Ben", "Mia", "Sam", "Anna"]
THINGS = ["a red ball", "a small dog", "an old hat", "a green kite", "<SEP>", "the <CTX> mark"]


def conversations(count):
    """JSON lines of four turns each, every conversation different."""
    lines = []
    for i in range(count):
        name, thing = NAMES[i % 6], THINGS[i // 6 % 6]
        turns = [
            f"- Who has number {i}?",
            f"{name} has {thing}.",
            "Where (if at all)?",
            f"Here {i}.",
        ]
        lines.append(json.dumps({"id": f"c{i}", "turns": turns}) + "\n")
    return "".join(lines)


def read(path):
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def run(*words, cwd):
    done = fairtale(*words, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Conversations, their split in ``out``, a tokenizer ``m`` with dictionary."""
    folder = tmp_path_factory.mktemp("dialogs")
    (folder / "a.jsonl").write_text(conversations(300))
    options = ["--valid", "0.1", "--test", "0.1", "--max-context-turns", "1", "--quiet"]
    run("dialogs", "a.jsonl", "--output", "out", *options, cwd=folder)
    run("spm", "train", "out/train.tsv", "--dialog", "--model", "m", "--vocab-size", "400",
        "--workers", "1", "--quiet", cwd=folder)  # fmt: skip
    return folder


def test_dialogs_are_split_by_conversation(folder):
    subsets = {name: read(folder / "out" / f"{name}.tsv") for name in ("train", "valid", "test")}
    assert sum(map(len, subsets.values())) == 900
    ids = {name: {line.split()[-1] for line in lines if line.endswith(".")} for name, lines in
           subsets.items()}  # fmt: skip
    numbers = {name: {i for i in found if i[:-1].isdigit()} for name, found in ids.items()}
    assert not numbers["train"] & (numbers["valid"] | numbers["test"])
    assert min(map(len, numbers.values())) > 10
    for lines in subsets.values():  # the three dialogs of a conversation stand together
        assert len(lines) % 3 == 0
        first, second, third = (line.split("\t") for line in lines[:3])
        assert first == second[:2] and second[1:] == third[:2]
        assert third[1] == "Where?" and len(third) == 3
    report = json.loads((folder / "out" / "report.json").read_text())
    assert report["kept"] == 900 and report["left_out"] == {}
    assert report["subsets"] == {name: len(lines) for name, lines in subsets.items()}
    assert report["settings"]["max_context_turns"] == 1


def test_options_of_cleaning(tmp_path):
    (tmp_path / "a.tsv").write_text("- (a) b\tsame\nsame\tsame\nx\tx yz\nlong\tlong line\n")
    options = "--keep-asides --keep-punctuation --allow-equal --min-chars 3 --max-chars 7".split()
    shares = ["--valid", "0", "--test", "0"]
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "valid.tsv").write_text("of an earlier run")
    done = run("dialogs", "a.tsv", "--output", "o", *shares, *options, cwd=tmp_path)
    assert read(tmp_path / "o" / "train.tsv") == ["- (a) b\tsame", "same\tsame"]
    assert "left out, query of fewer than 3 characters: 1 (first: a.tsv:3)" in done.stdout
    assert "left out, response of more than 7 characters: 1 (first: a.tsv:4)" in done.stdout
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["report.json", "train.tsv"]
    run("dialogs", "a.tsv", "--output", "o", *shares, cwd=tmp_path)
    assert read(tmp_path / "o" / "train.tsv") == ["b\tsame", "x\tx yz", "long\tlong line"]


def test_named_test_files_are_the_test_set(tmp_path):
    (tmp_path / "train-1.tsv").write_text("".join(f"who {i}?\tyou {i}.\n" for i in range(100)))
    (tmp_path / "test-1.tsv").write_text("q\tq\n")
    words = ("dialogs", ".", "--output", "o", "--split-by-name", "--valid", "0.2")
    done = fairtale(*words, cwd=tmp_path)
    assert_user_error(done, "no dialog of the test files is left after cleaning")
    (tmp_path / "test-1.tsv").write_text("q\tr\n")
    run("dialogs", ".", "--output", "o", "--split-by-name", "--valid", "0.2", cwd=tmp_path)
    assert read(tmp_path / "o" / "test.tsv") == ["q\tr"]
    assert 5 < len(read(tmp_path / "o" / "valid.tsv")) < 40


@pytest.mark.parametrize(
    ("name", "data", "options", "parts"),
    [
        ("a.tsv", "a\ta\n", [], ["no dialog found", "response equals query: 1", "a.tsv:1"]),
        ("a.tsv", "", [], ["no dialog found", "the files are empty"]),
        ("a.tsv", "a\tb\n", ["--test", "0"], ["--valid 0.005", "0 valid dialogs"]),
        ("a.tsv", "a\tb\n", ["--valid", "0.6", "--test", "0.5"], ["--valid 0.6 --test 0.5"]),
        ("a.tsv", "a\tb\n", ["--split-by-name"], ["--split-by-name", "no file is named"]),
        ("a.tsv", "a\tb\n", ["--min-chars", "9", "--max-chars", "8"], ["--min-chars 9"]),
        ("a.json", "{'question': exit(), 'answer': 'a'}\n", ["--strict"], ["a.json:1: code"]),
        ("a.json", '{"a": 1}\n', [], ["a.json: JSON lines with the fields a"]),
    ],
)
def test_errors(tmp_path, name, data, options, parts):
    (tmp_path / name).write_text(data)
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "train.tsv").write_text("kept\n")
    done = fairtale("dialogs", name, "--output", "o", *options, cwd=tmp_path)
    assert_user_error(done, *parts)
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["train.tsv"]
    assert read(tmp_path / "o" / "train.tsv") == ["kept"]


def test_the_dictionary_has_the_marks_and_the_tokenizer_has_not(folder):
    dictionary = Dictionary.load(str(folder / "dict.txt"))
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "m.model"))
    pieces = {processor.id_to_piece(i) for i in range(processor.get_piece_size())}
    assert len(dictionary) == 400 and len(pieces) == 398
    assert set(dictionary.symbols) - pieces == {"<CTX>", "<SEP>"}


def encode(folder, lines, *options):
    (folder / "in.tsv").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    done = run("spm", "encode", "in.tsv", "--dialog", "--model", "m.model", "--output-dir", "enc",
               "--kept-dir", "kept", "--workers", "1", *options, cwd=folder)  # fmt: skip
    return read(folder / "enc" / "in.tsv"), read(folder / "kept" / "in.tsv"), done.stderr


def test_turns_are_encoded_alone_and_joined_by_the_marks(folder):
    encoded, kept, _ = encode(folder, ["Who?\t\tHere.\tWhere?\tA red ball <SEP> and <CTX>"])
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "m.model"))
    who, here, where, ball = (
        " ".join(processor.encode(turn, out_type=str))
        for turn in ("Who?", "Here.", "Where?", "A red ball <SEP> and <CTX>")
    )
    assert encoded == [f"{who} <CTX> {here} <CTX> {where} <SEP> {ball}"]
    assert kept == ["Who?\t\tHere.\tWhere?\tA red ball <SEP> and <CTX>"]
    # the letters of the marks were text: each mark of a line is the framework's
    assert encoded[0].split().count("<SEP>") == 1 and encoded[0].split().count("<CTX>") == 2


def test_what_is_no_dialog_is_counted_and_named(folder):
    many = "\t".join(["a"] * 10_000)
    lines = ["Who?\tHere.", "alone", "", "\tr", "q\t", "q\t ", many, "Where?\tHere."]
    encoded, kept, said = encode(folder, lines)
    assert len(encoded) == 2 and kept == [lines[0], lines[-1]]
    assert "in.tsv: left out, no response: 2 (first: line 2, 3)" in said
    assert "in.tsv: left out, empty query: 1 (first: line 4)" in said
    assert "in.tsv: left out, empty response: 2 (first: line 5, 6)" in said
    assert "in.tsv: left out, more than 1000 turns: 1 (first: line 7)" in said
    assert "8 lines" in said


def test_workers_and_tasks_change_nothing(folder):
    lines = [f"Who has {i}?\tTom has {i}." if i % 7 else "alone" for i in range(40_000)]
    lines[39_990] = "q\t"
    one = encode(folder, lines)
    three = encode(folder, lines, "--workers", "3")
    assert one[:2] == three[:2] and len(one[0]) == len(one[1]) == 34_284
    assert "no response: 5715 (first: line 1, 8, 15)" in three[2]
    assert "empty response: 1 (first: line 39991)" in three[2]


def test_unknown_pieces(tmp_path):
    (tmp_path / "in.tsv").write_text("aa bb\tbb aa\nab ba\tba ab\n" * 50)
    run("spm", "train", "in.tsv", "--dialog", "--model", "m", "--vocab-size", "12",
        "--no-byte-fallback", "--character-coverage", "1", cwd=tmp_path)  # fmt: skip
    lines = ["aa\tb 1 2 3 a", "aa\tb 1 2 3 4", "1 2 3 4\ta\tb", "1\t2\t3"]
    encoded, kept, said = encode(tmp_path, lines)
    assert kept == [lines[0], lines[3]]
    assert "left out, a turn with more than 3 unknown pieces: 2 (first: line 2, 3)" in said
    assert encoded[1].split().count("<unk>") == 3 and "6 unknown" in said
    assert len(encode(tmp_path, lines, "--max-unknown", "4")[0]) == 4


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (
            ["encode", "b.tsv", "--model", "m.model", "--dialog"],
            ["b.tsv: all dialogs were left out", "line 1"],
        ),
        (["encode", "b.tsv", "--model", "m.model", "--dialog", "--decode"], ["--decode"]),
        (["encode", "b.tsv", "--model", "m.model", "--kept-dir", "k"], ["--kept-dir needs"]),
        (
            ["encode", "b.tsv", "--model", "m.model", "--dialog", "--output-dir", "k"]
            + ["--kept-dir", "k"],
            ["--kept-dir k"],
        ),
        (
            ["encode", "b.tsv", "--model", "m.model", "--dialog", "--output-dir", "k"]
            + ["--kept-dir", "."],
            ["--kept-dir ."],
        ),
        (["train", "b.tsv", "--model", "x", "--dialog", "--symbols", "<SEP>"], ["--symbols <SEP>"]),
        (["train", "b.tsv", "--model", "x", "--dialog", "--vocab-size", "999"], ["at most"]),
    ],
)
def test_wrong_uses_of_spm(folder, words, parts):
    (folder / "b.tsv").write_text("alone\n")
    assert_user_error(fairtale("spm", *words, "--quiet", cwd=folder), *parts)
    assert read(folder / "b.tsv") == ["alone"]


def test_score_dialog(tmp_path):
    (tmp_path / "ref.tsv").write_text("q\ta b c d e\nc\tq\tno\n")
    (tmp_path / "hyp.txt").write_text("x\na b c d x\nyes\nno\n")
    done = run("score-dialog", "hyp.txt", "ref.tsv", "--nbest", "2", cwd=tmp_path)
    rows = {line.split("  ")[0]: line.split()[-6:] for line in done.stdout.splitlines()[1:4]}
    assert rows["first"][2:] == ["100.00", "0.00", "1.00", "0.00"]
    assert rows["best F1 of 2"][5] == "90.00" and rows["all 2"][5] == "45.00"
    assert "2 dialogs, 0 empty replies" in done.stdout
    assert "nbest:2" in done.stdout.splitlines()[-1]
    table = run("score-dialog", "hyp.txt", "ref.tsv", "--nbest", "2", "--table", cwd=tmp_path)
    heads, line, first = table.stdout.splitlines()[:3]
    assert [cell.strip() for cell in heads.split("|")[1:3]] == ["reply", "BLEU"]
    assert set(line) <= set("|-:") and line.endswith("-:|")
    assert first.split("|")[6].strip() == "1.00"
    done = fairtale("score-dialog", "hyp.txt", "ref.tsv", cwd=tmp_path)
    assert_user_error(done, "hyp.txt has replies to 4 dialogs", "ref.tsv has 2 references")


def test_prepare_makes_a_data_folder_once(tmp_path):
    (tmp_path / "a.json").write_text(
        "".join(
            str({"asin": f"B{i % 50}", "question": f"Is number {i} red?", "answer": f"{i}, yes."})
            + "\n"
            for i in range(200)
        )
        + "import os\n" + str({"question": "one sided", "answer": "(shrugs)"}) + "\n"
    )  # fmt: skip
    words = ["--source", "a.json", "--data-bin", "bin", "--vocab-size", "320", "--valid", "0.1",
             "--test", "0.1", "--workers", "1"]  # fmt: skip
    done = script("dialog_amazon_qa/prepare.sh", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "left out, not a Python literal: 1 (first: a.json:201)" in done.stdout
    assert "left out, empty response: 1 (first: a.json:202)" in done.stdout
    files = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "bin").iterdir()}
    assert {"dict.txt", "sentencepiece.bpe.model", "train.bin", "test.idx", "text"} <= set(files)
    dictionary = Dictionary.load(str(tmp_path / "bin" / "dict.txt"))
    assert len(dictionary) == 320
    counts = json.loads((tmp_path / "bin" / "text" / "report.json").read_text())["subsets"]
    for name in ("train", "valid", "test"):
        data = data_utils.load_indexed_dataset(str(tmp_path / "bin" / name), dictionary)
        assert len(data) == counts[name]
        assert all((data[i] == dictionary.index("<SEP>")).sum() == 1 for i in range(len(data)))
    assert len(read(tmp_path / "bin" / "text" / "test.tsv")) == counts["test"]

    again = script("dialog_amazon_qa/prepare.sh", *words, cwd=tmp_path)
    assert again.returncode == 0 and "made before with the same settings" in again.stderr
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "bin").iterdir()} == files
    other = script("dialog_amazon_qa/prepare.sh", *words, "--seed", "2", cwd=tmp_path)
    assert other.returncode == 2 and "made with other settings" in other.stderr
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []
