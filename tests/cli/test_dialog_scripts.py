"""The dialog experiments' shell scripts: the commands that they run, and their outputs.

fairseq's commands are pretended: they note their words and print what real ones would.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.fairtale_command import ROOT, assert_user_error
from tests.table_helpers import cells

REPLIES = {"0": "i am fine", "1": "see you soon"}
GENERATED = "".join(f"S-{n}\tx\nH-{n}\t-1\tp\nD-{n}\t-1\t{text}\n" for n, text in REPLIES.items())
NAMES = ("opensubtitles", "amazon_qa")


@pytest.fixture
def folder(tmp_path):
    """Data, two models and stub commands; the file ``asked`` gets one line for each command."""
    for name in ("db/text", "runs/gpt", "runs/nat", "bin"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "db" / "dict.txt").touch()
    (tmp_path / "db" / "text" / "test.tsv").write_text("hi\thow are you\ti am fine\nbye\tsee you\n")
    for model in ("gpt", "nat"):
        (tmp_path / "runs" / model / "checkpoint_best.pt").touch()
    (tmp_path / "generated").write_text(GENERATED)
    loss = "2026 | INFO | test | valid on 'test' subset | loss 9 | nll_loss 5.123 | ppl 34"
    command(tmp_path, "fairseq-train", "")
    command(tmp_path, "fairseq-validate", f'echo "validate $*" >>asked; echo "{loss}"')
    command(tmp_path, "fairseq-generate", 'echo "generate $*" >>asked; cat generated')
    command(tmp_path, "fairseq-interactive", 'echo "interactive $*" >>asked; cat generated')
    command(tmp_path, "python", f'exec {sys.executable} "$@"')
    return tmp_path


def command(folder, name, text):
    path = folder / "bin" / name
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


def run(folder, script, *words, experiment="opensubtitles"):
    path = (
        f"{folder / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    )
    return subprocess.run(
        [
            "bash",
            str(ROOT / "scripts" / f"dialog_{experiment}" / script),
            "--data-bin",
            "db",
            *words,
        ],
        cwd=folder,
        env={**os.environ, "PATH": path, "MODEL": "gpt"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def asked(folder):
    return (folder / "asked").read_text().splitlines()


@pytest.mark.parametrize("experiment", NAMES)
def test_models_in_one_table(folder, experiment):
    words = ["--models", "gpt unilm nat", "--runs", "runs", "--outputs", "out", "--beam", "4"]
    done = run(folder, "evaluate.sh", *words, "--cpu", "--min-len", "2", experiment=experiment)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    heads, _, first, second = map(cells, lines[:4])
    names = ["model", "bits/token", "BLEU", "chrF", "distinct-1", "distinct-2", "length", "F1"]
    assert heads == names
    assert first[:2] == ["gpt", "5.123"] and second[:2] == ["nat", "-"]
    assert lines[4] == "2 dialogs, empty replies: gpt 0, nat 0" and len(lines) == 6
    assert "unilm is not trained and is skipped" in done.stderr
    validate, *generate = asked(folder)
    assert validate.startswith("validate db --user-dir") and validate.endswith("simple --cpu")
    assert len(generate) == 2 and all("--beam 4 --nbest 1 " in line for line in generate)
    assert all(line.endswith("--cpu --min-len 2") for line in generate)
    assert sorted(os.listdir(folder / "out")) == [
        "gpt.test.out",
        "gpt.test.valid.log",
        "nat.test.out",
    ]


def test_models_that_cannot_answer(folder):
    words = ["--models", "gpt nat", "--runs", "runs", "--outputs", "out"]
    command(folder, "fairseq-generate", "case $* in *runs/gpt*) cat generated ;; *) exit 1 ;; esac")
    done = run(folder, "evaluate.sh", *words)
    assert_user_error(done, "not in the table, because fairseq-generate failed: nat")
    assert cells(done.stdout.splitlines()[2])[:2] == ["gpt", "5.123"]
    command(folder, "fairseq-generate", "exit 1")
    assert_user_error(run(folder, "evaluate.sh", *words), "fairseq-generate failed for gpt nat")
    command(folder, "fairseq-validate", "echo error: no such file; exit 1")
    done = run(folder, "evaluate.sh", *words)
    assert_user_error(
        done, "fairseq-validate failed on runs/gpt/checkpoint_best.pt: error: no such"
    )
    done = run(folder, "evaluate.sh", "--models", "unilm", "--runs", "runs")
    assert_user_error(done, "none of unilm is trained")


@pytest.mark.parametrize("experiment", NAMES)
def test_a_subset_or_a_file_is_answered(folder, experiment):
    checkpoint = ["--checkpoint", "runs/gpt/checkpoint_best.pt"]
    words = [
        *checkpoint,
        "--output",
        "out/x",
        "--nbest",
        "1",
        "--sampling",
        "--sampling-topp",
        "0.9",
    ]
    done = run(folder, "generate.sh", *words, experiment=experiment)
    assert done.returncode == 0, done.stderr
    assert (folder / "out" / "x").read_text() == GENERATED
    assert "BLEU" in done.stdout and "2 dialogs, 0 empty replies" in done.stdout
    (line,) = asked(folder)
    assert "--gen-subset test --beam 5 --nbest 1 --max-len-b 64" in line
    assert line.endswith("--sampling --sampling-topp 0.9")

    (folder / "in").write_text("hi\thow are you\nbye\n")
    done = run(folder, "generate.sh", *checkpoint, "--input", "in", experiment=experiment)
    assert done.stdout == "i am fine\nsee you soon\n", done.stderr
    assert "--input - --buffer-size 1024" in asked(folder)[1]
    (folder / "in").write_text("hi\thow are you\nbye\t \n")
    done = run(folder, "generate.sh", *checkpoint, "--input", "in", experiment=experiment)
    assert_user_error(done, "--input in: line 2 has an empty last turn")


@pytest.mark.parametrize("experiment", NAMES)
def test_replies_are_re_ranked(folder, experiment):
    words = ["--checkpoint", "runs/gpt/checkpoint_best.pt", "--output", "out/x", "--weight", "0.3"]
    words += ["--reverse", "runs/nat/checkpoint_best.pt"]
    done = run(folder, "rerank.sh", *words, experiment=experiment)
    assert done.returncode == 0 and "2 dialogs" in done.stdout, done.stderr
    (line,) = asked(folder)
    assert "--beam 10 --nbest 10 " in line
    assert "--mmi-path runs/nat/checkpoint_best.pt --mmi-weight 0.3" in line


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("evaluate.sh", ["--nbest", "3"], "--nbest: not an option of this script"),
        ("generate.sh", ["--weight", "0.5"], "--weight: not an option of this script"),
        ("rerank.sh", ["--input", "x"], "--input: not an option of this script"),
        ("generate.sh", ["--checkpoint", "none.pt"], "none.pt: no such checkpoint"),
        ("rerank.sh", ["--reverse", "none.pt"], "none.pt: no such checkpoint"),
        ("generate.sh", ["--data-bin", "none"], "none: no such data; make it with prepare.sh"),
        (
            "evaluate.sh",
            ["--subset", "x"],
            "db/text/x.tsv: no such file, so there are no references",
        ),
        ("train.sh", ["--model", "bert"], "--model bert: gpt, unilm, mixture, reverse or nat"),
        ("train.sh", ["--model", "gpt"], "db holds no training data"),
    ],
)
def test_bad_options(folder, script, words, message):
    assert_user_error(run(folder, script, *words), message)
    assert not (folder / "asked").exists()
