"""``make gpu-check`` chooses its environment: the usual, a wheelhouse, or the machine's torch."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[3] / "tools"
# instead of a set-up: tells its settings, and makes an environment of this Python
SETUP = """
echo "{name}: WHEELHOUSE=${{WHEELHOUSE-none}} EXTRAS=${{EXTRAS-none}} VENV=$VENV"
mkdir -p "$VENV/bin"
ln -sf {python} "$VENV/bin/python"
"""


@pytest.fixture
def checkout(tmp_path):
    """A checkout whose set-ups and check only tell how they are called."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "benchmarks").mkdir()
    for name in ("gpu_check.sh", "python_env.sh"):
        shutil.copy(TOOLS / name, tmp_path / "tools")
    for name in ("setup_env", "own_torch"):
        text = SETUP.format(name=name, python=sys.executable)
        (tmp_path / "tools" / f"{name}.sh").write_text(text)
    check = 'import sys; print("check:", *sys.argv[3:])'
    (tmp_path / "benchmarks" / "gpu_check.py").write_text(check)
    return tmp_path


def call(script, *words, **variables):
    kept = {k: v for k, v in os.environ.items() if k not in ("VENV", "EXTRAS", "WHEELHOUSE")}
    done = subprocess.run(
        ["bash", script, *words], env={**kept, **variables}, capture_output=True, text=True
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_the_usual_environment(checkout):
    status, lines, _ = call(checkout / "tools" / "gpu_check.sh", "--minutes", "3")
    assert status == 0
    assert lines == ["setup_env: WHEELHOUSE=none EXTRAS=none VENV=.venv", "check: --minutes 3"]


def test_a_wheelhouse_that_was_carried_over(checkout):
    house = checkout / "wheelhouse"
    house.mkdir()
    (house / ".settings").write_text("python 3.12, torch cuda , extras 'dev,hf', versions 12\n")
    usual = "setup_env: WHEELHOUSE=none EXTRAS=none VENV=.venv"
    script = checkout / "tools" / "gpu_check.sh"
    assert call(script)[1][0] == usual  # it is not complete
    (house / "requirements.txt").touch()
    assert "setup_env: WHEELHOUSE=wheelhouse EXTRAS=dev,hf VENV=.venv" in call(script)[1]
    (checkout / ".venv" / ".fairtale-setup").touch()
    assert call(script)[1][0] == usual  # the environment knows where it came from


def test_the_torch_of_the_machine(checkout):
    _, lines, _ = call(checkout / "tools" / "gpu_check.sh", OWN_TORCH="1", VENV=".venv")
    assert lines[0] == "own_torch: WHEELHOUSE=none EXTRAS=none VENV=.venv-own-torch"


def test_a_machine_without_torch_is_told_so(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    bare, made = str(tmp_path / "bare" / "bin" / "python"), str(tmp_path / "made")
    status, _, err = call(TOOLS / "own_torch.sh", PYTHON=bare, VENV=made, PYTHONPATH="")
    assert status == 2 and "has no torch or no numpy that works; leave OWN_TORCH out" in err
    assert not Path(made).exists()
