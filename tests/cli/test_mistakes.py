"""What people's folders, data and weights have done to trainings and to commands that use them.

Each ends in one line that says what to do, or goes on as it should.
"""

import fcntl
import os

import pytest
import torch

from tests.cli.fairtale_command import (
    assert_user_error,
    dialogs_of_words,
    fairtale,
    reversed_sentences,
    script,
)
from tests.cli.test_bad_input import assert_told

TRAIN = (
    "--arch transformer_tiny --encoder-embed-dim 16 --encoder-ffn-embed-dim 32 --task translation "
    "--encoder-attention-heads 4 --decoder-attention-heads 4 --share-all-embeddings "
    "--criterion label_smoothed_cross_entropy --optimizer adam --lr 0.01 --no-epoch-checkpoints "
    "--data-buffer-size 0 --num-workers 0 --cpu --batch-size 10 --encoder-learned-pos "
    "--max-source-positions 20"
).split()


@pytest.fixture(scope="module")
def data(fairseq, tmp_path_factory):
    """Sentences of eight letters and their words in reverse."""
    return reversed_sentences(fairseq, tmp_path_factory.mktemp("letters"), train=40, valid=9)


@pytest.fixture(scope="module")
def plain(fairseq, data, tmp_path_factory):
    """A checkpoint of fairseq's ``transformer``, with noise, and averages of its weights."""
    folder = tmp_path_factory.mktemp("plain")
    words = ["--max-update", 4, "--quant-noise-pq", 0.1, "--quant-noise-pq-block-size", 4]
    fairseq.run("train", data, *TRAIN, *words, "--store-ema", "--save-dir", folder)
    return folder / "checkpoint_last.pt"


# -------------------------------------------------------------------------------- weights


def test_noise_of_quantisation_and_averages_of_weights(fairseq, data, plain, tmp_path):
    """Heads of a width that blocks of four do not divide; only the weights are pruned."""
    smaller = tmp_path / "smaller.pt"
    words = ["--by", "gradient", "--heads", 7, "--ffn-keep", 0.3, "--data", data, "--cpu"]
    done = fairtale("prune", plain, "--output", smaller, *words)
    assert done.returncode == 0, done.stderr
    assert f"{plain} also holds averaged weights (--store-ema): they are left out" in done.stderr
    state = torch.load(smaller, weights_only=False)
    assert not any(name.startswith("ema") for name in state["extra_state"])
    words = ["--gen-subset", "valid", "--cpu", "--max-len-b", 5, "--num-workers", 0]
    assert len(fairseq.run("generate", data, "--path", smaller, *words).rows("H")) == 9


def test_weights_that_are_not_numbers(plain, tmp_path):
    state = torch.load(plain, weights_only=False)
    state["model"]["encoder.layers.0.fc1.bias"][3] = float("nan")
    torch.save(state, tmp_path / "nan.pt")
    words = ["--output", tmp_path / "x.pt"]
    told = ("nan.pt: encoder.layers.0.fc1.bias holds NaN", "use an earlier checkpoint")
    done = fairtale("prune", tmp_path / "nan.pt", "--heads", 3, "--by", "random", *words)
    assert_user_error(done, *told)
    assert_user_error(fairtale("average", plain, tmp_path / "nan.pt", *words), *told)
    assert not (tmp_path / "x.pt").exists()


def test_variants_of_the_transformer_are_not_pruned(plain, data, tmp_path):
    """The script leaves no folder for a training that cannot begin."""
    state = torch.load(plain, weights_only=False)
    state["cfg"]["model"]._name = state["cfg"]["model"].arch = "transformer_align"
    torch.save(state, tmp_path / "align.pt")
    words = ["--checkpoint", "align.pt", "--heads", 3, "--data-bin", data, "--save-dir", "run"]
    done = script("wmt16_en_ru/prune.sh", *words, cwd=tmp_path)
    assert_user_error(done, "its architecture transformer_align is neither")
    assert [path.name for path in tmp_path.iterdir()] == ["align.pt"]


