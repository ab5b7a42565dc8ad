"""`fairtale documents` and `fairtale prepare documents`: works in, subsets out, whole or not."""

import json
import os
import random
import re

import pytest
from fairseq.data import data_utils

from fairtale.data.corpus.byte_level_files import load_byte_level
from fairtale.data.corpus.tokenizer_dictionary import TokenizerDictionary, read_dictionary
from tests.cli.fairtale_command import assert_user_error, fairtale
from tests.document_helpers import make_table

WORDS = "кот дом и ночь шёл снег the cat сказал он.".split()


def work(number, num_lines=3):
    draw = random.Random(number)
    lines = [" ".join(draw.choices(WORDS, k=draw.randint(3, 30))) for _ in range(num_lines)]
    return "\n".join(f"— {line}!" for line in lines)


WORKS = {f"Author{n % 4}__Work{n:02}": work(n) for n in range(40)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the works in works/, all.jsonl and all.db."""
    folder = tmp_path_factory.mktemp("works")
    (folder / "works").mkdir()
    for name, text in WORKS.items():
        (folder / "works" / f"{name}.txt").write_text(f"Автор: N\n\n{text}\n")
    records = [json.dumps({"id": name, "text": text}) + "\n" for name, text in WORKS.items()]
    (folder / "all.jsonl").write_text("".join(records))
    make_table(folder / "all.db", list(WORKS.items()), columns="name TEXT, text")
    return folder


def written(path):
    """The works of the subsets in a folder, and the report."""
    subsets = {}
    for file in sorted(path.glob("*.jsonl")):
        records = [json.loads(line) for line in file.read_text().splitlines()]
        subsets[file.stem] = {record["id"]: record["text"] for record in records}
    return subsets, json.loads((path / "report.json").read_text())


def documents(folder, *words, output="out"):
    return fairtale("documents", *words, "--output", output, "--quiet", cwd=folder)


def test_every_kind_of_source_gives_the_same_split(folder):
    found = []
    sources = (["works"], ["all.jsonl"], ["all.db", "--id-column", "name"])
    for number, words in enumerate(sources):
        done = documents(folder, *words, "--valid", "0.2", "--test", "0.1", output=f"s{number}")
        assert done.returncode == 0, done.stderr
        subsets, report = written(folder / f"s{number}")
        assert {n: t for works in subsets.values() for n, t in works.items()} == WORKS
        assert report["subsets"] == {name: len(works) for name, works in subsets.items()}
        assert report["kept"] == 40 and report["settings"]["valid"] == 0.2
        found.append(subsets)
    assert found[0] == found[1] == found[2]
    assert 3 <= len(found[0]["valid"]) <= 14 and found[0]["test"]
    printed = documents(folder, "works", "--valid", "0.2").stdout
    assert "works kept: 40" in printed and "labelled header lines removed: 40" in printed


def test_works_are_chosen_by_name_and_their_parts_stay_together(folder, tmp_path):
    done = documents(folder, "works", "--valid-works", "Author1__*", "Author2__Work02",
                     "--test-works", "Author3__Work03")  # fmt: skip
    assert done.returncode == 0, done.stderr
    subsets, _ = written(folder / "out")
    assert set(subsets["valid"]) == {n for n in WORKS if "r1__" in n} | {"Author2__Work02"}
    assert set(subsets["test"]) == {"Author3__Work03"} and len(subsets["train"]) == 28
    parts = [{"id": f"{b}/{c}", "book": b, "text": work(100 * b + c)}
             for c in range(5) for b in range(30)]  # fmt: skip
    (tmp_path / "parts.jsonl").write_text("".join(json.dumps(part) + "\n" for part in parts))
    done = documents(tmp_path, "parts.jsonl", "--work-field", "book", "--valid", "0.3")
    assert done.returncode == 0, done.stderr
    subsets, _ = written(tmp_path / "out")
    books = {name: {part.split("/")[0] for part in works} for name, works in subsets.items()}
    assert not books["train"] & books["valid"] and len(books["valid"]) >= 3


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["works", "--valid-works", "Nobody*"], ["--valid-works Nobody*: no work has this id"]),
        (["works", "--valid-works", "A*", "--test-works", "*r1*"], ["both name the work Author1"]),
        (["works", "--valid", "0.0001"], ["--valid 0.0001 of 40 works came to 0 valid works"]),
        (["works", "--valid", ".6", "--test", ".5"], ["--valid 0.6 --test 0.5", "below 1"]),
        (["works", "--table", "x"], ["--table x: no source is a SQLite database"]),
        (["all.db", "--table", "x"], ["--table x: all.db has no such table; it has: works"]),
        (["all.db", "--text-column", "x"], ["no column x; it has: name, text"]),
        (["all.jsonl", "--text-field", "x"], ["no work found", "no such field: x: 40"]),
        (["missing"], ["missing: no such file or folder"]),
        (["works", "all.jsonl", "--strict"], ["all.jsonl:1: duplicate; --strict allows none"]),
    ],
)
def test_mistakes_leave_nothing(folder, words, parts):
    done = documents(folder, *words, output="bad")
    assert_user_error(done, *parts)
    assert not (folder / "bad").exists() or not os.listdir(folder / "bad")


# ---------------------------------------------------------------------------- prepare


def prepare(folder, *words):
    return fairtale("prepare", "documents", *words, "--workers", "2", cwd=folder)


@pytest.fixture(scope="module")
def prepared(folder):
    done = prepare(folder, "--source", "works", "--data-bin", "bin", "--vocab-size", "300",
                   "--valid-works", "Author1__*")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "bin"


def rows(data, subset):
    """The texts of a subset, decoded from its rows, and its dictionary."""
    dictionary = read_dictionary(str(data / "dict.txt"))
    tokenizer = load_byte_level(str(data / "tokenizer.json"))
    texts = []
    for row in data_utils.load_indexed_dataset(str(data / subset), dictionary):
        assert row[-1] == dictionary.eos()
        texts.append(tokenizer.decode(" ".join(dictionary[token] for token in row[:-1])))
    return texts, dictionary


def test_prepare_makes_rows_of_whole_works(folder, prepared):
    texts = {subset: rows(prepared, subset)[0] for subset in ("train", "valid")}
    assert texts["valid"] == [text for name, text in WORKS.items() if "r1__" in name]
    assert sorted(texts["train"] + texts["valid"]) == sorted(WORKS.values())
    assert sorted(os.listdir(prepared / "text")) == ["report.json", "valid.jsonl"]
    assert not [name for name in os.listdir(folder) if "partial" in name]
    again = prepare(folder, "--source", "works", "--data-bin", "bin", "--vocab-size", "300",
                    "--valid-works", "Author1__*")  # fmt: skip
    assert again.returncode == 0 and "bin is ready (made before" in again.stderr


def test_a_model_s_tokenizer_and_dictionary_are_taken(folder, prepared):
    """As after an import: other ids, and entries that are never predicted."""
    model = folder / "model"
    model.mkdir()
    (model / "tokenizer.json").write_bytes((prepared / "tokenizer.json").read_bytes())
    pieces = load_byte_level(str(model / "tokenizer.json")).pieces
    dictionary = TokenizerDictionary.with_roles(pieces, {"eos": 2})
    dictionary.save(str(model / "dict.txt"))
    options = ("--source", "all.jsonl", "--data-bin", "taken", "--tokenizer", "model")
    done = prepare(folder, *options, "--valid", "0.2")
    assert done.returncode == 0, done.stdout + done.stderr
    texts, found = rows(folder / "taken", "train")
    assert isinstance(found, TokenizerDictionary) and found == dictionary
    assert set(texts) <= set(WORKS.values())


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "--source is missing"),
        (["--source", "nowhere"], "--source nowhere: no such file or folder"),
        (["--source", "works", "--valid", "0.0001"], "came to 0 valid works"),
        (["--source", "works", "--tokenizer", "m", "--vocab-size", "9"], "--vocab-size: the token"),
    ],
)
def test_prepare_leaves_nothing_after_a_mistake(folder, words, part):
    assert_user_error(prepare(folder, *words, "--data-bin", "no"), part)
    assert not [name for name in os.listdir(folder) if name.startswith("no")]


def test_story_lm_trains_on_blocks_and_validates_them_alike(fairseq, prepared, tmp_path):
    """The break mode is in the checkpoint; the words are those of the text, however it is cut."""
    words = fairseq.tiny(prepared, tmp_path, "--max-tokens", 200, "--max-update", 2, "--pack")
    words += ["--sample-break-mode", "split", "--tokens-per-sample", 32]
    words[words.index("cross_entropy")] = "label_smoothed_kl"
    trained = fairseq.run("train", *words)
    checkpoint = ("--path", tmp_path / "checkpoint_last.pt", "--cpu")
    validate = (prepared, *checkpoint, "--max-tokens", 64, "--log-format", "json")
    again = fairseq.run("validate", *validate)
    across = fairseq.run("validate", *validate, "--sample-break-mode", "none")
    dictionary = read_dictionary(str(prepared / "dict.txt"))
    rows = data_utils.load_indexed_dataset(str(prepared / "valid"), dictionary)
    num_tokens = int(rows.sizes.sum())
    num_words = sum(len(t.split()) for n, t in WORKS.items() if "r1__" in n)
    logs = []
    for result in (trained, again, across):
        head = rf"valid: 10 works, {num_tokens} tokens in \d+ blocks of at most 32, \d+\.\d % full"
        assert re.search(head, result.out)
        log = {key.removeprefix("valid_"): v for key, v in result.logged("valid")[-1].items()}
        ratio = float(log["nll_loss"]) / float(log["nll_word"])
        assert ratio * num_tokens == pytest.approx(num_words, rel=1e-3)
        assert float(log["ppl_word"]) > float(log["ppl"])
        logs.append((log["nll_loss"], log["ppl_word"]))
    assert logs[0] == logs[1] != logs[2]
    made = fairseq.run(
        "generate", prepared, *checkpoint, "--gen-subset", "valid", "--batch-size", 4, "--beam", 1,
        "--sample-break-mode", "eos", "--prompt-tokens", 3, "--max-len-b", 5,
    )  # fmt: skip
    assert len(made.rows("H")) == 10
