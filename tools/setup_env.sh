#!/usr/bin/env bash
# Makes the virtual environment that every other command uses. Running it again is a no-op while
# the packaging files and the choices below are unchanged; after an interruption, running it again
# goes on where pip stopped. Choices not made are those of the last run.
#
#   PYTHON=python3.12          which Python (default: the first of 3.12, 3.11 that is found)
#   VENV=.venv                 where the environment goes
#   EXTRAS=dev,plots,hf        which extras of setup.py are installed
#   FAIRTALE_TORCH=cpu|cuda    which torch build (default: cuda where nvidia-smi lists a GPU)
#   TORCH_INDEX_URL=URL        another index to look for torch in
#   WHEELHOUSE=DIR             install from this folder of wheels, without any network
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=tools/python_env.sh
. "$ROOT/tools/python_env.sh"
cd "$ROOT"

VENV=${VENV:-.venv}
STAMP=$VENV/.fairtale-setup # written when everything is in place

last() { # what the last complete run chose
    sed -n "s/^$1 //p" "$STAMP" 2>/dev/null || true
}

if [ -z "${WHEELHOUSE+set}" ]; then
    WHEELHOUSE=$(last wheelhouse)
fi
if [ -n "$WHEELHOUSE" ]; then
    [ -f "$WHEELHOUSE/requirements.txt" ] ||
        die "WHEELHOUSE=$WHEELHOUSE has no requirements.txt, so it is no finished wheelhouse;" \
            "make one with 'make wheelhouse', or give WHEELHOUSE= to install from the network"
    WHEELHOUSE=$(cd "$WHEELHOUSE" && pwd)
fi
if [ -z "${EXTRAS+set}" ]; then
    # A wheelhouse holds what the core needs; nothing more is asked of it by default.
    if [ -f "$STAMP" ]; then EXTRAS=$(last extras); elif [ -n "$WHEELHOUSE" ]; then EXTRAS=; else
        EXTRAS=dev,plots,hf
    fi
fi

# The folder is part of it, because a virtual environment stops working when it is moved.
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
    # Nothing for one whose Python has been removed: the environment is then made again in place.
    venv_version=$(python_version "$VENV/bin/python") || venv_version=
fi
wanted_version=
if [ -n "${PYTHON:-}" ]; then
    wanted_version=$(python_version "$PYTHON") ||
        die "PYTHON=$PYTHON does not run; name a Python 3.11 or 3.12"
    is_supported "$wanted_version" ||
        die "PYTHON=$PYTHON is Python $wanted_version; fairtale needs 3.11 or 3.12"
fi
if [ -n "$venv_version" ]; then
    is_supported "$venv_version" ||
        die "$VENV was made with Python $venv_version; fairtale needs 3.11 or 3.12." \
            "Remove it (make clean-venv) and run make setup again"
    [ "${wanted_version:-$venv_version}" = "$venv_version" ] ||
        die "$VENV was made with Python $venv_version, and PYTHON=$PYTHON is Python" \
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
            die "no Python 3.11 or 3.12 found; install one, or name it:" \
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
# What pip leaves behind when it is killed while it replaces a package.
rm -rf "$VENV"/lib/python*/site-packages/~*

# --- the packages ------------------------------------------------------------------------------

py=$VENV/bin/python
pip_options=(--no-input -c constraints.txt)
# On a terminal pip shows its progress bars, in a log only what goes wrong.
[ -t 1 ] || pip_options+=(--quiet)
[ -z "$WHEELHOUSE" ] || pip_options+=(--no-index --find-links "$WHEELHOUSE")

pip_install() {
    "$py" -m pip install "${pip_options[@]}" "$@"
}

installed() {
    "$py" -c 'import importlib.metadata as m, sys; print(m.version(sys.argv[1]))' "$1" 2>/dev/null ||
        true
}

# cpu or cuda (which includes ROCm), read from the package's metadata.
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
        say "2/4 torch $have is there already, the $(installed_flavour) build"
    else
        torch_choice=$(torch_args "$py" "$flavour" FAIRTALE_TORCH -c constraints.txt)
        say "2/4 torch $(pinned torch), the $flavour build"
        if [ -n "$have" ]; then
            # Both builds carry the same version number, so pip would keep the one that is there.
            # CUDA's libraries go with their torch: several GB.
            "$py" -m pip list --format=freeze | sed -nE 's/==.*//; /^(torch|triton|nvidia-.*|cuda-.*)$/p' |
                xargs "$py" -m pip uninstall --quiet --yes
        fi
        # shellcheck disable=SC2086 # one argument a line, none of them with spaces
        pip_install $torch_choice
    fi
fi
have=$(installed_flavour)
if [ "$have" = cpu ] && [ "${FAIRTALE_TORCH:-auto}" = cuda ]; then
    die "FAIRTALE_TORCH=cuda, and the torch found for this machine is a CPU build; name an index" \
        "that has a CUDA build with TORCH_INDEX_URL, or a WHEELHOUSE made with TORCH=cuda"
elif [ "$have" = cpu ] && [ "$flavour" = cuda ]; then
    say "note: this machine has a GPU, and the torch found is a CPU build; name an index that has" \
        "a CUDA build with TORCH_INDEX_URL"
fi
flavour=$have

# fairseq-fixed is built against the torch that is there already: an isolated build would fetch
# the newest torch with all its CUDA libraries. Only 3.12 on x86-64 Linux has a ready wheel.
fairseq=fairseq-fixed==$(pinned fairseq-fixed)
say "3/4 $fairseq"
if [ "$(installed fairseq-fixed)" != "${fairseq#*==}" ]; then
    pip_install "numpy==$(pinned numpy)" "Cython==$(pinned Cython)"
    if [ -z "$WHEELHOUSE" ] &&
        ! resolve "$py" --no-deps --only-binary fairseq-fixed "$fairseq" >/dev/null; then
        say "no ready wheel for this Python: compiling it once, about 4 minutes on two cores"
        "$py" - <<'PY' ||
import os, shutil, sys, sysconfig
compiler = any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++")))
header = os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h"))
sys.exit(not (compiler and header))
PY
            die "fairseq-fixed must be compiled, and a C++ compiler or Python.h is missing; on" \
                "Debian and Ubuntu: apt-get install g++ python$venv_version-dev; or use" \
                "Python 3.12 on x86-64 Linux, which needs no compiler"
    fi
    # -O1 -g0: most of the time goes into extensions that work on text never loads. CUDA_HOME
    # would ask for CUDA sources that the package does not contain.
    (
        unset CUDA_HOME
        export CFLAGS="-O1 -g0"
        pip_install --no-build-isolation "$fairseq"
    )
fi

say "4/4 fairtale${EXTRAS:+ with $EXTRAS}"
# setuptools warns about every editable install; nothing in it is for our users.
PYTHONWARNINGS=ignore pip_install --no-build-isolation -e ".${EXTRAS:+[$EXTRAS]}"

"$py" -m pip check
gpu=$("$py" -c 'import fairseq, torch; print(torch.cuda.is_available())') ||
    die "$VENV does not work, perhaps after an interruption; make it anew: make clean-venv setup"
if [ "$gpu" = False ] && has_gpu; then
    say "note: torch sees no GPU, though nvidia-smi lists one. A driver older than the build's CUDA" \
        "is the usual cause; then name an older build: make clean-venv setup" \
        "TORCH_INDEX_URL=https://download.pytorch.org/whl/cu126"
fi
{
    fingerprint "$venv_version"
    echo "torch $flavour"
} >"$STAMP"
say "$VENV is ready (Python $venv_version, $flavour torch)"
