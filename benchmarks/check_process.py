"""Run commands with a budget of seconds; what is over it is ended with all its descendants."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# The commands that run now, so that stop_all can end them.
_RUNNING: set[subprocess.Popen[bytes]] = set()
_stopping = False


class Stopping(Exception):
    """No command begins any more, because :func:`stop_all` was called."""


@dataclass
class Done:
    """How a command has ended.

    Args:
        status: its exit status; negative for a signal.
        output: stdout and stderr, in the order of writing.
        seconds: how long it ran.
        is_over_budget: whether it was ended because it ran for too long.
    """

    status: int
    output: str
    seconds: float
    is_over_budget: bool


def run(words: Sequence[object], seconds: float, env: Mapping[str, str] | None = None) -> Done:
    """Run a command for at most ``seconds``, in a process group of its own."""
    if _stopping:
        raise Stopping
    began = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [str(word) for word in words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
        )
        _RUNNING.add(process)
        is_over_budget = False
        try:
            process.wait(timeout=max(seconds, 0.1))
        except subprocess.TimeoutExpired:
            is_over_budget = True
        finally:
            _end(process)
            _RUNNING.discard(process)
        output.seek(0)
        text = output.read().decode("utf-8", errors="replace")
    return Done(process.returncode, text, time.monotonic() - began, is_over_budget)


def stop_all() -> None:
    """End every command that runs now, and let none begin any more."""
    global _stopping
    _stopping = True
    for process in list(_RUNNING):
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command's whole process group; a command that has ended may have left processes."""
    for kind, patience in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        try:
            os.killpg(process.pid, kind)
        except ProcessLookupError:
            break
        try:
            process.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            continue
    process.poll()
