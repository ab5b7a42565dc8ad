"""From documents to a model that answers: pretraining, then fine-tuning on conversations."""

import json
import shutil

import pytest
import torch

from fairtale.data.corpus.tokenizer_dictionary import read_dictionary
from tests.cli.conftest import make_stories
from tests.cli.fairtale_command import assert_user_error, fairtale, script

RATES = "--loss-average samples --report-accuracy --clip-norm 0.25".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Documents, pairs, and the data-bins that the scripts make of them."""
    folder = tmp_path_factory.mktemp("pretraining")
    with open(folder / "docs.jsonl", "w", encoding="utf-8") as stream:
        for i in range(30):
            text = "\n".join(make_stories(3, i))
            stream.write(json.dumps({"id": f"d{i}", "text": f"{text}\nThe word {i}."}) + "\n")
    with open(folder / "pairs.jsonl", "w", encoding="utf-8") as stream:
        for i in range(60):
            pair = {"idx": i, "q": f"Who found number {i}?", "a": f"Lily found {i}."}
            stream.write(json.dumps(pair) + "\n")
    done = script(
        "gpt2_pretrain/prepare.sh",
        *("--source", "docs.jsonl", "--data-bin", "pre", "--vocab-size", 290, "--valid", 0.2),
        *("--tokenizer-sample", 10, "--workers", 1),
        cwd=folder,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "of 290 pieces from 10 texts (every " in done.stdout
    words = ["--source", "pairs.jsonl", "--tokenizer", "pre", "--data-bin", "conv"]
    words += ["--valid", 0.2, "--test", 0.1, "--workers", 1]
    done = script("gpt2_conversation/prepare.sh", *words, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pretrained(fairseq, folder):
    words = ["--sample-break-mode", "split", "--tokens-per-sample", 64, "--pack", *RATES]
    words += ["--max-tokens", 200, "--max-update", 6, "--no-epoch-checkpoints"]
    words += ["--criterion", "label_smoothed_kl"]
    log = fairseq.train(folder / "pre", folder / "run", *words).logged("valid")[-1]
    assert {"valid_accuracy", "valid_ppl", "valid_ppl_word"} <= set(log)
    return folder / "run" / "checkpoint_last.pt"


def conversation(folder, base, save_dir, *words):
    """The words of fine-tuning on conversations."""
    options = (
        "--task dialog_lm --max-source-positions 64 --response-only --criterion label_smoothed_kl "
        "--optimizer adam --lr 0.005 --max-tokens 300 --cpu --log-format json --log-interval 1 "
        "--data-buffer-size 0 --num-workers 0 --no-epoch-checkpoints"
    ).split()
    start = ["--finetune-from-model", base, "--save-dir", save_dir]
    return [folder / "conv", *options, *RATES, *start, *words]


def test_the_data_of_conversations_has_the_dictionary_of_the_model(folder):
    for name in ("dict.txt", "tokenizer.json"):
        assert (folder / "conv" / name).read_bytes() == (folder / "pre" / name).read_bytes()
    dictionary = read_dictionary(str(folder / "pre" / "dict.txt"))
    assert [dictionary.index(mark) for mark in ("<CTX>", "<SEP>")] == [4, 5]
    lines = (folder / "conv" / "text" / "valid.tsv").read_text().splitlines()
    assert lines and all(line.split("\t")[0].startswith("Who found") for line in lines)


def test_a_pretrained_model_learns_to_answer(fairseq, folder, pretrained, tmp_path):
    """A stopped training goes on to the last bit, with the echoes that it would have had."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    echo = ("--echo-query-prob", 0.5)
    done = fairseq.run("train", *conversation(folder, pretrained, whole, *echo, "--max-update", 14))
    assert "the checkpoint has no segments: their embeddings begin at zero" in done.out
    logs = done.logged("train_inner")
    assert logs[-1]["epoch"] >= 3  # or the draws of one epoch would be all
    assert {"accuracy", "ppl"} <= set(logs[0])
    assert "valid_accuracy" in done.logged("valid")[-1]
    for stop in (5, 14):  # 5 is inside an epoch
        words = conversation(folder, pretrained, parts, *echo, "--max-update", stop)
        part = fairseq.run("train", *words).logged("train_inner")
    assert [log["loss"] for log in part] == [log["loss"] for log in logs[-len(part) :]]
    assert len(part) == 9
    left, right = (
        torch.load(path / "checkpoint_last.pt", weights_only=False)["model"]
        for path in (whole, parts)
    )
    assert all(torch.equal(left[key], right[key]) for key in left)

    refused = conversation(folder, pretrained, parts, "--max-update", 15)
    failed = fairseq.run("train", *refused, check=False)
    assert failed.status == 1
    assert "training began with --echo-query-prob 0.5, and would continue with 0.0" in failed.error

    (tmp_path / "questions").write_bytes(b"Who found\rnumber\0 3?\r\n")  # one line
    done = script(
        "gpt2_conversation/generate.sh", "--data-bin", folder / "conv", "--checkpoint",
        whole / "checkpoint_last.pt", "--input", tmp_path / "questions", "--max-len-b", 8, "--cpu",
    )  # fmt: skip
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 1, done.stderr


def test_a_model_without_the_marks_or_of_other_data_is_refused(
    fairseq, folder, pretrained, tmp_path
):
    shutil.copytree(folder / "pre", tmp_path / "other")
    path = tmp_path / "other" / "tokenizer.json"
    path.write_text(path.read_text().replace("<SEP>", "<SEP2>"))
    path = tmp_path / "other" / "dict.txt"
    path.write_text(path.read_text().replace("<SEP>", "<SEP2>"))
    words = ["--source", folder / "pairs.jsonl", "--data-bin", "no"]
    done = fairtale("prepare", "dialogs", *words, "--tokenizer", "other", cwd=tmp_path)
    assert_user_error(done, "--tokenizer other: its dictionary lacks <SEP>", "--dialog-marks")
    done = fairtale(
        "prepare", "dialogs", *words, "--tokenizer", "other", "--vocab-size", 300, cwd=tmp_path
    )
    assert_user_error(done, "--vocab-size: the tokenizer of --tokenizer has its size")
    for option in (["--dialog-marks"], ["--tokenizer-sample", "3"]):
        words = [
            "--source",
            folder / "docs.jsonl",
            "--data-bin",
            "no",
            "--tokenizer",
            folder / "pre",
        ]
        done = fairtale("prepare", "documents", *words, *option, cwd=tmp_path)
        assert_user_error(done, f"{option[0]}: the tokenizer of --tokenizer is trained")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other"]

    words = conversation(folder, pretrained, tmp_path / "run", "--max-source-positions", 80)
    failed = fairseq.run("train", *words, "--max-update", 1, check=False)
    assert failed.status == 1 and "64 positions, but the model has 80" in failed.error
