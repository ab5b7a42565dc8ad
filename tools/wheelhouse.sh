#!/usr/bin/env bash
# Collect all wheels of fairtale's core, to install it on a machine without network: x86-64 Linux with
# glibc 2.28 or newer.  wheelhouse.sh 3.11|3.12
#
# For Python 3.12, any Python 3.11 or 3.12 can collect the wheels, because all of them are downloaded or
# are pure Python. For 3.11, fairseq-fixed has no wheel, so Python 3.11 and a C++ compiler are needed.
#
#   PYTHON=...                 Python that collects the wheels (for 3.11: a Python 3.11)
#   TORCH=cpu|cuda             build of torch (default: cuda if nvidia-smi lists a GPU, else cpu, or
#                              cuda with a note if there is no CPU build); none leaves torch and
#                              CUDA's libraries out, for a machine that has its own (own_torch.sh)
#   TORCH_INDEX_URL=URL        another package index for torch
#   EXTRAS=plots,hf            extras to include (default: none)
#   WHEELHOUSE=DIR             folder for the wheels (default: wheelhouse)
#
# After an interruption, a further run resumes. requirements.txt is written last; a folder without it is
# not complete.
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
    die "a wheelhouse can only be made on x86-64 Linux; this is $(uname -s) $(uname -m)"

# --- which Python collects ---------------------------------------------------------------------

if [ -n "${PYTHON:-}" ]; then
    version=$(python_version "$PYTHON") || die "PYTHON=$PYTHON does not run"
    is_supported "$version" || die "PYTHON=$PYTHON is Python $version; give a Python 3.11 or 3.12"
else
    # Prefer the target's own version.
    PYTHON=$(find_python "$TARGET_VERSION" || find_python) ||
        die "no Python 3.11 or 3.12 found; install one, or give its path with PYTHON="
    version=$(python_version "$PYTHON")
fi
if [ "$TARGET_VERSION" = 3.11 ] && [ "$version" != 3.11 ]; then
    die "for Python 3.11, fairseq-fixed must be compiled by a Python 3.11, but the Python found is" \
        "$version ($PYTHON). Give a Python 3.11 with PYTHON=, or use PYTHON_VERSION=3.12, which" \
        "needs no compiler"
fi
if [ "${TORCH:-}" = none ]; then
    [ "$TARGET_VERSION" = 3.12 ] ||
        die "TORCH=none with Python $TARGET_VERSION: fairseq-fixed is compiled for it with torch; use" \
            "TORCH=cpu and leave the wheel of torch behind"
    flavour=none
else
    flavour=$(torch_flavour TORCH)
fi

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"$PYTHON" -m venv "$tmp/venv"
py=$tmp/venv/bin/python
quiet=(--no-input)
[ -t 1 ] || quiet+=(--quiet)
"$py" -m pip install "${quiet[@]}" -c constraints.txt --upgrade pip setuptools wheel

# The platform tags that the target machine supports; the glibc of this machine may be newer. A wheel
# compiled here has the tag linux_x86_64.
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
if [ "$flavour" = none ]; then
    torch_choice=
elif ! torch_choice=$(torch_args "$py" "$flavour" TORCH "${where[@]}" 2>"$tmp/why"); then
    if [ "${TORCH:-auto}" != auto ]; then
        cat "$tmp/why" >&2
        exit 2
    fi
    sed 's/^error:/note:/' "$tmp/why" >&2
    # `make setup` stops in this case. Here the CUDA build is collected, because the wheels are for
    # another machine and the CUDA build also runs without a GPU.
    say "collecting the CUDA build instead (several GB); with TORCH=cpu this is an error"
    flavour=cuda
    torch_choice=$(torch_args "$py" "$flavour" TORCH "${where[@]}")
fi

