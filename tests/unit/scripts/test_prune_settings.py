"""prune.sh goes on with a training only if what changes it is the same."""

import subprocess

import pytest

from tests.cli.fairtale_command import ROOT

SETTINGS = """
. "$1"
cd "$2"
echo weights >model.pt
save_dir=run checkpoint=model.pt goal=(--target-heads 4) gated=encoder freeze=decoder fix=3
max_tokens='' update_tokens='' extra=()
"""


def check(folder, changes):
    """Run the check of prune.sh with other values of its variables; return the process."""
    script = SETTINGS + changes + "\ncheck_resumed && touch run/checkpoint_last.pt"
    library = ROOT / "scripts" / "lib" / "translation.sh"
    words = ["bash", "-euc", script, "prune.sh", library, folder]
    return subprocess.run(words, capture_output=True, text=True, timeout=60)


BEGUN = "extra=(--lr 1e-3 --seed=2 --adam-betas '(0.9, 0.98)')"


@pytest.mark.parametrize(
    "changes, asked",
    [
        ("extra=(--lr 3e-4 --seed 2 --adam-betas '(0.9, 0.98)')", "option --lr 3e-4"),
        ("extra=(--lr 1e-3 --seed 5 --adam-betas '(0.9, 0.98)')", "option --seed 5"),
        (BEGUN + "; extra+=(--gate-temperature 0.5)", "option --gate-temperature 0.5"),
        (BEGUN + "; extra+=(--gate-lr-scale 128)", "option --gate-lr-scale 128"),
        (BEGUN + "; max_tokens=1024", "batch 1024 default"),
        (BEGUN + "; update_tokens=1024", "batch default 1024"),
        (BEGUN + "; fix=4", "fixed after 4"),
    ],
)
def test_other_settings_are_refused(changes, asked, tmp_path):
    assert check(tmp_path, BEGUN).returncode == 0
    done = check(tmp_path, changes)
    assert done.returncode != 0 and "holds a training with other settings" in done.stderr
    assert f"  asked for:  {asked}\n" in done.stderr
    assert check(tmp_path, BEGUN).returncode == 0  # what was begun still goes on


def test_what_changes_no_training_may_differ(tmp_path):
    assert check(tmp_path, BEGUN).returncode == 0
    same = "extra=(--log-interval 5 --adam-betas '(0.9, 0.98)' --seed 2 --lr=1e-3 --cpu)"
    assert check(tmp_path, same).returncode == 0
    assert check(tmp_path, "").returncode != 0


def test_without_options(tmp_path):
    for _ in range(2):
        assert check(tmp_path, "").returncode == 0
