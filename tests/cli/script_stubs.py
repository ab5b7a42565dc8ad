"""Pretended commands that the experiments' scripts find first, and stories for them."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.cli.fairtale_command import ROOT

NAMES = ["Lily", "Tom", "Ben", "Mia", "Sam", "Anna", "Leo", "Zoe"]
STORIES = [
    f"{NAMES[n % 8]} had {n} red apples. {NAMES[n % 7]} ate them all.\nThe end {n * 7}."
    for n in range(300)
]


def write_shard(path, stories=STORIES):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([{"story": story} for story in stories]))
    return path


def stub(folder, name, text):
    """Puts a pretended command into ``folder``."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)
    return folder


def with_stubs(folder):
    return {
        "PATH": f"{folder}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    }


def run_with(stubs, name, *words, cwd, **env):
    """As :func:`script`, with the commands in ``stubs`` found first."""
    return subprocess.run(
        ["bash", str(ROOT / "scripts" / name), *map(str, words)],
        cwd=cwd,
        env={**os.environ, **with_stubs(stubs), **env},
        capture_output=True,
        text=True,
        timeout=240,
    )