settings="python $TARGET_VERSION, torch $flavour ${TORCH_INDEX_URL:-}, extras '$EXTRAS', \
versions $(cat setup.py constraints.txt | cksum)"
if [ "$(cat "$HOUSE/.settings" 2>/dev/null)" != "$settings" ]; then
    # Remove wheels of other settings; of both builds of torch, pip would prefer the CPU build.
    rm -f "$HOUSE"/*.whl
fi
rm -f "$HOUSE/requirements.txt"
echo "$settings" >"$HOUSE/.settings"

# --- the wheels --------------------------------------------------------------------------------

if [ "$flavour" = none ]; then
    say "1/4 torch is left out"
else
    say "1/4 torch $(pinned torch) for Python $TARGET_VERSION, the $flavour build"
    # shellcheck disable=SC2086 # one argument a line, without spaces
    download $torch_choice
fi

say "2/4 packages without a published wheel"
# A pure Python package; the wheel that is built here works with every Python.
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

say "3/4 fairtale${EXTRAS:+ with $EXTRAS} and its dependencies"
# Build from a copy, because setuptools would leave its build folder here and later use old files in it.
mkdir "$tmp/source"
cp -R setup.py pyproject.toml LICENSE fairtale user_dir "$tmp/source"
rm -f "$HOUSE"/fairtale-*.whl
"$py" -m pip wheel "${quiet[@]}" --no-deps --no-build-isolation --wheel-dir "$tmp/built" \
    "$tmp/source"
# Use the path of the wheel, because a package index might have another package of the same name.
fairtale=$(find "$tmp/built" -name 'fairtale-*.whl')
whole=$fairtale${EXTRAS:+[$EXTRAS]}
check=(--ignore-installed)
if [ "$flavour" = none ]; then
    # Only metadata of torch and CUDA's libraries is read; the others are downloaded by name.
    resolve "$py" --find-links "$HOUSE" "${where[@]}" "$whole" setuptools wheel >"$tmp/all" ||
        die "pip finds no versions that fit together; does the package index answer?"
    grep -vE '^(torch|triton|fairtale|nvidia-[^ ]*|cuda-[^ ]*) ' "$tmp/all" | sed 's/ /==/' >"$tmp/rest"
    download --no-deps -r "$tmp/rest"
    cp "$fairtale" "$HOUSE"
    check+=(--no-deps)
else
    # Require exactly the torch in the folder, so that no other build of it is downloaded.
    torch_version=$(find "$HOUSE" -name 'torch-*.whl' -exec basename {} \; | cut -d- -f2)
    download "$whole" "torch===$torch_version" setuptools wheel
fi

say "4/4 checking that the folder is complete"
requirements=$tmp/requirements.txt
"$py" - "$HOUSE" >"$requirements" <<'PY'
import pathlib, sys
for wheel in sorted(pathlib.Path(sys.argv[1]).glob("*.whl"), key=lambda path: path.name.lower()):
    name, version = wheel.name.split("-")[:2]
    print(f"{name.replace('_', '-')}=={version}")
PY
env PIP_CONFIG_FILE=/dev/null PIP_FIND_LINKS= PIP_NO_INDEX=1 \
    "$py" -m pip install --quiet --dry-run "${check[@]}" --find-links "$HOUSE" \
    "${target[@]}" --target "$tmp/target" -r "$requirements" ||
    die "the wheels in $HOUSE do not install together; remove the folder and run this again"
mv "$requirements" "$HOUSE/requirements.txt"

name=$(basename "$HOUSE")
say "$HOUSE is complete: $(wc -l <"$HOUSE/requirements.txt") wheels, $(du -sh "$HOUSE" | cut -f1)."
if [ "$flavour" = none ]; then
    say "On a machine with its own torch, in a checkout of fairtale with this folder in it:" \
        "make gpu-check OWN_TORCH=1 WHEELHOUSE=$name"
    exit 0
fi
cat <<EOT
On the other machine, beside a copy of this folder:
  python$TARGET_VERSION -m venv .venv && .venv/bin/pip install --no-index --find-links $name -r $name/requirements.txt
or, in a checkout of fairtale with this folder in it:
  make setup PYTHON=python$TARGET_VERSION WHEELHOUSE=$name
EOT
