#!/usr/bin/env bash
# Make the virtual environment that all other commands use. A further run does nothing while the
# packaging files and the settings below are unchanged; after an interruption it resumes. A setting that
# is not given keeps its value of the last run.
#
#   PYTHON=python3.12          Python to use (default: the first of 3.12, 3.11 that is found)
#   VENV=.venv                 folder of the environment
#   EXTRAS=dev,plots,hf        extras of setup.py to install
#   FAIRTALE_TORCH=cpu|cuda    build of torch (default: cuda if nvidia-smi lists a GPU)
#   TORCH_INDEX_URL=URL        another package index for torch
#   WHEELHOUSE=DIR             install from this folder of wheels, without network
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=tools/python_env.sh
. "$ROOT/tools/python_env.sh"
cd "$ROOT"

VENV=${VENV:-.venv}
STAMP=$VENV/.fairtale-setup # written at the end of a complete run

last() { # print a setting of the last complete run
    sed -n "s/^$1 //p" "$STAMP" 2>/dev/null || true
}

if [ -z "${WHEELHOUSE+set}" ]; then
    WHEELHOUSE=$(last wheelhouse)
fi
if [ -n "$WHEELHOUSE" ]; then
    [ -f "$WHEELHOUSE/requirements.txt" ] ||
        die "WHEELHOUSE=$WHEELHOUSE has no requirements.txt, so it is not a complete wheelhouse;" \
            "make one with 'make wheelhouse', or give WHEELHOUSE= to install from the network"
    WHEELHOUSE=$(cd "$WHEELHOUSE" && pwd)
fi
if [ -z "${EXTRAS+set}" ]; then
    # By default, a wheelhouse holds only the packages of the core.
    if [ -f "$STAMP" ]; then EXTRAS=$(last extras); elif [ -n "$WHEELHOUSE" ]; then EXTRAS=; else
        EXTRAS=dev,plots,hf
    fi
fi

# The fingerprint contains the folder, because a virtual environment cannot be moved.
fingerprint() {
    echo "python $1"
    echo "extras $EXTRAS"
    echo "wheelhouse $WHEELHOUSE"
    echo "root $ROOT"
    cat setup.py constraints.txt tools/setup_env.sh tools/python_env.sh | cksum
}

# --- the interpreter ---------------------------------------------------------------------------

venv_version=
if [ -e "$VENV/bin/python" ]; then
    # If its Python has been removed, the version is empty and the environment is made again.
    venv_version=$(python_version "$VENV/bin/python") || venv_version=
fi
wanted_version=
if [ -n "${PYTHON:-}" ]; then
    wanted_version=$(python_version "$PYTHON") ||
        die "PYTHON=$PYTHON does not run; give a Python 3.11 or 3.12"
    is_supported "$wanted_version" ||
        die "PYTHON=$PYTHON is Python $wanted_version; fairtale needs 3.11 or 3.12"
fi
if [ -n "$venv_version" ]; then
    is_supported "$venv_version" ||
        die "$VENV was made with Python $venv_version; fairtale needs 3.11 or 3.12." \
            "Remove it (make clean-venv) and run make setup again"
    [ "${wanted_version:-$venv_version}" = "$venv_version" ] ||
        die "$VENV was made with Python $venv_version, but PYTHON=$PYTHON is Python" \
            "$wanted_version. Remove it (make clean-venv), or keep both: VENV=.venv$wanted_version"
    built=$(last torch)
    if [ -f "$STAMP" ] && [ "$(sed '$d' "$STAMP")" = "$(fingerprint "$venv_version")" ]; then
        case "${FAIRTALE_TORCH:-auto}" in
            auto | "$built")
                say "$VENV is up to date (Python $venv_version, $built torch)"
                exit 0
                ;;
        esac
    fi
fi

flavour=$(torch_flavour FAIRTALE_TORCH)

if [ -z "$venv_version" ] || ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
    if [ -z "${PYTHON:-}" ]; then
        PYTHON=$(find_python "$venv_version") ||
            die "no Python 3.11 or 3.12 found; install one, or give its path:" \
                "make setup PYTHON=/path/to/python3.12"
    fi
    venv_version=$(python_version "$PYTHON")
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
        die "$PYTHON cannot make virtual environments; on Debian and Ubuntu:" \
            "apt-get install python$venv_version-venv"
    say "making $VENV with Python $venv_version ($PYTHON)"
    "$PYTHON" -m venv "$VENV"
fi
rm -f "$STAMP"
# Remove what pip leaves behind if it is killed while it replaces a package.
rm -rf "$VENV"/lib/python*/site-packages/~*

# --- the packages ------------------------------------------------------------------------------

py=$VENV/bin/python
pip_options=(--no-input -c constraints.txt)
# Show pip's progress bars on a terminal, and only errors in a log.
[ -t 1 ] || pip_options+=(--quiet)
[ -z "$WHEELHOUSE" ] || pip_options+=(--no-index --find-links "$WHEELHOUSE")

pip_install() {
    "$py" -m pip install "${pip_options[@]}" "$@"
}

