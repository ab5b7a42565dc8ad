"""Byte-level BPE from raw text through fairseq's commands to text, for all tasks."""

import json
import random
import re
import shutil

import pytest

from fairtale.data.corpus.byte_level_files import load_byte_level
from tests.cli.fairtale_command import fairtale, script

SHAPE = (
    "--decoder-layers 2 --decoder-embed-dim 32 --decoder-ffn-embed-dim 64 "
    "--decoder-attention-heads 2 --optimizer adam --lr 0.01 --dropout 0 --max-tokens 900 "
    "--no-epoch-checkpoints --log-format json --log-interval 1 --data-buffer-size 0 "
    "--num-workers 0 --cpu --validate-interval 100 --save-interval 100"
).split()
ANSWER = "да 🐈 да"


@pytest.fixture(scope="module")
def works(fairseq, tmp_path_factory):
    """Works with line breaks: their tokenizer, the binarised data and a model."""
    folder = tmp_path_factory.mktemp("works")
    draw = random.Random(1)
    texts = {split: [work(draw) for _ in range(n)] for split, n in (("train", 60), ("valid", 9))}
    for split, part in texts.items():
        lines = [json.dumps({"text": text}) + "\n" for text in part]
        (folder / f"{split}.jsonl").write_text("".join(lines))
    words = ("train.jsonl", "--output", "tok", "--vocab-size", "280")
    assert fairtale("bpe", "train", *words, cwd=folder).returncode == 0
    names = [f"{split}.jsonl" for split in texts]
    words = (*names, "--tokenizer", "tok/tokenizer.json", "--output-dir", "pieces")
    assert fairtale("bpe", "encode", *words, cwd=folder).returncode == 0
    words = [x for split in texts for x in (f"--{split}pref", folder / "pieces" / f"{split}.txt")]
    words += ["--srcdict", folder / "tok" / "dict.txt", "--destdir", folder / "bin"]
    words += ["--task", "story_lm", "--user-dir", fairseq.user_dir, "--workers", 1]
    fairseq.run("preprocess", "--only-source", *words)
    shutil.copy(folder / "tok" / "tokenizer.json", folder / "bin")
    words = [folder / "bin", "--task", "story_lm", "--arch", "gpt_tiny", *SHAPE]
    words += ["--tokens-per-sample", 96, "--max-update", 60, "--save-dir", folder / "run"]
    words += ["--criterion", "label_smoothed_kl"]
    return folder, texts, fairseq.run("train", *words)


def work(draw):
    return "\n".join(draw.choices(["Жил 🐈 кот.", "Кот  ел…", "", "«Да!» 12"], k=4)) + "\n"


def test_bits_per_byte_are_those_of_the_bytes(works):
    _, texts, result = works
    log = result.logged("valid")[-1]
    tokenizer = load_byte_level(str(works[0] / "tok"))
    num_tokens = sum(len(tokenizer.encode_ids(text)) + 1 for text in texts["valid"])
    num_bytes = sum(len(text.encode()) for text in texts["valid"])
    assert f"valid: 9 stories, {num_tokens} tokens; left out as empty: 0; cut to 96" in result.out
    expected = float(log["valid_nll_loss"]) * num_tokens / num_bytes
    assert float(log["valid_bpb"]) == pytest.approx(expected, rel=1e-3)


def test_prompts_are_continued_byte_by_byte(fairseq, works, tmp_path):
    folder, _, _ = works
    words = [folder / "bin", "--path", folder / "run" / "checkpoint_best.pt", "--cpu"]
    words += "--beam 1 --sampling --sampling-topk 3 --max-len-b 40 --seed 2".split()
    prompts = "Жил 🐈\n«Да!» 12\nnever seen: 猫 </s> <unk>\n"
    result = fairseq.script(
        "fairseq-interactive", *words, "--buffer-size", 8, "--batch-size", 8, stdin=prompts
    )
    pieces = {number: columns[-1] for number, columns in result.rows("S")}
    bpe = load_byte_level(str(folder / "tok"))
    assert [bpe.decode(pieces[number]) for number in range(3)] == prompts.split("\n")[:3]
    (tmp_path / "log").write_text(result.out, encoding="utf-8")
    done = fairtale("log", "outputs", tmp_path / "log", "--json-lines")
    texts = [json.loads(line)["text"] for line in done.stdout.splitlines()]
    continued = [bpe.decode_continuation(columns[-1]) for _, columns in result.rows("H")]
    assert texts == continued and any("\n" in text for text in texts)
    assert "\ufffd" not in texts[0] and re.search(r"[а-я]", texts[0])

    # the same tokenizer, named
    shutil.copytree(folder / "bin", tmp_path / "bin", ignore=lambda *_: ["tokenizer.json"])
    words[0] = tmp_path / "bin"
    words += ["--bpe", "byte_level", "--byte-level-tokenizer", folder / "tok"]
    again = fairseq.run("interactive", *words, "--buffer-size", 8, "--batch-size", 8, stdin=prompts)
    assert again.rows("H") == result.rows("H") and again.rows("S") == result.rows("S")


