"""Each recipe shows on one screen the whole command that it runs, and what they share is short."""

import re
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
MAX_LINES, MAX_LINES_SHARED = 60, 300
COMMANDS = {
    "train": ["fairseq-train"],
    "prune": ["fairseq-train"],
    "generate": [],  # fairseq-interactive, or `fairtale sample`
    "rerank": ["fairseq-generate"],
    "evaluate": [],
}
RECIPES = sorted(path for name in COMMANDS for path in SCRIPTS.glob(f"*/{name}.sh"))
NAMES = [f"{path.parent.name}/{path.stem}" for path in RECIPES]


def code(path):
    """The text without comments."""
    return re.sub(r"^#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_every_experiment_has_its_scripts():
    experiments = {path.parent.name for path in RECIPES}
    assert len(experiments) == 7
    for name in ("prepare", "train", "generate", "evaluate"):
        assert {path.parent.name for path in SCRIPTS.glob(f"*/{name}.sh")} == experiments


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_a_recipe_shows_its_whole_command(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_LINES
    commands = re.findall(r"^ *(fairseq-\w+) .*--user-dir", code(path), re.MULTILINE)
    commands += re.findall(r"^exec_fairtale (sample) ", code(path), re.MULTILINE)
    assert commands, "no literal command"
    assert set(COMMANDS[path.stem]) <= set(commands)
    if path.stem in ("train", "prune"):
        for option in ("--update-tokens", "--lr", "--warmup", "--optimizer adam", "--max-update"):
            assert option in code(path)
        assert re.search(r"= 1 (GPU )?x|see train\.sh", text)  # the arithmetic of an update


def test_the_warm_up_of_the_dialog_recipe_is_found_in_its_train_sh():
    for name in ("dialog_opensubtitles", "dialog_amazon_qa"):
        assert "--warmup-updates 4000" in code(SCRIPTS / name / "train.sh")


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*/prepare.sh")), ids=lambda p: p.parent.name)
def test_preparing_is_one_verb(path):
    assert len(re.findall("fairtale", code(path))) == 1
    assert "exec_fairtale prepare " in code(path)


def test_the_pretraining_has_the_values_of_its_recipe():
    text = code(SCRIPTS / "gpt2_pretrain" / "train.sh")
    for words in (
        "--adam-betas '(0.95, 0.999)'",
        "--lr 3.5e-4",
        "--clip-norm 0.25",
        "--warmup-updates 1000 --total-num-update 300000 --max-update 300000",
        "--loss-average samples --report-accuracy",
        '--tensorboard-logdir "$save_dir/tensorboard"',
        "gpt_112m",
    ):
        assert words in text
    assert "--response-only" in code(SCRIPTS / "gpt2_conversation" / "train.sh")


def test_what_the_scripts_share_is_short():
    files = [path for path in (SCRIPTS / "lib").iterdir() if path.is_file()]
    assert sum(path.read_text(encoding="utf-8").count("\n") for path in files) < MAX_LINES_SHARED


# --------------------------------------------------------------------- scripts/lib/common.sh


@pytest.fixture
def options(tmp_path):
    """Run ``options`` on words, print what it has set; ``fairseq-train`` is pretended."""
    (tmp_path / "fairseq-train").touch(mode=0o755)
    (tmp_path / "script.sh").write_text(
        f"#!/bin/bash\n# What it does.\n#\n#   --data-bin DIR\nset -euo pipefail\n"
        f". '{SCRIPTS}/lib/common.sh'\ndata_bin=here prompt='' extra=()\n"
        "options 'data-bin prompt+' 'output' \"$@\"\n"
        'printf \'%s|\' "$data_bin" "$prompt" ${extra[@]+"${extra[@]}"}\n'
    )

    def run(*words):
        done = subprocess.run(
            ["bash", tmp_path / "script.sh", *words],
            env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
        )
        return done.stdout, done.stderr, done.returncode

    return run


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "here||"),
        (["--data-bin", "a b", "--lr", "3", "x", "-s", "en"], "a b||--lr|3|x|-s|en|"),
        (["--prompt", "a b", "--prompt", "$c", "--data-bin", "-h"], "-h|a b\n$c\n|"),
        (["--data-binary", "x"], "here||--data-binary|x|"),
        (["--help"], "What it does.\n\n  --data-bin DIR\n"),
    ],
)
def test_options_of_a_script(options, words, told):
    assert options(*words) == (told, "", 0)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--data-bin"], "--data-bin needs a value"),
        (["--output", "x"], "--output: not an option of this script"),
        (["--topk", "5"], "--topk is now --sampling-topk"),
    ],
)
def test_bad_options_of_a_script(options, words, error):
    out, told, status = options(*words)
    assert (out, status) == ("", 2) and told.startswith(f"error: {error}")


@pytest.fixture
def go_back(tmp_path):
    """Call ``go_back`` on a folder with checkpoints after 10, 20, 30 and 40 updates."""
    run = tmp_path / "a run"
    run.mkdir()
    for name in ("1_10", "1_20", "2_30", "2_40", "last", "best"):
        (run / f"checkpoint_{name}.pt").write_text(name)
    (tmp_path / "fairseq-train").touch(mode=0o755)
    (tmp_path / "script.sh").write_text(
        f"set -euo pipefail\n. '{SCRIPTS}/lib/common.sh'\ngo_back \"$@\"\n"
    )

    def call(updates):
        done = subprocess.run(
            ["bash", tmp_path / "script.sh", run, updates],
            env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
        )
        return run, done

    return call


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def test_a_training_goes_back_to_an_earlier_checkpoint(go_back):
    run, done = go_back("20")
    assert done.returncode == 0 and "going on from" in done.stderr
    names = ("1_10", "1_20", "best")
    kept = {f"checkpoint_{name}.pt": name for name in names}
    assert contents(run) == {**kept, "checkpoint_last.pt": "1_20"}
    (later,) = (path for path in run.iterdir() if path.is_dir())
    names = ("2_30", "2_40", "last", "best")
    assert contents(later) == {f"checkpoint_{name}.pt": name for name in names}


def test_a_checkpoint_that_does_not_exist_changes_nothing(go_back):
    run, done = go_back("25")
    assert done.returncode == 2
    assert "--from-checkpoint 25: " in done.stderr and "after updates 10 20 30 40" in done.stderr
    assert len(list(run.iterdir())) == 6
