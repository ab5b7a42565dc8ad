#!/usr/bin/env bash
# Collects every wheel that fairtale's core needs, so that it installs on a machine without
# network: x86-64 Linux with glibc 2.28 or newer.  wheelhouse.sh 3.11|3.12
#
# For 3.12 all wheels are downloaded or pure Python, so any Python 3.11 or 3.12 can collect them.
# For 3.11 fairseq-fixed has no ready wheel: that Python must be here, with a C++ compiler.
#
#   PYTHON=...                 which Python collects (3.11: must be that version)
#   TORCH=cpu|cuda             which torch build (default: cuda where nvidia-smi lists a GPU;
#                              otherwise cpu, or cuda with a note where no CPU build is found)
#   TORCH_INDEX_URL=URL        another index to look for torch in
#   EXTRAS=plots,hf            extras to include (default: none)
#   WHEELHOUSE=DIR             where the wheels go (default: wheelhouse)
#
# An interrupted run goes on where it stopped. requirements.txt is written last: a folder without
# it is not complete.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=tools/python_env.sh
. "$ROOT/tools/python_env.sh"

TARGET_VERSION=${1:-3.12}
EXTRAS=${EXTRAS:-}
mkdir -p "${WHEELHOUSE:-wheelhouse}"
HOUSE=$(cd "${WHEELHOUSE:-wheelhouse}" && pwd)
cd "$ROOT"

is_supported "$TARGET_VERSION" || die "PYTHON_VERSION=$TARGET_VERSION; fairtale needs 3.11 or 3.12"
[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] ||
    die "a wheelhouse is made on x86-64 Linux, for x86-64 Linux; this is $(uname -s) $(uname -m)"

# --- which Python collects ---------------------------------------------------------------------

if [ -n "${PYTHON:-}" ]; then
    version=$(python_version "$PYTHON") || die "PYTHON=$PYTHON does not run"
    is_supported "$version" || die "PYTHON=$PYTHON is Python $version; name a Python 3.11 or 3.12"
else
    # The target's own version where it is found: it can then also prove that everything is there.
    PYTHON=$(find_python "$TARGET_VERSION" || find_python) ||
        die "no Python 3.11 or 3.12 found; install one, or name it with PYTHON="
    version=$(python_version "$PYTHON")
fi
if [ "$TARGET_VERSION" = 3.11 ] && [ "$version" != 3.11 ]; then
    die "for Python 3.11 fairseq-fixed must be compiled by a Python 3.11, and the one found is" \
        "$version ($PYTHON). Name a Python 3.11 with PYTHON=, or use PYTHON_VERSION=3.12, which" \
        "has ready wheels"
fi
flavour=$(torch_flavour TORCH)

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"$PYTHON" -m venv "$tmp/venv"
py=$tmp/venv/bin/python
quiet=(--no-input)
[ -t 1 ] || quiet+=(--quiet)
"$py" -m pip install "${quiet[@]}" -c constraints.txt --upgrade pip setuptools wheel

# The platforms of the other machine, not of this one, whose glibc may be newer. linux_x86_64 is
# what a wheel compiled here calls itself.
target=(--only-binary :all: --python-version "$TARGET_VERSION" --implementation cp
    --abi "cp${TARGET_VERSION/./}" --abi abi3 --abi none)
for glibc in $(seq 28 -1 5); do
    target+=(--platform "manylinux_2_${glibc}_x86_64")
done
for name in manylinux2014 manylinux2010 manylinux1 linux; do
    target+=(--platform "${name}_x86_64")
done

download() {
    "$py" -m pip download "${quiet[@]}" --dest "$HOUSE" --find-links "$HOUSE" \
        "${target[@]}" -c constraints.txt "$@"
}

# --- which torch, and what is there already -----------------------------------------------------

where=(-c constraints.txt "${target[@]}" --target "$tmp/target")
if ! torch_choice=$(torch_args "$py" "$flavour" TORCH "${where[@]}" 2>"$tmp/why"); then
    if [ "${TORCH:-auto}" != auto ]; then
        cat "$tmp/why" >&2
        exit 2
    fi
    sed 's/^error:/note:/' "$tmp/why" >&2
    # Unlike `make setup`, which stops here: these wheels are for another machine, and the CUDA
    # build runs on one without a GPU too.
    say "so the CUDA build is collected, several GB; TORCH=cpu would stop here instead"
    flavour=cuda
    torch_choice=$(torch_args "$py" "$flavour" TORCH "${where[@]}")
