"""Work-arounds are installed once by a call, and not by an import."""

import subprocess
import sys
from pathlib import Path

from fairseq import checkpoint_utils
from fairseq.data import data_utils

from fairtale import compat

ROOT = Path(__file__).resolve().parents[4]


def test_cures_are_applied_once():
    before = data_utils.batch_by_size, checkpoint_utils.load_checkpoint_to_cpu
    compat.install()
    assert (data_utils.batch_by_size, checkpoint_utils.load_checkpoint_to_cpu) == before
    assert not hasattr(data_utils.batch_by_size.__wrapped__, "__wrapped__")


def test_importing_changes_nothing(tmp_path):
    """A checkpoint can be read without importing fairseq."""
    code = f"""
import argparse, sys, torch
hook = sys.excepthook
import fairtale.compat
assert "fairseq" not in sys.modules
assert argparse.Namespace not in torch.serialization.get_safe_globals()
path = {str(tmp_path / "a.pt")!r}
torch.save({{"args": argparse.Namespace(task="story_lm"), "model": {{}}}}, path)
print(fairtale.compat.read_checkpoint(path)["args"].task)
assert sys.excepthook is hook
fairtale.compat.install()
assert sys.excepthook is not hook
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0 and done.stdout.split()[-1] == "story_lm", done.stderr
