# shellcheck shell=bash
# Functions for setup_env.sh and wheelhouse.sh: find a Python, choose a torch build. Set ROOT and
# source this file. It also runs in bash 3.2, the version of macOS.

CPU_INDEX=https://download.pytorch.org/whl/cpu

die() {
    echo "error: $*" >&2
    exit 2
}

say() {
    echo "== $*"
}

# Print the version of a package in constraints.txt.  pinned NAME
pinned() {
    sed -n "s/^$1==\([^ ]*\).*/\1/p" "$ROOT/constraints.txt"
}

# Print the version of a Python, such as 3.12; fail if it does not run. (The pyenv shim of an inactive
# version is found in PATH but does not run.)  python_version PYTHON
python_version() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

is_supported() {
    [ "$1" = 3.11 ] || [ "$1" = 3.12 ]
}

# Print the first Python of the given version, or of any supported version, that runs.
# find_python [3.11|3.12]
find_python() {
    local wanted=${1:-} candidate version
    # 3.12 comes first, because fairseq-fixed has a wheel for it and must be compiled for 3.11.
    for candidate in python3.12 python3.11 python3 python \
        "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[12].*/bin/python; do
        version=$(python_version "$candidate") || continue
        is_supported "$version" || continue
        if [ -z "$wanted" ] || [ "$version" = "$wanted" ]; then
            echo "$candidate"
            return 0
        fi
    done
    return 1
}

has_gpu() {
    command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q '^GPU '
}

# Print cpu or cuda: the value of a variable, or else what this machine has.  torch_flavour VARIABLE
torch_flavour() {
    local value=${!1:-auto}
    case "$value" in
        cpu | cuda) echo "$value" ;;
        auto) if has_gpu; then echo cuda; else echo cpu; fi ;;
        *) die "$1=$value is not a torch build; use cpu, cuda or auto" ;;
    esac
}

# Print what pip would install, one "name version" a line; fail if pip finds no solution. Only metadata
# is downloaded.  resolve PYTHON PIP_ARGUMENT...
resolve() {
    local python=$1 report status=0
    shift
    report=$(mktemp)
    "$python" -m pip install --quiet --dry-run --ignore-installed --no-input \
        --retries 1 --timeout 30 --report "$report" "$@" >/dev/null 2>&1 || status=1
    if [ "$status" = 0 ]; then
        "$python" -c '
import json, sys
for item in json.load(open(sys.argv[1], encoding="utf-8"))["install"]:
    print(item["metadata"]["name"].lower(), item["metadata"]["version"])' "$report" || status=1
    fi
    rm -f "$report"
    return "$status"
}

# Print the pip arguments that install the given build of torch, one a line, or exit with an error if
# there are none. VARIABLE is the variable with which the user chooses the build.
# torch_args PYTHON cpu|cuda VARIABLE PIP_ARGUMENT...
# On Linux, PyPI's torch is the CUDA build, which has several GB with its libraries, and pip would
# install it without a question. For cpu, each index is therefore first asked what it would install.
torch_args() {
    local python=$1 flavour=$2 variable=$3 version names index args
    shift 3
    version=$(pinned torch)
    [ -n "$version" ] || die "constraints.txt has no torch; restore the line torch==VERSION"
    if [ "$flavour" = cuda ]; then
        # '===' excludes a CPU build with a local version (2.13.0+cpu), which '==' would prefer.
        if [ -n "${TORCH_INDEX_URL:-}" ]; then
            printf '%s\n' "torch==$version" --extra-index-url "$TORCH_INDEX_URL"
        else
            echo "torch===$version"
        fi
        return 0
    fi
    for index in default "${TORCH_INDEX_URL:-$CPU_INDEX}"; do
        # If the user gives an index, try only this index.
        [ "$index" = default ] && [ -n "${TORCH_INDEX_URL:-}" ] && continue
        args=("torch==$version")
        [ "$index" = default ] || args+=(--extra-index-url "$index")
        if names=$(resolve "$python" "${args[@]}" "$@") &&
            ! grep -qE '^(nvidia|cuda)-' <<<"$names"; then
            printf '%s\n' "${args[@]}"
            return 0
        fi
    done
    die "no CPU build of torch $version for Python ${TARGET_VERSION:-$(python_version "$python")}" \
        "found: the default index offers only the CUDA build (several GB) or does not answer, and" \
        "$index has none or does not answer. Set TORCH_INDEX_URL to an index with CPU wheels, use" \
        "the other Python version (3.11 or 3.12), or accept the CUDA build with $variable=cuda"
}
