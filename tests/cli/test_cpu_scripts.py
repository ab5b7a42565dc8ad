"""The small experiments of the README's table: which commands their scripts run, in which order.

The scripts run in a copy of the folder ``scripts``; Python and fairseq's commands are pretended.
"""

import os
import shutil
import subprocess

import pytest

from tests.cli.fairtale_command import ROOT

# Notes each call, and leaves the files that the next step of an experiment looks for.
PYTHON = """#!/usr/bin/env bash
shift 2
echo "fairtale $*" >>asked
case "$1" in
    prepare) while [ $# -gt 0 ]; do [ "$1" != --data-bin ] || folder=$2; shift; done
        mkdir -p "$folder/text"
        echo "languages en ru" >"$folder/prepare.txt"
        printf 'valid\\tvalid\\n' >"$folder/text/names.txt"
        touch "$folder/train.idx" "$folder/dict.txt" "$folder/dict.en.txt" "$folder/dict.ru.txt"
        touch "$folder/text/test.tsv" "$folder/text/valid.ru" ;;
    launch) while [ $# -gt 0 ]; do [ "$1" != --save-dir ] || folder=$2; shift; done
        touch "$folder/checkpoint_last.pt" "$folder/checkpoint_best.pt" ;;
    prune) touch "$4" ;;
esac
"""


@pytest.fixture
def run(tmp_path):
    """Run a script of the copy; return its status and the commands asked for, a line each."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", symlinks=True)
    (tmp_path / "bin").mkdir()
    for name in ("fairseq-train", "fairseq-validate", "fairseq-generate"):
        text = f'#!/usr/bin/env bash\necho "{name} $*" >>asked\n'
        (tmp_path / "bin" / name).write_text(text)
    (tmp_path / "bin" / "python").write_text(PYTHON)
    for path in (tmp_path / "bin").iterdir():
        path.chmod(0o755)

    def run(script, *words):
        (tmp_path / "asked").write_text("")
        done = subprocess.run(
            ["bash", tmp_path / "scripts" / script, *words],
            cwd=tmp_path,
            env={**os.environ, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done, (tmp_path / "asked").read_text().splitlines()

    return run


def test_stories(run):
    done, (prepare, launch, *last) = run("story_tinystories/cpu.sh", "a.txt", "books")
    assert done.returncode == 0, done.stderr
    assert prepare.startswith("fairtale prepare stories ")
    assert "--source a.txt --source books" in prepare and "--valid 0.02" in prepare
    assert launch.startswith("fairtale launch --max-tokens 4096 --update-tokens 4096 ")
    assert "--decoder-embed-dim 256" in launch and "--max-update 900" in launch
    validate, log = sorted(last)  # both ends of a pipe start at once
    assert "runs/story_cpu/checkpoint_best.pt" in validate and log == "fairtale log validation"


@pytest.mark.parametrize(
    ("model", "arch"),
    [("gpt", "gpt_tiny"), ("unilm", "unilm_seq2seq_tiny"), ("mixture", "unilm_seq2seq_tiny")],
)
def test_dialogs(run, model, arch):
    done, asked = run("dialog_opensubtitles/cpu.sh", model, "talk.jsonl")
    assert done.returncode == 0, done.stderr
    prepare, launch, validate, generate, table = asked
    assert prepare.startswith("fairtale prepare dialogs ") and "--source talk.jsonl" in prepare
    assert f"--arch {arch}" in launch and "--warmup-updates 60 --max-update 1200" in launch
    assert f"runs/dialog_cpu/{model}/checkpoint_best.pt" in validate
    assert "--beam 4 " in generate and "--no-repeat-ngram-size 3 --cpu" in generate
    assert table.startswith("fairtale compare-dialogs ") and f"--model {model} " in table


def test_translation_and_its_pruning(run):
    done, asked = run("wmt16_en_ru/cpu.sh", "a.en-ru", "b.en-ru")
    assert done.returncode == 0, done.stderr
    prepare, launch, generate, outputs, table = asked
    assert "--source a.en-ru --source b.en-ru" in prepare and "--joint" in prepare
    assert "--encoder-layers 3" in launch and "--max-update 3000" in launch
    assert "runs/wmt16_cpu/base/checkpoint_last.pt --gen-subset valid" in generate
    assert table.startswith("fairtale score-translation --set valid ")

    done, asked = run("wmt16_en_ru/cpu_prune.sh", "12")
    assert done.returncode == 0, done.stderr
    options, launch, prune, generate, outputs, table = asked
    assert "transformer-options" in options and "--target-heads 12" in launch
    assert "--gates-fix-update 480" in launch and "--gate-lr-scale 128" in launch
    assert prune.startswith("fairtale prune ") and "runs/wmt16_cpu/prune_12/pruned.pt" in generate


def test_test_sets_of_the_translation(run):
    done, asked = run("wmt16_en_ru/cpu.sh", "a.en-ru", "--test", "news.en-ru", "flores.en-ru")
    assert "--source a.en-ru --test news.en-ru --test flores.en-ru" in asked[0]


@pytest.mark.parametrize(
    "script",
    ["story_tinystories/cpu.sh", "dialog_opensubtitles/cpu.sh", "wmt16_en_ru/cpu.sh"]
    + ["wmt16_en_ru/cpu_prune.sh"],
)
def test_without_arguments_the_help_is_shown(run, script):
    done, asked = run(script)
    assert done.returncode == 2 and asked == []
    assert script.rpartition("/")[2] in done.stdout
