"""What the verbs that clean a corpus share: limits of losses, published splits, Unicode."""

import json
import os
import random

import pytest
import sentencepiece

from fairtale.cli.main import run_verb
from fairtale.data.corpus.original_bytes import count_bytes, original_bytes, write_counts
from fairtale.errors import UserError
from tests.helpers import tiny_dictionary

DRAW = random.Random(1)
PERSIAN = [
    f"روزی {i} روباه می‌رفتند. آن‌ها کتاب‌ها را می‌خواندند و خانه‌های {DRAW.random()} را می‌دیدند."
    for i in range(29)
]
EMOJI = ["👩‍👩‍👧 went home. She ❤️ it.", "👍🏽 said 🏳️‍🌈. ½ of ﬁve № ａ.", "क्‍ष और श्री‍मान। हाँ।"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines(path):
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def tales(count, first=0):
    return [f"Tale {i} begins. It ends well." for i in range(first, first + count)]


def talks(count, first=0):
    return [f"Who has thing {i}?\tI have it, {i}." for i in range(first, first + count)]


CASES = {
    "stories": ("txt", tales),
    "dialogs": ("tsv", talks),
    "documents": ("jsonl", lambda count: [json.dumps({"text": text}) for text in tales(count)]),
}


@pytest.mark.parametrize("verb", CASES)
def test_a_large_loss_is_an_error(folder, verb, capsys):
    extension, make = CASES[verb]
    path, words = folder / f"a.{extension}", [verb, f"a.{extension}", "--output", "out"]
    words += ["--valid", "0.2", "--test", "0", "--quiet"]
    good = "\n".join(make(80)).encode() + b"\n"
    path.write_bytes(good + b"caf\xe9 au lait\n" * 20)
    with pytest.raises(
        UserError, match=r"20 % of the corpus is lost \(invalid UTF-8: 20 .*--max-loss"
    ):
        run_verb(words)
    assert not os.path.exists("out") or not os.listdir("out")
    run_verb([*words, "--max-loss", "0.25"])
    assert "lost: 20 records, 20 lines, " in capsys.readouterr().out
    report = json.loads((folder / "out" / "report.json").read_text())
    assert report["lost_lines"] == {"invalid UTF-8": 20}
    assert 240 <= report["lost_bytes"]["invalid UTF-8"] <= 260
    path.write_bytes(good + b"caf\xe9 au lait\n" * 8)
    run_verb(words)
    # few records, but most of the bytes
    path.write_bytes(good + b"\xff" * len(good) + b"\n")
    with pytest.raises(UserError, match="50 % of the corpus is lost"):
        run_verb(words)


def test_a_large_loss_of_pairs_is_an_error(folder, capsys):
    for lang, long in (("en", 9), ("ru", 1)):
        text = [f"{lang} {i} is here" for i in range(80)]
        text += [" ".join([f"{lang} {i} is long"] * long) for i in range(20)]
        (folder / f"a.{lang}").write_text("\n".join(text) + "\n")
    words = ["bitext", "--source", "a", "--valid-size", "5", "--output", "out", "--workers", "1"]
    with pytest.raises(UserError, match=r"-source a: .* % of 100 pairs .* \(unequal lengths 20\)"):
        run_verb(words)
    run_verb([*words, "--max-loss", "0.9"])
    assert "unequal lengths 20 (" in capsys.readouterr().out
    assert json.loads((folder / "out" / "report.json").read_text())["bytes"]["a"]["bytes"] > 3000


@pytest.mark.parametrize("verb", ["stories", "dialogs"])
def test_a_published_split_is_kept(folder, verb, capsys):
    extension, make = CASES[verb]
    (folder / "data").mkdir()
    parts = {"train": make(50), "valid": make(8, 45), "test": make(5, 90)}
    for name, texts in parts.items():
        (folder / "data" / f"{name}.{extension}").write_text("\n".join(texts) + "\n")
    words = [verb, "data", "--output", "out", "--quiet"]
    for name in ("valid", "test"):
        words += [f"--{name}-source", f"data/{name}.{extension}"]
    run_verb(words)
    out = {name: lines(folder / "out" / f"{name}.{extension}") for name in parts}
    assert out == {**parts, "train": parts["train"][:45]}  # five are in valid, too
    assert "also in valid or test: 5" in capsys.readouterr().out
    with pytest.raises(UserError, match="--valid 0.1 and --valid-source: give one of them"):
        run_verb([*words, "--valid", "0.1"])
    with pytest.raises(UserError, match="no file is left for training beside"):
        run_verb([verb, f"data/valid.{extension}", *words[2:]])


@pytest.mark.parametrize("verb", ["stories", "dialogs"])
def test_no_character_is_changed(folder, verb):
    """Zero-width joiners, emoji sequences and ligatures survive cleaning and encoding."""
    texts = [*PERSIAN, *EMOJI] if verb == "stories" else [
        f"{a}\t{b}" for a, b in zip(PERSIAN, PERSIAN[1:] + EMOJI[:1])
    ]  # fmt: skip
    assert sum("\u200c" in text for text in texts) >= 29
    extension = CASES[verb][0]
    (folder / f"a.{extension}").write_text("\n".join(texts) + "\n", encoding="utf-8")
    # the stories are alike in length, as wrapped lines are
    keep = {"dialogs": ["--keep-punctuation", "--keep-asides"], "stories": ["--format", "lines"]}
    shares = ["--valid", "0", "--test", "0", "--quiet"]
    run_verb([verb, f"a.{extension}", "--output", "out", *shares, *keep[verb]])
    train = folder / "out" / f"train.{extension}"
    assert lines(train) == texts
    dialog = ["--dialog"] if verb == "dialogs" else []
    run_verb(["spm", "train", str(train), "--model", "m", "--vocab-size", "400", "--workers", "1",
              "--quiet", *dialog])  # fmt: skip
    processor = sentencepiece.SentencePieceProcessor("m.model")
    for text in texts:
        for turn in text.split("\t"):
            assert processor.decode(processor.encode(turn)) == turn


def test_bits_per_byte_are_those_of_the_original_text(folder):
    (folder / "a.txt").write_text("\n".join([*PERSIAN, *EMOJI]) + "\n", encoding="utf-8")
    run_verb(["spm", "train", "a.txt", "--model", "m", "--vocab-size", "400", "--workers", "1",
              "--quiet", "--normalization", "nmt_nfkc"])  # fmt: skip
    processor = sentencepiece.SentencePieceProcessor("m.model")
    before, after = count_bytes(lines(folder / "a.txt"), processor.normalize)
    assert before == (folder / "a.txt").stat().st_size
    pieces = [processor.decode(processor.encode(text)) for text in lines(folder / "a.txt")]
    assert after == sum(len(text.encode()) + 1 for text in pieces) < 0.97 * before
    dictionary = tiny_dictionary()
    plain = original_bytes(dictionary, [str(folder)], "valid")
    write_counts(str(folder), {"valid": (before, after)})
    scaled = original_bytes(dictionary, [str(folder)], "valid")
    assert scaled.tolist() == pytest.approx((plain * (before / after)).tolist())
    assert original_bytes(dictionary, [str(folder)], "train").tolist() == plain.tolist()
    (folder / "original_bytes.json").write_text("[1]")
    with pytest.raises(UserError, match="original_bytes.json: damaged"):
        original_bytes(dictionary, [str(folder)], "valid")
