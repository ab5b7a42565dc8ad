# shellcheck shell=bash
# Shared by setup_env.sh and wheelhouse.sh: finding a Python, choosing a torch build.
# To be sourced with ROOT set. Written for bash 3.2 too, which is what macOS ships.

CPU_INDEX=https://download.pytorch.org/whl/cpu

die() {
    echo "error: $*" >&2
    exit 2
}

say() {
    echo "== $*"
}

# The exact version that constraints.txt gives to a package.  pinned NAME
pinned() {
    sed -n "s/^$1==\([^ ]*\).*/\1/p" "$ROOT/constraints.txt"
}

# "3.12" for a Python that runs; nothing and a failure for one that does not (a pyenv shim of a
# version that is not active is found in PATH but cannot run).
python_version() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

is_supported() {
    [ "$1" = 3.11 ] || [ "$1" = 3.12 ]
}

# Prints the first Python of the wanted version (or of any supported one) that runs.
# find_python [3.11|3.12]
find_python() {
    local wanted=${1:-} candidate version
    # 3.12 comes first: fairseq-fixed has a ready wheel for it and must be compiled for 3.11.
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

# cpu or cuda: what the variable asks for, or what this machine has.  torch_flavour VARIABLE
torch_flavour() {
    local value=${!1:-auto}
    case "$value" in
        cpu | cuda) echo "$value" ;;
        auto) if has_gpu; then echo cuda; else echo cpu; fi ;;
        *) die "$1=$value is not a torch build; use cpu, cuda or auto" ;;
    esac
}

# What pip would install, one "name version" a line; fails where pip finds no solution. Nothing is
# downloaded but metadata.  resolve PYTHON PIP_ARGUMENT...
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

# Prints the pip arguments that get the wanted build of torch, one a line, or says why there are
# none. VARIABLE is the one with which the user chooses the build.
# torch_args PYTHON cpu|cuda VARIABLE PIP_ARGUMENT...
# On Linux, PyPI's torch is the CUDA build (several GB with its libraries), so for cpu each source
# is asked beforehand what it would bring; pip itself would quietly take the large one.
torch_args() {
    local python=$1 flavour=$2 variable=$3 version names index args
    shift 3
    version=$(pinned torch)
    [ -n "$version" ] || die "constraints.txt names no torch; restore the line torch==VERSION"
    if [ "$flavour" = cuda ]; then
        # '===' passes over a local CPU build (2.13.0+cpu), which '==' would prefer.
        if [ -n "${TORCH_INDEX_URL:-}" ]; then
            printf '%s\n' "torch==$version" --extra-index-url "$TORCH_INDEX_URL"
        else
            echo "torch===$version"
        fi
        return 0
    fi
    for index in default "${TORCH_INDEX_URL:-$CPU_INDEX}"; do
        # An index that the user names comes alone, so that its build wins.
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
        "$index has none or does not answer. Set TORCH_INDEX_URL to an index with CPU wheels," \
        "or take the other Python (3.11 or 3.12), or the CUDA build on purpose: $variable=cuda"
}
