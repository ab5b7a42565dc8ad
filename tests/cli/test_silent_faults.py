"""fairseq's silent faults do not reach our users.

Every check runs twice, on tasks of fairseq itself: with the plug-in it must pass, and without
it must fail, so that we notice when a cure has become needless.
"""

import argparse
import json
import os
import re

import numpy as np
import pytest
import torch

SMALL = "--data-buffer-size 0 --num-workers 0 --cpu --optimizer sgd --log-format json".split()
TRANSLATION = (
    "--task translation --arch transformer --encoder-embed-dim 16 --decoder-embed-dim 16 "
    "--encoder-layers 1 --decoder-layers 1 --encoder-ffn-embed-dim 16 --decoder-ffn-embed-dim 16 "
    "--encoder-attention-heads 1 --decoder-attention-heads 1 --batch-size 16"
).split()
LANGUAGE_MODEL = (
    "--task language_modeling --arch transformer_lm --decoder-embed-dim 16 --decoder-input-dim 16 "
    "--decoder-output-dim 16 --decoder-layers 1 --decoder-ffn-embed-dim 16 "
    "--decoder-attention-heads 1 --tokens-per-sample 24 --batch-size 16"
).split()
# stock fairseq cannot load its own checkpoints with torch >= 2.6 otherwise
UNSAFE = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}

both = pytest.mark.parametrize("stock", [False, True], ids=["cured", "stock"])


@pytest.fixture(scope="module")
def pairs(fairseq, stories, tmp_path_factory):
    """The stories as pairs of equal lines, for fairseq's translation."""
    folder = tmp_path_factory.mktemp("pairs")
    words = ["-s", "a", "-t", "b", "--joined-dictionary", "--destdir", folder / "bin"]
    for split in ("train", "valid"):
        for language in "ab":
            text = (stories.folder / f"{split}.spm").read_text(encoding="utf-8")
            (folder / f"{split}.{language}").write_text(text, encoding="utf-8")
        words += [f"--{split}pref", folder / split]
    fairseq.run("preprocess", *words)
    return folder / "bin"


@pytest.fixture(scope="module")
def translator(fairseq, pairs, tmp_path_factory):
    """A translation model that has learned so little that it repeats itself."""
    folder = tmp_path_factory.mktemp("translator")
    words = [*TRANSLATION, *SMALL, "--optimizer", "adam", "--lr", 0.01, "--max-update", 30]
    fairseq.run("train", pairs, *words, "--save-dir", folder, stock=True)
    return folder / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def language_model(fairseq, stories, tmp_path_factory):
    folder = tmp_path_factory.mktemp("language-model")
    words = [*LANGUAGE_MODEL, *SMALL, "--lr", 0.01, "--max-update", 1, "--save-dir", folder]
    fairseq.run("train", stories.bin, *words, stock=True)
    return folder / "checkpoint_last.pt"


# ---------------------------------------------------------------------- lost last batches

SEEN = """
import json
from fairseq.trainer import Trainer

def step(name, of):
    original = getattr(Trainer, name)
    def wrapped(self, samples, *args, **kwargs):
        for sample in samples if isinstance(samples, list) else [samples]:
            with open({path!r}, "a") as f:
                f.write(json.dumps([of, sample["id"].tolist()]) + "\\n")
        return original(self, samples, *args, **kwargs)
    setattr(Trainer, name, wrapped)

step("train_step", "train")
step("valid_step", "valid")
"""


def seen(path, split):
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return sorted(number for name, batch in records if name == split for number in batch)


@both
def test_every_sample_is_trained_and_validated(stock, fairseq, pairs, tmp_path):
    path = tmp_path / "seen"
    words = [*TRANSLATION, *SMALL, "--lr", 0.01, "--max-epoch", 1, "--no-save"]
    fairseq.run("train", pairs, *words, before=SEEN.format(path=str(path)), stock=stock)
    complete = [
        seen(path, split) == list(range(size)) for split, size in (("train", 103), ("valid", 37))
    ]
    assert complete == ([False, False] if stock else [True, True])


def test_every_story_is_trained_and_validated(fairseq, stories, tmp_path):
    for pack in ([], ["--pack"]):
        path = tmp_path / f"seen{len(pack)}"
        words = ["--batch-size", 16, "--max-epoch", 1, "--no-save", *pack]
        fairseq.train(stories.bin, tmp_path, *words, before=SEEN.format(path=str(path)))
        assert seen(path, "train") == list(range(103))
        assert seen(path, "valid") == list(range(37))