fi

settings="python $TARGET_VERSION, torch $flavour ${TORCH_INDEX_URL:-}, extras '$EXTRAS', \
versions $(cat setup.py constraints.txt | cksum)"
if [ "$(cat "$HOUSE/.settings" 2>/dev/null)" != "$settings" ]; then
    # Wheels of another choice would be mixed in; pip would prefer torch's CPU build to CUDA's.
    rm -f "$HOUSE"/*.whl
fi
rm -f "$HOUSE/requirements.txt"
echo "$settings" >"$HOUSE/.settings"

# --- the wheels --------------------------------------------------------------------------------

say "1/4 torch $(pinned torch) for Python $TARGET_VERSION, the $flavour build"
# shellcheck disable=SC2086 # one argument a line, none of them with spaces
download $torch_choice

say "2/4 packages without a ready wheel"
# Pure Python, published as source only: built here, good for every Python.
"$py" -m pip wheel "${quiet[@]}" --no-deps --no-build-isolation --wheel-dir "$HOUSE" \
    "antlr4-python3-runtime==$(pinned antlr4-python3-runtime)"
fairseq=fairseq-fixed==$(pinned fairseq-fixed)
if [ "$TARGET_VERSION" = 3.11 ] && ! ls "$HOUSE"/fairseq_fixed-*.whl >/dev/null 2>&1; then
    say "compiling $fairseq, about 4 minutes on two cores"
    download "numpy==$(pinned numpy)" "Cython==$(pinned Cython)"
    "$py" -m pip install "${quiet[@]}" --no-index --find-links "$HOUSE" -c constraints.txt \
        torch numpy Cython
    (
        unset CUDA_HOME
        export CFLAGS="-O1 -g0" # see setup_env.sh
        "$py" -m pip wheel "${quiet[@]}" --no-deps --no-build-isolation --wheel-dir "$HOUSE" \
            "$fairseq"
    )
fi

say "3/4 fairtale${EXTRAS:+ with $EXTRAS} and everything that it needs"
# Built from a copy: setuptools would leave its build folder here and take old files from it.
mkdir "$tmp/source"
cp -R setup.py pyproject.toml LICENSE fairtale user_dir "$tmp/source"
rm -f "$HOUSE"/fairtale-*.whl
"$py" -m pip wheel "${quiet[@]}" --no-deps --no-build-isolation --wheel-dir "$tmp/built" \
    "$tmp/source"
# Given by its path: the name alone might be somebody else's package in the index.
fairtale=$(find "$tmp/built" -name 'fairtale-*.whl')
# The torch in the folder is named exactly, so that no second build of it comes along.
torch_version=$(find "$HOUSE" -name 'torch-*.whl' -exec basename {} \; | cut -d- -f2)
download "$fairtale${EXTRAS:+[$EXTRAS]}" "torch===$torch_version" setuptools wheel

say "4/4 checking that the folder is complete"
requirements=$tmp/requirements.txt
"$py" - "$HOUSE" >"$requirements" <<'PY'
import pathlib, sys
for wheel in sorted(pathlib.Path(sys.argv[1]).glob("*.whl"), key=lambda path: path.name.lower()):
    name, version = wheel.name.split("-")[:2]
    print(f"{name.replace('_', '-')}=={version}")
PY
env PIP_CONFIG_FILE=/dev/null PIP_FIND_LINKS= PIP_NO_INDEX=1 \
    "$py" -m pip install --quiet --dry-run --ignore-installed --find-links "$HOUSE" \
    "${target[@]}" --target "$tmp/target" -r "$requirements" ||
    die "the wheels in $HOUSE do not install together; remove the folder and run this again"
mv "$requirements" "$HOUSE/requirements.txt"

name=$(basename "$HOUSE")
cat <<EOT
== $HOUSE is complete: $(wc -l <"$HOUSE/requirements.txt") wheels, $(du -sh "$HOUSE" | cut -f1).
On the other machine, beside a copy of this folder:
  python$TARGET_VERSION -m venv .venv && .venv/bin/pip install --no-index --find-links $name -r $name/requirements.txt
or, in a checkout of fairtale with this folder in it:
  make setup PYTHON=python$TARGET_VERSION WHEELHOUSE=$name
EOT
