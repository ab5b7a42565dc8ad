"""Tiny data, a tiny trained model, and a quick way to run fairseq commands on them."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.warm_client import start
from tests.cli.warm_commands import warm_server

ROOT = Path(__file__).resolve().parents[2]
USER_DIR = ROOT / "user_dir"
BIN = Path(sys.executable).parent
TIMEOUT = 240  # seconds; a guard against hanging, nothing is timed

# a model that trains in milliseconds
TINY = (
    "--arch gpt_tiny --decoder-layers 2 --decoder-embed-dim 32 --decoder-ffn-embed-dim 64 "
    "--decoder-attention-heads 2 --criterion cross_entropy --optimizer adam --lr 0.005 "
    "--log-format json --log-interval 1 --data-buffer-size 0 --num-workers 0 --cpu"
).split()


@dataclass
class Result:
    """What a command has left: its exit status (negative: signal) and its output."""

    status: int
    out: str
    err: str

    @property
    def error(self):
        """The last line of stderr."""
        lines = self.err.strip().splitlines()
        return lines[-1] if lines else ""

    def logged(self, tag):
        """The JSON records of one logger, as ``train_inner``, ``valid``, ``train``."""
        found = re.findall(rf"\| {tag} \| (\{{.*\}})$", self.out, re.MULTILINE)
        return [json.loads(text) for text in found]

    def rows(self, kind):
        """The columns of the output lines ``H-0``, ``D-12``, ... as [(number, columns)]."""
        found = re.findall(rf"^{kind}-(\d+)\t(.*)$", self.out, re.MULTILINE)
        return [(int(number), text.split("\t")) for number, text in found]


class Commands:
    """Runs fairseq commands with the plug-in, or with ``stock=True`` without it."""

    user_dir = USER_DIR

    def __init__(self, folder):
        self.folder = folder
        self.count = 0
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("FAIRTALE_", "TORCH_"))},
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": "",
        }

    def prepare(self, name, *args, stock=False, stdin="", env=None, before=""):
        """Describe a command, for :meth:`together`."""
        self.count += 1
        files = {}
        for stream in ("stdin", "stdout", "stderr"):
            files[stream] = str(self.folder / f"{self.count}.{stream}")
            mode = "wb" if isinstance(stdin, bytes) else "w"
            with open(files[stream], mode) as f:
                if stream == "stdin":
                    f.write(stdin)
        words = [f"fairseq-{name}".replace("_", "-"), *map(str, args)]
        if name is not None and name != "preprocess" and not stock:
            words += ["--user-dir", str(USER_DIR)]
        return {
            **files,
            "argv": words,
            "module": None if name is None else f"fairseq_cli.{name}",
            "env": {**self.env, **(env or {})},
            "cwd": str(self.folder),
            "before": before,
        }

    def together(self, *commands):
        """Run commands at the same time."""
        path, running = warm_server().socket, []
        for command in commands:
            modes = {"stdin": os.O_RDONLY, "stdout": os.O_WRONLY, "stderr": os.O_WRONLY}
            streams = [os.open(command[name], mode) for name, mode in modes.items()]
            running.append(start(command, streams, path))
            for stream in streams:
                os.close(stream)
        deadline = time.monotonic() + TIMEOUT
        return [
            Result(_status(*process, deadline), _text(command["stdout"]), _text(command["stderr"]))
            for process, command in zip(running, commands)
        ]

    def run(self, name, *args, check=True, **kwargs):
        """Run one command in a forked process; ``before`` is Python code to run first."""
        result = self.together(self.prepare(name, *args, **kwargs))[0]
        if check:
            assert result.status == 0, result.out[-3000:] + result.err[-3000:]
        return result

    def python(self, code, **kwargs):
        """Run Python code in a process that has imported fairseq, but not the plug-in."""
        return self.run(None, before=code, **kwargs)

    def script(self, *words, check=True, stdin=None, env=None):
        """Run a real console script that stands beside the Python interpreter.

        ``fairseq-...`` is given the plug-in, also behind another script (``torchrun``).
        """
        words = [BIN / word if str(word).startswith("fairseq-") else word for word in words]
        words[0] = BIN / words[0]
        done = subprocess.run(
            [*map(str, words), "--user-dir", str(USER_DIR)],
            input=stdin,
            capture_output=True,
            text=True,
            env={**self.env, **(env or {})},
            cwd=self.folder,
            timeout=TIMEOUT,
        )
        result = Result(done.returncode, done.stdout, done.stderr)
        if check:
            assert result.status == 0, result.out[-3000:] + result.err[-3000:]
        return result

    @staticmethod
    def tiny(data, save_dir, *args):
        """The words of a training of a tiny model; options given later win."""
        return [data, "--task", "story_lm", *TINY, "--save-dir", save_dir, *args]

    def train(self, data, save_dir, *args, **kwargs):
        """Train a tiny model."""
        return self.run("train", *self.tiny(data, save_dir, *args), **kwargs)


def _status(connection, answers, process, deadline):
    """Return the exit status of a command; what runs for too long is killed."""
    try:
        connection.settimeout(max(0.1, deadline - time.monotonic()))
        return int(answers.readline())
    except TimeoutError:
        os.killpg(process, signal.SIGKILL)
        return -signal.SIGKILL
    finally:
        answers.close()
        connection.close()


def _text(path):
    return Path(path).read_text(encoding="utf-8", errors="replace")


@pytest.fixture(scope="session")
def fairseq(tmp_path_factory):
    """The :class:`Commands` of this test process."""
    return Commands(tmp_path_factory.mktemp("commands"))


def make_stories(count, seed):
    """Stories of one to five short sentences."""
    draw = random.Random(seed)
    stories = []
    for _ in range(count):
        name, other = draw.sample(["Lily", "Tom", "Ben", "Mia", "Sam", "Anna"], 2)
        thing = draw.choice(["a red ball", "a small dog", "an old hat", "a green kite"])
        place = draw.choice(["in the park", "at home", "by the sea", "under a tree"])
        parts = [
            f"Once upon a time {name} found {thing} {place}.",
            f"{other} came and they played all day.",
            f"{name} was {draw.choice(['happy', 'sad', 'tired'])}.",
            f'"Let us go home," said {other}.',
            "The end.",
        ]
        stories.append(" ".join(parts[: draw.randint(1, 5)]))
    return stories


SIZES = {"train": 103, "valid": 37, "test": 13}  # none a multiple of 8


class Stories:
    """A binarised story corpus and what is in it."""

    def __init__(self, folder, texts, tokenizer):
        self.folder = folder
        self.bin = folder / "bin"
        self.texts = texts
        self.tokenizer = tokenizer

    def pieces(self, split):
        return [self.tokenizer.encode(text, out_type=str) for text in self.texts[split]]

    def num_tokens(self, split):
        """Tokens that are predicted: the pieces and an end for each story."""
        return sum(len(pieces) + 1 for pieces in self.pieces(split))

    def copy(self, target):
        """A copy of the binarised data that a test may damage."""
        return Path(shutil.copytree(self.bin, target))


@pytest.fixture(scope="session")
def stories(fairseq, tmp_path_factory):
    """Story data as ``prepare.sh`` leaves it: binarised, the tokenizer beside it."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("stories")
    texts = {split: make_stories(size, split) for split, size in SIZES.items()}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts["train"]),
        model_prefix=str(folder / "spm"),
        model_type="bpe",
        vocab_size=150,
        minloglevel=2,
    )
    tokenizer = sentencepiece.SentencePieceProcessor(str(folder / "spm.model"))
    data = Stories(folder, texts, tokenizer)
    for split in SIZES:
        lines = [" ".join(pieces) + "\n" for pieces in data.pieces(split)]
        (folder / f"{split}.spm").write_text("".join(lines), encoding="utf-8")
    fairseq.run(
        "preprocess",
        "--only-source",
        *[x for split in SIZES for x in (f"--{split}pref", folder / f"{split}.spm")],
        "--destdir",
        data.bin,
        "--workers",
        1,
    )
    shutil.copy(folder / "spm.model", data.bin / "sentencepiece.bpe.model")
    return data


@pytest.fixture(scope="session")
def checkpoint(fairseq, stories, tmp_path_factory):
    """``checkpoint_last.pt`` of a model that has learned the stories a little."""
    folder = tmp_path_factory.mktemp("checkpoint")
    options = "--max-tokens 600 --max-update 40 --no-epoch-checkpoints --dropout 0".split()
    fairseq.train(stories.bin, folder, *options, "--tokens-per-sample", 96)
    return folder / "checkpoint_last.pt"
