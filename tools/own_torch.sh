#!/usr/bin/env bash
# Make an environment that uses the torch, numpy and other packages that are installed on this machine,
# whatever their versions, and takes what is missing from a folder of wheels. `make gpu-check OWN_TORCH=1`
# calls this; the page that it writes names the versions used. The machine's packages stay as they are.
#
#   PYTHON=python3             the Python that has torch
#   VENV=.venv-own-torch       folder of the environment
#   WHEELHOUSE=wheelhouse      folder of wheels (make wheelhouse TORCH=none); it may hold only those
#                              that this machine lacks
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=tools/python_env.sh
. "$ROOT/tools/python_env.sh"
cd "$ROOT"

PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv-own-torch}
WHEELHOUSE=${WHEELHOUSE:-wheelhouse}

version=$(python_version "$PYTHON") || die "PYTHON=$PYTHON does not run; give the Python that has torch"
is_supported "$version" || die "PYTHON=$PYTHON is Python $version; fairtale needs 3.11 or 3.12"
"$PYTHON" -c 'import numpy, torch' 2>/dev/null ||
    die "PYTHON=$PYTHON has no torch or no numpy that works; leave OWN_TORCH out to install the tested" \
        "ones, or give another PYTHON"

if [ ! -x "$VENV/bin/python" ]; then
    "$PYTHON" -m venv --without-pip "$VENV"
fi
# Packages of the environment come first, then the machine's. --system-site-packages would not do: in an
# environment made from another environment, it shows those of the Python below both.
site=$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$PYTHON" - >"$site/own_torch.pth" <<'PY'
import sys
print(*(p for p in sys.path if p.endswith(("site-packages", "dist-packages"))), sep="\n")
PY

py=$VENV/bin/python
"$py" -m pip --version >/dev/null 2>&1 || "$py" -m ensurepip >/dev/null ||
    die "$PYTHON has no pip; install it (on Debian and Ubuntu: apt-get install python3-pip python3-venv)"

# Packages that setup.py asks for: in any version if they are here, else in that of constraints.txt.
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"$py" - "$tmp" <<'PY'
import importlib.metadata, pathlib, re, runpy, sys, types

asked = {}
stub = types.ModuleType("setuptools")
stub.setup, stub.find_packages = asked.update, lambda **_: []
sys.modules["setuptools"] = stub
runpy.run_path("setup.py")

def name(requirement):
    return re.match(r"[\w.-]+", requirement)[0]

def version(requirement):
    try:
        return importlib.metadata.version(name(requirement))
    except importlib.metadata.PackageNotFoundError:
        return None

folder = pathlib.Path(sys.argv[1])
wanted = [name(r) if version(r) else r for r in asked["install_requires"]]
(folder / "wanted.txt").write_text("\n".join(wanted) + "\n")
# What is here stays, also where a package asks for another version: pip then says which.
lines = pathlib.Path("constraints.txt").read_text().splitlines()
tested = [line for line in lines if re.match(r"[\w.-]+==", line)]
held = [f"{name(line)}=={version(line)}" if version(line) else line for line in tested]
(folder / "constraints.txt").write_text("\n".join(held) + "\n")
PY
pip_options=(--no-input --quiet --no-build-isolation -c "$tmp/constraints.txt")
if [ -d "$WHEELHOUSE" ]; then
    pip_options+=(--no-index --find-links "$WHEELHOUSE")
else
    say "there is no folder $WHEELHOUSE, so what this machine lacks comes from the package index"
fi
"$py" -m pip install "${pip_options[@]}" -r "$tmp/wanted.txt" ||
    die "not all packages that this machine lacks are in $WHEELHOUSE, or its own do not fit together;" \
        "see above. Collect them by: make wheelhouse PYTHON_VERSION=$version TORCH=none"
PYTHONPATH=$ROOT "$py" -c 'import fairseq, torch, user_dir' ||
    die "$VENV does not work with the packages of this machine; see above"
say "$VENV is ready: torch $("$py" -c 'import torch; print(torch.__version__)') of $PYTHON"