def test_stories_are_prepared_and_generated(works, tmp_path):
    draw = random.Random(2)
    texts = [" ".join(work(draw).split()) + f" {n}" for n in range(200)]
    (tmp_path / "stories.txt").write_text("".join(text + "\n" for text in texts))
    options = ("--vocab-size", "280", "--valid", "0.1", "--workers", "1", "--bpe", "byte_level")
    words = ("prepare", "stories", "--source", "stories.txt", "--data-bin", "db", *options)
    done = fairtale(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    made = {path.name for path in (tmp_path / "db").iterdir()}
    assert {"dict.txt", "tokenizer.json", "train.bin", "text"} <= made
    assert "bpe byte_level\n" in (tmp_path / "db" / "prepare.txt").read_text()
    assert "is ready (made before" in fairtale(*words, cwd=tmp_path).stderr
    # the script decodes prompts and continuations by the tokenizer beside the data
    folder, _, _ = works
    words = ["--checkpoint", folder / "run" / "checkpoint_best.pt", "--data-bin", folder / "bin"]
    words += ["--prompt", "Жил 🐈", "--quantity", "2", "--output", "out", "--cpu"]
    done = script("story_tinystories/generate.sh", *words, "--max-len-b", "30", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    stories = (tmp_path / "out").read_text(encoding="utf-8").split("\n")[:-1]
    assert len(stories) == 2 and all(story.startswith("Жил 🐈") for story in stories)


@pytest.mark.slow
def test_dialogs_are_prepared_learned_and_answered(fairseq, tmp_path):
    draw = random.Random(3)
    turns = ["привет", "is it <SEP> red", "you are </s> <CTX>", "кто 🐈"]
    dialogs = [f"{n}\t{draw.choice(turns)}\t{n} так?\t{ANSWER}\n" for n in range(200)]
    (tmp_path / "d.tsv").write_text("".join(dialogs))
    options = ("--vocab-size", "280", "--valid", "0.1", "--test", "0.05", "--workers", "1")
    words = ("--source", "d.tsv", "--data-bin", "db", *options, "--bpe", "byte_level")
    done = fairtale("prepare", "dialogs", *words, "--format", "tsv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    data, run = tmp_path / "db", tmp_path / "run"
    words = [data, "--task", "dialog_lm", "--arch", "unilm_seq2seq_tiny", *SHAPE]
    words += ["--criterion", "label_smoothed_kl", "--max-update", 60, "--save-dir", run]
    result = fairseq.run("train", *words)
    assert float(result.logged("valid")[-1]["valid_bpb"]) > 0
    checkpoint = run / "checkpoint_best.pt"
    stdin = "привет\tis it <SEP> red\t7 так?\nкто 🐈 </s>\n"
    words = [data, "--path", checkpoint, "--cpu", "--beam", 1]
    result = fairseq.run("interactive", *words, stdin=stdin)
    assert [columns[-1] for _, columns in result.rows("D")] == [ANSWER, ANSWER]
    sources = [columns[-1].split() for _, columns in result.rows("S")]
    assert [source.count("<SEP>") for source in sources] == [1, 1]
    assert [source.count("<CTX>") for source in sources] == [2, 0]
    done = fairtale("chat", checkpoint, "--sampling-topk", "1", "--cpu", stdin="кто 🐈?\n")
    assert done.stdout.strip() == ANSWER, done.stderr


@pytest.mark.slow
def test_sentences_are_translated(fairseq, tmp_path):
    """One tokenizer of both languages lies beside the data; there is no tokenisation before it."""
    pairs = [(f"the cat {n}", f"кот, «{n}» 🐈") for n in range(90)]
    for lang, lines in zip(("en", "ru"), zip(*pairs)):
        (tmp_path / f"train.{lang}").write_text("".join(line + "\n" for line in lines))
    words = ("train.en", "train.ru", "--output", "tok", "--vocab-size", "280")
    assert fairtale("bpe", "train", *words, cwd=tmp_path).returncode == 0
    words = ("train.en", "train.ru", "--tokenizer", "tok", "--output-dir", "pieces")
    assert fairtale("bpe", "encode", *words, cwd=tmp_path).returncode == 0
    data, pieces = tmp_path / "bin", tmp_path / "pieces" / "train"
    words = ["-s", "en", "-t", "ru", "--joined-dictionary", "--srcdict", tmp_path / "tok/dict.txt"]
    words += ["--trainpref", pieces, "--validpref", pieces, "--destdir", data, "--workers", 1]
    fairseq.run("preprocess", *words)
    shutil.copy(tmp_path / "tok" / "tokenizer.json", data)
    shape = [word.replace("decoder", "encoder") for word in SHAPE[:8]]
    words = [data, "--task", "wmt16_translation", "--arch", "transformer", *SHAPE, *shape]
    words += ["--share-all-embeddings", "--criterion", "label_smoothed_cross_entropy"]
    words += ["--max-update", 120, "--save-dir", tmp_path / "run", "--eval-bleu"]
    result = fairseq.run("train", *words)
    assert float(result.logged("valid")[-1]["valid_bleu"]) > 20
    words = [data, "--path", tmp_path / "run" / "checkpoint_best.pt", "--cpu", "--beam", 1]
    result = fairseq.run("interactive", *words, stdin="the cat 42\n")
    (text,) = [columns[-1] for _, columns in result.rows("D")]
    assert re.fullmatch("кот, «[0-9]*» 🐈", text)
