"""`fairtale bpe train` and `bpe encode`: a vocabulary for fairseq, and text there and back."""

import json
import os
import random

import pytest
from fairseq.data import Dictionary

from fairtale.data.corpus.byte_level_files import load_byte_level
from fairtale.data.corpus.json_lines import read_texts
from tests.byte_level_helpers import TEXTS
from tests.cli.fairtale_command import assert_user_error, fairtale

FILES = ["dict.txt", "merges.txt", "tokenizer.json", "tokenizer_config.json", "vocab.json"]


def write_json_lines(path, texts):
    lines = [json.dumps({"text": text, "id": n}) + "\n" for n, text in enumerate(texts)]
    path.write_text("".join(lines), encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with works.jsonl, lines.txt and the tokenizer tok/."""
    folder = tmp_path_factory.mktemp("bpe")
    draw = random.Random(1)
    words = ["кот ", "the ", "cat", "\n\n", "🎉", "собака ", "1999", " — ", "</s>", "<CTX>"]
    works = ["".join(draw.choices(words, k=300)) for _ in range(20)]
    write_json_lines(folder / "works.jsonl", [*works, *TEXTS])
    lines = [text.replace("\n", " ").replace("\r", "") for text in [*works, *TEXTS]]
    (folder / "lines.txt").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    done = train(folder, "tok", "--symbols", "<SEP>")
    assert done.returncode == 0, done.stderr
    assert "byte-level BPE of 320 pieces from 52 texts (all) of 52 -> tok" in done.stdout
    return folder


def train(folder, output, *options, **env):
    words = ("works.jsonl", "lines.txt", "--output", output, "--vocab-size", "320", *options)
    return fairtale("bpe", "train", *words, cwd=folder, env=env)


def run(folder, *words):
    done = fairtale("bpe", "encode", *words, "--tokenizer", "tok/tokenizer.json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return done


def test_all_files_have_the_same_ids(folder):
    tok = folder / "tok"
    assert sorted(os.listdir(tok)) == FILES
    bpe = load_byte_level(str(tok))
    assert Dictionary.load(str(tok / "dict.txt")).symbols == bpe.pieces
    assert bpe.pieces[:5] == ["<s>", "<pad>", "</s>", "<unk>", "<SEP>"]
    assert list(json.loads((tok / "vocab.json").read_text())) == bpe.pieces
    merges = (tok / "merges.txt").read_text().splitlines()
    assert len(merges) == 1 + 320 - 5 - 256
    assert max(bpe.encode_ids("кот кот")) >= 5 + 256, "no piece was learned"


def test_the_same_texts_give_the_same_files(folder):
    for number, threads in enumerate("12"):
        env = {"RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
        done = train(folder, f"again{number}", "--symbols", "<SEP>", **env)
        assert done.returncode == 0, done.stderr
        for name in FILES:
            again = (folder / f"again{number}" / name).read_bytes()
            assert again == (folder / "tok" / name).read_bytes()


def test_text_there_and_back(folder):
    done = run(folder, "works.jsonl", "lines.txt", "--output-dir", "pieces", "--workers", "2")
    assert "works.jsonl -> pieces/works.txt: 28 lines, " in done.stderr
    rows = (folder / "pieces" / "works.txt").read_text(encoding="utf-8").split("\n")[:-1]
    texts = list(read_texts(folder / "works.jsonl"))
    assert len(rows) == len(texts) and rows[20] == ""
    assert not {"</s>", "<CTX>", "<SEP>", "<unk>"} & set(" ".join(rows).split())

    run(folder, "pieces/lines.txt", "--decode", "--output", "back.txt")
    assert (folder / "back.txt").read_bytes() == (folder / "lines.txt").read_bytes()
    run(folder, "pieces/works.txt", "--decode", "--json-lines", "--output-dir", "back")
    assert list(read_texts(folder / "back" / "works.jsonl")) == texts
    run(folder, "pieces/works.txt", "--decode", "--join-lines", "--output", "joined.txt")
    joined = (folder / "joined.txt").read_bytes().decode().split("\n")[:-1]
    assert joined == [text.replace("\n", " ") for text in texts]


def test_a_folder_or_gpt2s_two_files_are_a_tokenizer_too(folder, tmp_path):
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((folder / "tok" / name).read_bytes())
    outputs = []
    for tokenizer in (folder / "tok", tmp_path):
        words = ("lines.txt", "--tokenizer", tokenizer, "--quiet")
        outputs.append(fairtale("bpe", "encode", *words, cwd=folder).stdout)
    assert outputs[0] == outputs[1] != ""


def test_dialogs(folder):
    lines = ["old\tis it <SEP>?\tyes <CTX>", "hello", "q\tr"]
    (folder / "d.tsv").write_text("".join(line + "\n" for line in lines))
    words = ("d.tsv", "--output", "dtok", "--dialog", "--vocab-size", "270", "--min-frequency", "1")
    done = fairtale("bpe", "train", *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    dictionary = Dictionary.load(str(folder / "dtok" / "dict.txt"))
    assert len(dictionary) == 270 and dictionary.symbols[4:6] == ["<CTX>", "<SEP>"]
    words = ("d.tsv", "--dialog", "--output-dir", "dp", "--kept-dir", "dk", "--tokenizer", "dtok")
    done = fairtale("bpe", "encode", *words, cwd=folder)
    assert "left out, no response: 1 (first: line 2)" in done.stderr
    rows = (folder / "dp" / "d.tsv").read_text().splitlines()
    assert [row.replace(" ", "") for row in rows] == [
        "old<CTX>isĠitĠ<SEP>?<SEP>yesĠ<CTX>",
        "q<SEP>r",
    ]
    assert [row.split().count("<SEP>") for row in rows] == [1, 1]
    assert (folder / "dk" / "d.tsv").read_text().splitlines() == [lines[0], lines[2]]


# ------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--vocab-size", "100"], ["--vocab-size 100", "need 260"]),
        (["--vocab-size", "1000000000"], ["--vocab-size 1000000000", "at most 1000000"]),
        (["--vocab-size", "99999"], ["--vocab-size 99999", "give at most"]),
        (["--symbols", "</s>"], ["--symbols '</s>'", "always included"]),
        (["--symbols", "a b"], ["--symbols 'a b'", "without white space"]),
        (["--symbols", "é"], ["--symbols é", "the entry of a byte"]),
        (["--symbols", "<x>", "<x>"], ["each symbol only once"]),
    ],
)
def test_a_training_that_cannot_be(options, parts, folder):
    done = fairtale("bpe", "train", "lines.txt", "--output", "bad", *options, cwd=folder)
    assert_user_error(done, *parts)
    assert not (folder / "bad").exists()


def test_a_tokenizer_is_not_replaced(folder):
    before = (folder / "tok" / "tokenizer.json").read_bytes()
    assert_user_error(train(folder, "tok"), "--output tok: has a tokenizer.json", "remove it")
    assert (folder / "tok" / "tokenizer.json").read_bytes() == before


def test_damaged_lines_are_named(folder, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good\nbad \xff\n")
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "a"}\n{"text": 1}\n')
    (tmp_path / "empty.txt").write_bytes(b"\n \n")
    tokenizer = ("--tokenizer", folder / "tok")
    for name, part in (("a.txt", "not UTF-8"), ("b.jsonl", "a string in its field 'text'")):
        done = fairtale("bpe", "encode", name, "--output", "out", *tokenizer, cwd=tmp_path)
        assert_user_error(done, f"{name}:2: ", part)
        assert_user_error(
            fairtale("bpe", "train", name, "--output", "out", cwd=tmp_path), f"{name}:2: ", part
        )
    done = fairtale("bpe", "train", "empty.txt", "--output", "out", cwd=tmp_path)
    assert_user_error(done, "empty.txt: holds no text")
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "b.jsonl", "empty.txt"]


def test_options_of_encode_that_exclude_each_other(folder):
    (folder / "p.txt").write_text("a Ċ b\n")
    for words, part in (
        (["p.txt", "--decode"], "p.txt:1: its text has a line break"),
        (["p.txt", "--json-lines"], "--json-lines: only for --decode"),
        (["p.txt", "--decode", "--json-lines", "--join-lines"], "give one of them"),
        (["works.jsonl", "--dialog"], "not JSON lines"),
        (["p.txt", "p.jsonl", "--output-dir", "o"], "two texts have the same name"),
    ):
        words = [*words, "--tokenizer", "tok", "--quiet"]
        assert_user_error(fairtale("bpe", "encode", *words, cwd=folder), part)
    done = fairtale("bpe", "encode", "p.txt", "--tokenizer", "nowhere", cwd=folder)
    assert_user_error(done, "nowhere: no such tokenizer")