def test_fewer_samples_than_eight_are_a_dataset(fairseq, stories, tmp_path):
    """Stock fairseq says "dataset is empty"."""
    words = ["--train-subset", "test", "--valid-subset", "test", "--no-save", "--max-epoch", 1]
    fairseq.train(stories.bin, tmp_path, *words, "--max-tokens", 60)  # one or two stories a batch


@both
def test_every_sample_is_generated(stock, fairseq, pairs, translator):
    words = ["--path", translator, "--gen-subset", "valid", "--cpu", "--max-len-b", 3]
    result = fairseq.run("generate", pairs, *words, env=UNSAFE, stock=stock)
    numbers = sorted(number for number, _ in result.rows("H"))
    assert (numbers == list(range(37))) == (not stock)


# ------------------------------------------------------------------------ n-gram blocking


def repeats(text, size):
    words = text.split()
    ngrams = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
    return len(ngrams) > len(set(ngrams))


def repeating(result, size):
    """How many hypotheses hold an n-gram twice."""
    return sum(repeats(columns[-1], size) for _, columns in result.rows("H"))


@both
def test_repeated_ngrams_are_blocked(stock, fairseq, pairs, translator):
    words = ["--path", translator, "--gen-subset", "valid", "--cpu", "--beam", 3]
    words += ["--min-len", 20, "--max-len-b", 30, "--no-repeat-ngram-size", 2]
    result = fairseq.run("generate", pairs, *words, env=UNSAFE, stock=stock)
    assert (repeating(result, 2) > 20) if stock else (repeating(result, 2) == 0)


def test_repeated_ngrams_are_blocked_in_stories(fairseq, stories, checkpoint):
    words = ["--path", checkpoint, "--gen-subset", "test", "--cpu", "--beam", 3]
    words += ["--min-len", 40, "--max-len-b", 50]
    assert repeating(fairseq.run("generate", stories.bin, *words), 2) > 0
    words += ["--no-repeat-ngram-size", 2]
    assert repeating(fairseq.run("generate", stories.bin, *words), 2) == 0


# ----------------------------------------------------------------- evaluation of no token


@both
def test_evaluating_nothing_is_an_error(stock, fairseq, stories, language_model):
    """Blocks of --tokens-per-sample (1024) are longer than the model and are left out."""
    words = ["--path", language_model, "--gen-subset", "valid", "--cpu", "--task"]
    words += ["language_modeling", "--sample-break-mode", "none", "--max-tokens", 4096]
    result = fairseq.run("eval_lm", stories.bin, *words, env=UNSAFE, stock=stock, check=False)
    if stock:
        assert result.status == 0 and "Perplexity: 1.00" in result.out + result.err
    else:
        assert result.status != 0 and "Perplexity" not in result.out + result.err
        assert result.error.startswith("error: 0 of ") and "--tokens-per-sample" in result.error


def test_eval_lm_needs_no_tokens_per_sample(fairseq, stories, checkpoint):
    """The checkpoint knows it: whole stories are scored, not cut ones."""
    result = fairseq.run("eval_lm", stories.bin, "--path", checkpoint, "--cpu")
    assert f"Evaluated {stories.num_tokens('test'):,} tokens" in result.out


# ------------------------------------------------------------------------- bf16 on the CPU


@both
def test_bf16_on_the_command_line(stock, fairseq, pairs, tmp_path):
    words = [*TRANSLATION, *SMALL, "--lr", 0.01, "--max-update", 2, "--bf16"]
    result = fairseq.run("train", pairs, *words, "--save-dir", tmp_path, stock=stock, check=False)
    if stock:
        assert result.status != 0 and "xla" in result.err
    else:
        assert result.status == 0, result.err


def test_bf16_trains_stories_and_generates(fairseq, stories, tmp_path):
    watch = """
import sys
from fairseq.trainer import Trainer

original = Trainer.train_step
def train_step(self, *args, **kwargs):
    print({p.dtype for p in self.model.parameters()}, file=sys.stderr)
    return original(self, *args, **kwargs)
Trainer.train_step = train_step
"""
    words = ["--batch-size", 16, "--max-update", 3, "--bf16", "--tokens-per-sample", 64]
    words += ["--sample-prompts", "Once upon a time"]
    trained = fairseq.train(stories.bin, tmp_path, *words, before=watch)
    assert trained.err.count("{torch.bfloat16}") == 3
    losses = [float(record["loss"]) for record in trained.logged("train_inner")]
    assert losses[-1] < losses[0]
    path = ["--path", tmp_path / "checkpoint_last.pt", "--cpu"]
    result = fairseq.run("generate", stories.bin, *path, "--max-len-b", 3)
    assert len(result.rows("H")) == 13