# ----------------------------------------------------------------------------------- data


def test_data_of_another_dictionary(fairseq, plain, tmp_path):
    words = "--source-lang x --target-lang y --joined-dictionary --workers 1 --destdir".split()
    for language in "xy":
        (tmp_path / f"train.{language}").write_text("a b c d e f g h i j k l m n o p\n" * 3)
    other = tmp_path / "bin"
    pairs = [
        x for kind in ("train", "valid", "test") for x in (f"--{kind}pref", tmp_path / "train")
    ]
    fairseq.run("preprocess", *pairs, *words, other)
    for name in ("generate", "validate", "interactive"):
        words = [other, "--path", plain, "--cpu", "--batch-size", 1]
        result = fairseq.run(name, *words, stdin="a\n", check=False)
        assert_told(result, "another dictionary (16 entries) than", "that of the data (24 entries)")


def test_positions_of_a_resumed_training(fairseq, data, plain):
    words = [data, *TRAIN, "--max-source-positions", 24, "--max-update", 9]
    result = fairseq.run("train", *words, "--save-dir", plain.parent, check=False)
    assert result.status == 1 and result.error.startswith("error: encoder.embed_positions.weight")
    assert result.error.endswith("give the --max-source-positions of its training")


# ------------------------------------------------------------------------------ schedules


@pytest.mark.parametrize(
    "before, after",
    [
        ("fixed", "reduce_lr_on_validation"),
        ("reduce_lr_on_validation", "inverse_sqrt"),
        ("slanted_triangular --total-num-update 9 --cut-frac 0.5", "inverse_sqrt"),
        ("inverse_sqrt", "reduce_lr_on_plateau"),
    ],
)
def test_another_schedule(before, after, fairseq, data, tmp_path):
    words = [data, *TRAIN, "--save-dir", tmp_path, "--lr-scheduler"]
    fairseq.run("train", *words, *before.split(), "--max-update", 2)
    done = fairseq.run("train", *words, *after.split(), "--max-update", 9, check=False)
    assert done.status == 0, done.err
    state = torch.load(tmp_path / "checkpoint_last.pt", weights_only=False)
    assert state["optimizer_history"][-1]["num_updates"] == 9


# -------------------------------------------------------------------------------- folders


@pytest.mark.skipif(not os.path.isdir("/sys/kernel"), reason="no folder that root cannot write to")
def test_folders_that_cannot_be_written(fairseq, data, plain):
    """Nobody may write to /sys, not even root."""
    place = "/sys/kernel/fairtale"
    result = fairseq.run("train", data, *TRAIN, "--save-dir", place, check=False)
    assert_told(result, place)
    words = ["--path", plain, "--gen-subset", "valid", "--cpu", "--results-path", place]
    assert_told(fairseq.run("generate", data, *words, check=False), place)
    output = f"{place}/x.pt"
    done = fairtale("prune", plain, "--heads", 3, "--by", "random", "--output", output)
    assert_user_error(done, place)
    assert_user_error(fairtale("average", plain, plain, "--output", output), place)


def test_a_folder_that_another_training_writes_to(fairseq, data, tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        result = fairseq.run("train", data, *TRAIN, "--save-dir", tmp_path, check=False)
    finally:
        os.close(descriptor)
    assert_told(result, f"--save-dir {tmp_path}: another training writes there")
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------ null bytes


def test_null_bytes_and_carriage_returns_in_dialogs(fairseq, tmp_path):
    """Neither ends a line: there is a reply for each line of the input."""
    checkpoint = dialogs_of_words(fairseq, tmp_path)
    (tmp_path / "in").write_bytes(b"\0hello\r\nhow\0are you\nhello\thow are\ryou\0\n")
    words = ["--data-bin", tmp_path / "bin", "--checkpoint", checkpoint, "--input", "in", "--cpu"]
    done = script("dialog_opensubtitles/generate.sh", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3
