"""The packaging files agree with each other and with the code, and the setup scripts decide well.

The scripts' functions run here against a pretended pip and nvidia-smi, so no network is needed.
"""

import ast
import distutils.core
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import setuptools  # noqa: F401  (gives Python 3.12 the module distutils)
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("fairtale", "user_dir")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


@pytest.fixture(scope="module")
def distribution():
    folder = os.getcwd()
    os.chdir(ROOT)
    try:
        return distutils.core.run_setup("setup.py", stop_after="init")
    finally:
        os.chdir(folder)


@pytest.fixture(scope="module")
def pins():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {re.sub("[-_.]+", "-", name).lower(): version for name, version in pairs}


def _requirements(distribution, *extras):
    lines = list(distribution.install_requires)
    for extra in extras:
        lines += distribution.extras_require[extra]
    return [Requirement(line) for line in lines]


def test_every_folder_of_code_is_packaged(distribution):
    folders = {path.parent for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    expected = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert len(expected) > 5
    assert set(distribution.packages) == expected


def test_only_code_lies_in_the_package(distribution):
    """A data file (a web page, a word list) must be named in setup.py, or wheels lack it."""
    others = {
        path.relative_to(ROOT).as_posix()
        for name in PACKAGES
        for path in (ROOT / name).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    named = set()
    for package, patterns in (distribution.package_data or {}).items():
        for pattern in patterns:
            folder = ROOT / package.replace(".", "/")
            named |= {path.relative_to(ROOT).as_posix() for path in folder.glob(pattern)}
    assert others - named == set()


def test_the_console_command_exists(distribution):
    assert distribution.get_name() == "fairtale"
    (command,) = distribution.entry_points["console_scripts"]
    name, target = command.split(" = ")
    module, function = target.split(":")
    assert name == "fairtale"
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_extras_are_those_of_the_house(distribution):
    assert set(distribution.extras_require) == {
        "hf",
        "serve",
        "mongo",
        "ctranslate2",
        "parquet",
        "plots",
        "dev",
    }


def test_every_tested_requirement_is_pinned_within_its_bounds(distribution, pins):
    for requirement in _requirements(distribution, "hf", "plots", "dev"):
        name = re.sub("[-_.]+", "-", requirement.name).lower()
        assert requirement.specifier.contains(pins[name]), requirement


@pytest.mark.parametrize("version", ["2.11.0", "2.12.1", "2.13.0", "2.13.0+cpu"])
def test_supported_torch_is_allowed(distribution, version):
    (torch,) = (item for item in _requirements(distribution) if item.name == "torch")
    assert torch.specifier.contains(version)
    assert not torch.specifier.contains("2.10.0")
    assert not torch.specifier.contains("2.14.0")


def test_pythons_agree(distribution):
    supported = SpecifierSet(str(distribution.python_requires))
    assert supported.contains("3.11.0") and supported.contains("3.12.9")
    assert not supported.contains("3.10.14") and not supported.contains("3.13.0")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert settings["tool"]["ruff"]["target-version"] == "py311"


# --- tools ---------------------------------------------------------------------------------------


@pytest.fixture
def shell(tmp_path):
    """``shell(code, **env)``: runs bash code after python_env.sh, with ``tmp_path/bin`` first in
    PATH. Nothing of pip's own settings on this machine is seen."""
    (tmp_path / "bin").mkdir()

    def run(code, **env):
        path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
        return subprocess.run(
            ["bash", "-c", f'set -euo pipefail; . "$ROOT/tools/python_env.sh"; {code}'],
            env={"PATH": path, "ROOT": str(ROOT), "HOME": str(tmp_path), **env},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def _program(tmp_path, name, text):
    path = tmp_path / "bin" / name
    path.write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


# A Python whose pip resolves torch to what the two variables say: a build's companions, or "none".
PRETENDED_PIP = f"""
if [ "$1" = -c ]; then exec {sys.executable} "$@"; fi
echo "$@" >> "$HOME/calls"
libraries=$DEFAULT
while [ $# -gt 0 ]; do
    case "$1" in
        --extra-index-url) libraries=$EXTRA; shift ;;
        --report) report=$2; shift ;;
    esac
    shift
done
[ "$libraries" != none ] || exit 1
items=
for name in torch $libraries; do
    items="$items,{{\\"metadata\\": {{\\"name\\": \\"$name\\", \\"version\\": \\"1\\"}}}}"
done
echo "{{\\"install\\": [${{items#,}}]}}" > "$report"
"""


@pytest.mark.parametrize(
    ("default", "extra", "index", "expected"),
    [
        ("sympy", "none", "", []),  # macOS, or a mirror that holds the CPU build
        ("nvidia-cublas", "sympy", "", ["--extra-index-url", CPU_INDEX]),  # Linux and PyPI
        ("cuda-toolkit", "sympy", "", ["--extra-index-url", CPU_INDEX]),
        ("none", "sympy", "", ["--extra-index-url", CPU_INDEX]),
        ("sympy", "sympy", "https://own", ["--extra-index-url", "https://own"]),
        ("nvidia-cublas", "none", "", None),
        ("nvidia-cublas", "nvidia-cublas", "", None),
        ("nvidia-cublas", "none", "https://own", None),
    ],
)
def test_cpu_torch_never_brings_cuda(tmp_path, shell, pins, default, extra, index, expected):
    python = _program(tmp_path, "pretended", PRETENDED_PIP)
    env = {"TORCH_INDEX_URL": index} if index else {}
    result = shell(f"torch_args {python} cpu FAIRTALE_TORCH", DEFAULT=default, EXTRA=extra, **env)
    if expected is None:
        assert result.returncode == 2
        assert result.stdout == ""
        (message,) = result.stderr.splitlines()
        assert message.startswith("error: no CPU build of torch")
        assert "FAIRTALE_TORCH=cuda" in message and "TORCH_INDEX_URL" in message
        assert (index or CPU_INDEX) in message
    else:
        assert result.returncode == 0, result.stderr
        assert result.stdout.split() == [f"torch=={pins['torch']}", *expected]
    calls = (tmp_path / "calls").read_text().splitlines()
    assert all("--dry-run" in call for call in calls)


def test_cuda_torch_passes_over_a_local_cpu_build(tmp_path, shell, pins):
    result = shell("torch_args python cuda FAIRTALE_TORCH")
    assert result.stdout.split() == [f"torch==={pins['torch']}"]
    result = shell("torch_args python cuda FAIRTALE_TORCH", TORCH_INDEX_URL="https://own")
    assert result.stdout.split() == [f"torch=={pins['torch']}", "--extra-index-url", "https://own"]


@pytest.mark.parametrize(
    ("nvidia_smi", "asked", "expected"),
    [
        (None, "", "cpu"),
        ("echo 'GPU 0: NVIDIA H100 (UUID: GPU-1)'", "", "cuda"),
        ("echo 'GPU 0: NVIDIA H100 (UUID: GPU-1)'", "cpu", "cpu"),
        ("echo 'No devices found.'", "", "cpu"),  # the driver without a card
        ("exit 9", "auto", "cpu"),  # the command without a driver
        (None, "cuda", "cuda"),
    ],
)
def test_torch_build_follows_the_machine(tmp_path, shell, nvidia_smi, asked, expected):
    # Nothing else of PATH is there, so that a real nvidia-smi is not found.
    for name in ("grep", "bash"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))
    if nvidia_smi:
        _program(tmp_path, "nvidia-smi", nvidia_smi)
    code = f"PATH={tmp_path / 'bin'}; torch_flavour FAIRTALE_TORCH"
    result = shell(code, **({"FAIRTALE_TORCH": asked} if asked else {}))
    assert (result.stdout, result.stderr) == (f"{expected}\n", "")


def test_an_unknown_torch_build_is_an_error(shell):
    result = shell("torch_flavour FAIRTALE_TORCH", FAIRTALE_TORCH="gpu")
    assert result.returncode == 2
    assert result.stderr.startswith("error: FAIRTALE_TORCH=gpu")


def test_a_python_that_cannot_run_is_passed_over(tmp_path, shell):
    _program(tmp_path, "python3.12", "echo 'pyenv: python3.12: command not found' >&2; exit 127")
    _program(tmp_path, "python3.11", f'exec {sys.executable} "$@"')
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    result = shell('python_version "$(find_python)"', PYENV_ROOT="/nonexistent")
    assert result.stdout == f"{version}\n"


@pytest.fixture
def checkout(tmp_path):
    """A folder with the files that setup_env.sh reads."""
    for name in ("setup.py", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "tools").mkdir()
    for name in ("setup_env.sh", "python_env.sh"):
        (tmp_path / "tools" / name).write_bytes((ROOT / "tools" / name).read_bytes())
    (tmp_path / "bin").mkdir()
    return tmp_path


def _setup(checkout, **env):
    return subprocess.run(
        ["bash", "tools/setup_env.sh"],
        cwd=checkout,
        env={"PATH": "/usr/bin:/bin", "HOME": str(checkout), "PYENV_ROOT": "/nonexistent", **env},
        capture_output=True,
        text=True,
        timeout=60,
    )


def _pretended_venv(checkout, version):
    """An environment whose Python only tells its version; calling pip in it fails."""
    binaries = checkout / ".venv" / "bin"
    binaries.mkdir(parents=True)
    python = binaries / "python"
    python.write_text(f'#!/bin/bash\n[ "$1" = -c ] && echo {version}\n', encoding="utf-8")
    python.chmod(0o755)
    return python


@pytest.mark.parametrize(
    ("venv", "env", "fault"),
    [
        (None, {"PYTHON": "/nonexistent"}, "PYTHON=/nonexistent does not run"),
        ("3.13", {}, ".venv was made with Python 3.13; fairtale needs 3.11 or 3.12"),
        ("3.12", {"PYTHON": "bin/python3.11"}, ".venv was made with Python 3.12, but PYTHON="),
        (None, {"PYTHON": "bin/python3.10"}, "is Python 3.10; fairtale needs 3.11 or 3.12"),
        (None, {"WHEELHOUSE": "bin"}, "WHEELHOUSE=bin has no requirements.txt"),
        ("3.12", {"FAIRTALE_TORCH": "gpu"}, "FAIRTALE_TORCH=gpu is not a torch build"),
    ],
)
def test_setup_explains_what_it_cannot_do(checkout, venv, env, fault):
    for version in ("3.10", "3.11"):
        _program(checkout, f"python{version}", f"echo {version}")
    if venv:
        _pretended_venv(checkout, venv)
    result = _setup(checkout, **env)
    assert result.returncode == 2
    (message,) = result.stderr.splitlines()
    assert message.startswith("error: ") and fault in message


def _stamp(checkout, version="3.12", torch="cpu"):
    # As setup_env.sh writes it: the fingerprint, then the build of torch.
    files = ["setup.py", "constraints.txt"]
    files += ["tools/setup_env.sh", "tools/python_env.sh"]
    text = b"".join((checkout / name).read_bytes() for name in files)
    checksum = subprocess.run(["cksum"], input=text, capture_output=True, check=True).stdout
    lines = [f"python {version}", "extras dev", "wheelhouse ", f"root {checkout}"]
    lines += [checksum.decode().strip(), f"torch {torch}"]
    (checkout / ".venv" / ".fairtale-setup").write_text("\n".join(lines) + "\n")


def test_setup_has_nothing_to_do_the_second_time(checkout):
    _pretended_venv(checkout, "3.12")
    _stamp(checkout)
    for env in ({}, {"FAIRTALE_TORCH": "cpu"}, {"EXTRAS": "dev"}):
        result = _setup(checkout, **env)
        assert result.returncode == 0, result.stderr
        assert result.stdout == "== .venv is up to date (Python 3.12, cpu torch)\n"


@pytest.mark.parametrize("change", ["constraints.txt", "setup.py", "extras", "python", "torch"])
def test_setup_starts_again_when_something_changed(checkout, change):
    _pretended_venv(checkout, "3.12")
    _stamp(checkout, version="3.11" if change == "python" else "3.12")
    env = {"extras": {"EXTRAS": "dev,hf"}, "torch": {"FAIRTALE_TORCH": "cuda"}}.get(change, {})
    if (checkout / change).is_file():
        with open(checkout / change, "a", encoding="utf-8") as file:
            file.write("# changed\n")
    # The pretended Python can do nothing, so it stops where the environment is to be made anew.
    result = _setup(checkout, PYTHON=".venv/bin/python", **env)
    assert result.returncode == 1
    assert result.stdout.endswith("== making .venv with Python 3.12 (.venv/bin/python)\n")