installed() {
    "$py" -c 'import importlib.metadata as m, sys; print(m.version(sys.argv[1]))' "$1" 2>/dev/null ||
        true
}

# Print the build of the installed torch from its metadata: cpu, or cuda (which includes ROCm).
installed_flavour() {
    "$py" - <<'PY'
import importlib.metadata as metadata

libraries = ("nvidia-", "cuda-", "pytorch-triton-rocm", "triton-rocm")
gpu = any(name.startswith(libraries) for name in metadata.requires("torch") or ())
print("cuda" if gpu or "+rocm" in metadata.version("torch") else "cpu")
PY
}

if [ -n "$WHEELHOUSE" ]; then
    say "1/4 setuptools and wheel, from $WHEELHOUSE"
    pip_install setuptools wheel
    say "2/4 torch $(pinned torch), from $WHEELHOUSE"
    pip_install "torch==$(pinned torch)"
else
    say "1/4 pip, setuptools and wheel"
    pip_install --upgrade pip setuptools wheel
    have=$(installed torch)
    if [ "${have%%+*}" = "$(pinned torch)" ] &&
        case "${FAIRTALE_TORCH:-auto}" in auto | "$(installed_flavour)") ;; *) false ;; esac; then
        say "2/4 torch $have, the $(installed_flavour) build, is already installed"
    else
        torch_choice=$(torch_args "$py" "$flavour" FAIRTALE_TORCH -c constraints.txt)
        say "2/4 torch $(pinned torch), the $flavour build"
        if [ -n "$have" ]; then
            # Both builds have the same version number, so pip would keep the installed one. Remove
            # it together with CUDA's libraries, which have several GB.
            "$py" -m pip list --format=freeze | sed -nE 's/==.*//; /^(torch|triton|nvidia-.*|cuda-.*)$/p' |
                xargs "$py" -m pip uninstall --quiet --yes
        fi
        # shellcheck disable=SC2086 # one argument a line, without spaces
        pip_install $torch_choice
    fi
fi
have=$(installed_flavour)
if [ "$have" = cpu ] && [ "${FAIRTALE_TORCH:-auto}" = cuda ]; then
    die "FAIRTALE_TORCH=cuda, but the torch found for this machine is a CPU build; give an index with" \
        "a CUDA build by TORCH_INDEX_URL, or a WHEELHOUSE made with TORCH=cuda"
elif [ "$have" = cpu ] && [ "$flavour" = cuda ]; then
    say "note: this machine has a GPU, but the torch found is a CPU build; give an index with a CUDA" \
        "build by TORCH_INDEX_URL"
fi
flavour=$have

# fairseq-fixed is built with the installed torch, because an isolated build would download the newest
# torch with all its CUDA libraries. A wheel exists only for Python 3.12 on x86-64 Linux.
fairseq=fairseq-fixed==$(pinned fairseq-fixed)
say "3/4 $fairseq"
if [ "$(installed fairseq-fixed)" != "${fairseq#*==}" ]; then
    pip_install "numpy==$(pinned numpy)" "Cython==$(pinned Cython)"
    if [ -z "$WHEELHOUSE" ] &&
        ! resolve "$py" --no-deps --only-binary fairseq-fixed "$fairseq" >/dev/null; then
        say "there is no wheel for this Python: compiling it, about 4 minutes on two cores"
        "$py" - <<'PY' ||
import os, shutil, sys, sysconfig
compiler = any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++")))
header = os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h"))
sys.exit(not (compiler and header))
PY
            die "fairseq-fixed must be compiled, but a C++ compiler or Python.h is missing; on" \
                "Debian and Ubuntu: apt-get install g++ python$venv_version-dev; or use" \
                "Python 3.12 on x86-64 Linux, which needs no compiler"
    fi
    # Compile fast (-O1 -g0), because most of the extensions are never loaded here. Unset CUDA_HOME,
    # because it would enable CUDA sources that the package does not contain.
    (
        unset CUDA_HOME
        export CFLAGS="-O1 -g0"
        pip_install --no-build-isolation "$fairseq"
    )
fi

say "4/4 fairtale${EXTRAS:+ with $EXTRAS}"
# setuptools warns at every editable install, which does not concern users.
PYTHONWARNINGS=ignore pip_install --no-build-isolation -e ".${EXTRAS:+[$EXTRAS]}"

"$py" -m pip check
gpu=$("$py" -c 'import fairseq, torch; print(torch.cuda.is_available())') ||
    die "$VENV does not work, maybe after an interruption; make it again: make clean-venv setup"
if [ "$gpu" = False ] && has_gpu; then
    say "note: torch sees no GPU, but nvidia-smi lists one. The usual cause is a driver older than the" \
        "CUDA version of the build; in this case choose an older build: make clean-venv setup" \
        "TORCH_INDEX_URL=https://download.pytorch.org/whl/cu126"
fi
{
    fingerprint "$venv_version"
    echo "torch $flavour"
} >"$STAMP"
say "$VENV is ready (Python $venv_version, $flavour torch)"
