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
    gpt2) [ "$2" = export ] || { mkdir -p "$5" && touch "$5/checkpoint.pt"; } ;;
    compare-finetuning) while [ $# -gt 0 ]; do [ "$1" != --output ] || touch "$2"; shift; done ;;
esac
"""


@pytest.fixture
def run(tmp_path):
    """Run a script of the copy; return its status and the commands asked for, a line each."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", symlinks=True)
    (tmp_path / "bin").mkdir()
    for name in ("train", "validate", "generate", "interactive"):
        name = f"fairseq-{name}"
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
    [
        ("gpt", "gpt_tiny"),
        ("unilm", "unilm_seq2seq_tiny"),
        ("mixture", "unilm_seq2seq_tiny"),
        ("nat", "mask_predict_tiny"),
    ],
)
def test_dialogs(run, model, arch):
    done, asked = run("dialog_opensubtitles/cpu.sh", model, "talk.jsonl")
    assert done.returncode == 0, done.stderr
    prepare, launch, *validate, generate, table = asked
    assert prepare.startswith("fairtale prepare dialogs ") and "--source talk.jsonl" in prepare
    assert f"--arch {arch}" in launch and "--warmup-updates 60 --max-update 1200" in launch
    assert [f"runs/dialog_cpu/{model}/checkpoint_best.pt" in words for words in validate] == (
        [] if model == "nat" else [True]
    )
    beam, ngrams = ("--beam 1 ", False) if model == "nat" else ("--beam 4 ", True)
    assert beam in generate and ("--no-repeat-ngram-size 3" in generate) == ngrams
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


def test_finetuning(run, tmp_path):
    works = tmp_path / "some works"
    works.mkdir()
    for name in ("Gogol__A", "Chekhov__B", "Chekhov__C"):
        (works / f"{name}.txt").touch()
    done, asked = run("finetune_rugpt3/cpu.sh", "Chekhov", works)
    assert done.returncode == 0, done.stderr
    asked = [line for line in asked if line != "fairtale log validation"]
    general, base, export, load, own, as_it_is, *trainings, table = asked
    assert f"--source {works}/Gogol__A.txt --data-bin" in general and "Chekhov" not in general
    assert "--decoder-layers 6" in base and "--max-update 2400" in base
    assert export.startswith("fairtale gpt2 export ") and load.startswith("fairtale gpt2 import ")
    assert f"--source {works}/Chekhov__B.txt --source {works}/Chekhov__C.txt" in own
    assert "--tokenizer" in own and "Gogol" not in own
    assert as_it_is.startswith("fairseq-validate ") and "models/finetune_cpu" in as_it_is
    assert len(trainings) == 18
    for seed, training in enumerate(trainings[:3], 1):
        assert f"--seed {seed}" in training and "--freeze-all-but-last 1" in training
        assert "--max-update 200 " in training and " --lr 0.003 " in training
    assert "--unfreeze-schedule every:25" in trainings[12] and " --lr 5e-4 " in trainings[12]
    assert "--lora-rank 8" in trainings[17] and "--lora-rank" not in trainings[14]
    assert "--setting last2 " in table and table.count("-3 ") == 6

    (tmp_path / "runs/finetune_cpu/gradual-2/complete").unlink()
    done, asked = run("finetune_rugpt3/cpu.sh", "Chekhov", works)
    assert [line for line in asked if "--finetune-from-model" in line] == [trainings[13]]
    done, asked = run("finetune_rugpt3/cpu.sh", "Tolstoy", works)
    assert done.returncode == 2 and asked == [] and "no work of Tolstoy" in done.stderr


def test_pretraining_and_its_conversations(run, tmp_path):
    done, asked = run("gpt2_conversation/cpu.sh", "pairs.jsonl")
    assert done.returncode == 2 and asked == []
    assert "make it with scripts/gpt2_pretrain/cpu.sh" in done.stderr

    done, asked = run("gpt2_pretrain/cpu.sh", "works", "more.jsonl")
    assert done.returncode == 0, done.stderr
    prepare, launch, *last = asked
    assert prepare.startswith("fairtale prepare documents ")
    assert "--dialog-marks --source works more.jsonl --data-bin" in prepare
    assert "--tokenizer-sample 100000" in prepare and prepare.endswith("--valid 0.05")
    assert launch.startswith("fairtale launch --max-tokens 1024 --update-tokens 1024 ")
    assert "--arch gpt_tiny" in launch and "--max-update 375" in launch
    validate, log = sorted(last)
    assert "runs/pretrain_cpu/checkpoint_best.pt" in validate and log == "fairtale log validation"

    (tmp_path / "data-bin/conversation_cpu/text").mkdir(parents=True)
    (tmp_path / "data-bin/conversation_cpu/text/test.tsv").write_text("Who?\tMe.\nWhy?\tSo.\n")
    done, asked = run("gpt2_conversation/cpu.sh", "pairs.jsonl", "b.csv")
    assert done.returncode == 0, done.stderr
    prepare, launch, *measured, generate, score, interactive, outputs = asked
    assert "--source pairs.jsonl --source b.csv --tokenizer" in prepare
    assert "data-bin/pretrain_cpu --data-bin" in prepare
    assert "--task dialog_lm --finetune-from-model" in launch
    assert "--response-only " in launch and "--max-source-positions 64 " in launch
    assert sorted(measured)[1] == "fairtale log validation" and len(measured) == 2
    assert "--gen-subset test --beam 4 " in generate
    assert score.startswith("fairtale score-dialog ")
    assert interactive.endswith(" --max-len-b 40 --cpu")
    assert (tmp_path / "runs/conversation_cpu/questions.txt").read_text() == "Who?\nWhy?\n"
    assert outputs.startswith("fairtale log outputs ") and "Who?\t" in done.stdout


def test_trainings_of_another_length_are_not_taken(run, tmp_path):
    (tmp_path / "base.pt").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.idx").touch()
    words = ["--base", "base.pt", "--data-bin", "data", "--output", "out", "--settings", "all"]
    done, asked = run("finetune_rugpt3/compare.sh", *words, "--seeds", "1", "--updates", "10")
    assert done.returncode == 0, done.stderr
    assert sum("--finetune-from-model" in line for line in asked) == 1
    done, asked = run("finetune_rugpt3/compare.sh", *words, "--seeds", "1", "--updates", "20")
    assert done.returncode == 2 and "has 10 updates, not 20" in done.stderr


@pytest.mark.parametrize(
    "script",
    ["story_tinystories/cpu.sh", "dialog_opensubtitles/cpu.sh", "wmt16_en_ru/cpu.sh"]
    + ["wmt16_en_ru/cpu_prune.sh", "finetune_rugpt3/cpu.sh"]
    + ["gpt2_pretrain/cpu.sh", "gpt2_conversation/cpu.sh"],
)
def test_without_arguments_the_help_is_shown(run, script):
    done, asked = run(script)
    assert done.returncode == 2 and asked == []
    assert script.rpartition("/")[2] in done.stdout