# ---------------------------------------------------------------------- asynchronous saving


@both
def test_asynchronous_saving_trains_or_says_why_not(stock, fairseq, pairs, tmp_path):
    """Without iopath stock fairseq ends with 0 and has trained nothing."""
    words = [*TRANSLATION, *SMALL, "--lr", 0.01, "--max-update", 2, "--save-dir", tmp_path]
    words.append("--write-checkpoints-asynchronously")
    hide = "import sys\nsys.modules['iopath'] = None\n"
    result = fairseq.run("train", pairs, *words, stock=stock, check=False, before=hide)
    assert not list(tmp_path.glob("*.pt"))
    assert (result.status == 0) == stock
    if not stock:
        assert result.error.startswith("error: --write-checkpoints-asynchronously needs")


# ----------------------------------------------------------------------- loading checkpoints


class Touch:
    """An object that creates a file when it is unpickled without protection."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def with_extra(source, target, **extra):
    """Write a copy of a checkpoint that holds something more."""
    state = torch.load(source, weights_only=False)
    state["extra_state"].update(extra)
    torch.save(state, target)
    return target


@both
def test_loading_never_runs_code(stock, fairseq, pairs, translator, tmp_path):
    """Not even where the environment switches torch's protection off."""
    touched = tmp_path / "touched"
    path = with_extra(translator, tmp_path / "evil.pt", surprise=Touch(touched))
    words = ["--path", path, "--gen-subset", "valid", "--cpu", "--max-len-b", 1]
    result = fairseq.run("generate", pairs, *words, env=UNSAFE, stock=stock, check=False)
    assert touched.exists() == stock
    if not stock:
        assert result.status != 0 and result.error.startswith(f"error: checkpoint {path}: refused")
        assert "system" in result.error and "Traceback" not in result.err
        assert not result.rows("H")


@pytest.mark.parametrize("name", ["interactive", "validate", "eval_lm", "resume", "finetune"])
def test_no_command_runs_code_of_a_checkpoint(name, fairseq, stories, checkpoint, tmp_path):
    touched, path = tmp_path / "touched", tmp_path / "ck" / "checkpoint_last.pt"
    path.parent.mkdir()
    with_extra(checkpoint, path, surprise=Touch(touched))
    before = path.read_bytes()
    if name == "resume":
        words = fairseq.tiny(stories.bin, path.parent, "--batch-size", 16)
        result = fairseq.run("train", *words, check=False)
    elif name == "finetune":
        words = fairseq.tiny(stories.bin, tmp_path, "--batch-size", 16)
        result = fairseq.run("train", *words, "--finetune-from-model", path, check=False)
    else:
        batch = ["--batch-size", 1]
        result = fairseq.run(name, stories.bin, "--path", path, "--cpu", *batch, check=False)
    assert result.status != 0 and not touched.exists()
    assert result.error.startswith(f"error: checkpoint {path}: refused"), result.err
    assert path.read_bytes() == before


@both
def test_harmless_types_are_loaded(stock, fairseq, pairs, translator, tmp_path):
    """Namespaces (every translation model holds one), NumPy numbers and arrays."""
    numbers = {"bleu": np.float64(1.5), "counts": np.arange(3), "args": argparse.Namespace(a=1)}
    path = with_extra(translator, tmp_path / "numbers.pt", **numbers)
    words = ["--path", path, "--gen-subset", "valid", "--cpu", "--max-len-b", 1]
    result = fairseq.run("generate", pairs, *words, stock=stock, check=False)
    assert (result.status != 0) == stock
    if stock:
        assert re.search("UnpicklingError|Weights only load failed", result.err)


# -------------------------------------------------------------------------- end of a command


def test_data_thread_has_ended_before_python_does(fairseq, stories, tmp_path):
    """A buffer thread that still runs at the end is what makes exit status 134."""
    watch = """
import atexit, sys, threading
from fairseq.data import iterators

def report():
    running = [t for t in threading.enumerate() if isinstance(t, iterators.BackgroundConsumer)]
    print("started", len(started), "running", len(running), file=sys.stderr)

started, start = [], iterators.BackgroundConsumer.start
def count(self):
    started.append(self)
    start(self)
iterators.BackgroundConsumer.start = count
atexit.register(report)
"""
    words = ["--batch-size", 4, "--max-update", 2, "--data-buffer-size", 2, "--no-save"]
    result = fairseq.train(stories.bin, tmp_path, *words, before=watch)
    started, running = re.search(r"started (\d+) running (\d+)", result.err).groups()
    assert int(started) >= 2 and running == "0"
