"""Runs ``fairtale`` and the project's shell scripts as people do, in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 240  # seconds; a guard against hanging, nothing is timed


def _run(words, cwd, stdin, env):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **(env or {})}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    return subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=environment,
        input=stdin,
        capture_output=True,
        timeout=TIMEOUT,
        text=not isinstance(stdin, bytes),
    )


def fairtale(*words, cwd=None, stdin=None, env=None):
    """The finished process of ``fairtale WORDS``."""
    return _run([sys.executable, ROOT / "fairtale.py", *words], cwd, stdin, env)


def script(name, *words, cwd=None, stdin=None, env=None):
    """The finished process of ``bash scripts/NAME WORDS``."""
    return _run(["bash", ROOT / "scripts" / name, *words], cwd, stdin, env)


def assert_user_error(done, *parts):
    """The command failed with status 2 and one line on stderr that holds all ``parts``."""
    assert done.returncode == 2, done.stdout + done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("error: "), done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in line, line
