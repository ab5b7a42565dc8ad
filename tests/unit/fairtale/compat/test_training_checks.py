"""One training at a time in a folder, at least one update, and a metric that there is."""

import fcntl
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from fairseq import checkpoint_utils

from fairtale.compat import training_checks
from fairtale.errors import UserError


@pytest.fixture
def unlocked(monkeypatch):
    """Forget the locks of this process before and after a test."""
    monkeypatch.setattr(training_checks, "_locked", {})
    yield
    training_checks._close_locks()


HOLD = "import fcntl, os, sys; d = os.open(sys.argv[1], os.O_RDONLY); fcntl.flock(d, fcntl.LOCK_EX)"


def hold(folder):
    """Return a process that holds the lock of a folder, and does nothing else."""
    words = [sys.executable, "-c", f"{HOLD}; print(flush=True); sys.stdin.read()", str(folder)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    return process


def test_the_second_training_in_a_folder_is_refused_until_the_first_is_gone(unlocked, tmp_path):
    first = hold(tmp_path)
    try:
        with pytest.raises(UserError, match="another training writes there at this moment"):
            checkpoint_utils.verify_checkpoint_directory(str(tmp_path))
    finally:
        first.kill()  # as a crash or the kernel does
        first.wait()
    checkpoint_utils.verify_checkpoint_directory(str(tmp_path))
    checkpoint_utils.verify_checkpoint_directory(str(tmp_path / "." / ""))  # by the same process
    assert not list(tmp_path.iterdir())
    with pytest.raises(BlockingIOError):
        fcntl.flock(os.open(tmp_path, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_worker_that_outlives_the_training_does_not_keep_the_lock(unlocked, tmp_path):
    training_checks.lock_folder(str(tmp_path))
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)  # until the test closes the pipe
        os._exit(0)
    try:
        training_checks._close_locks()  # the end of the training
        hold(tmp_path).communicate(timeout=30)
    finally:
        os.close(writer)
        os.waitpid(child, 0)


def test_a_folder_that_cannot_be_locked_is_used_all_the_same(
    unlocked, tmp_path, monkeypatch, caplog
):
    def refuse(*_):
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(fcntl, "flock", refuse)
    training_checks.lock_folder(str(tmp_path))
    assert "cannot be locked" in caplog.text


def trainer(rate, least, updates=0):
    config = SimpleNamespace(optimization=SimpleNamespace(stop_min_lr=least))
    return SimpleNamespace(
        cfg=config, get_lr=lambda: rate, get_num_updates=lambda: updates, task=None
    )


@pytest.mark.parametrize(
    ("rate", "least", "updates", "refused"),
    [(1e-7, 1e-6, 0, True), (0.0, 0.0, 0, True), (1e-5, 1e-6, 0, False), (1e-7, 1e-6, 9, False)],
)
def test_a_training_has_an_update(rate, least, updates, refused, monkeypatch):
    cured = checkpoint_utils.load_checkpoint
    while cured.__code__.co_filename != training_checks.__file__:
        cured = cured.__wrapped__
    monkeypatch.setattr(
        cured.__closure__[0], "cell_contents", lambda *_, **__: "loaded"
    )  # fairseq's function
    if refused:
        with pytest.raises(UserError, match="training would end before its first update; raise"):
            cured(None, trainer(rate, least, updates))
    else:
        assert cured(None, trainer(rate, least, updates)) == "loaded"


def test_a_metric_that_there_is_not():
    config = SimpleNamespace(checkpoint=SimpleNamespace(best_checkpoint_metric="acuracy"))
    original = training_checks._explaining(lambda cfg, trainer, stats, best: stats)
    with pytest.raises(UserError, match="metric acuracy: validations have loss, ppl; choose"):
        original(config, None, {"loss": 1, "ppl": 2, "_bleu": 3}, True)
    config.checkpoint.best_checkpoint_metric = "ppl"
    assert original(config, None, {"loss": 1, "ppl": 2}, True)
