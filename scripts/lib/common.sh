# shellcheck shell=bash
# Shared by the experiments' scripts: paths, messages, checks, folders that appear complete or not
# at all. To be sourced. Written for bash 3.2 too, which is what macOS ships.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

die() {
    echo "error: $*" >&2
    exit 2
}

say() {
    echo "== $*" >&2
}

# The comment at the head of a script is its help.  usage SCRIPT
usage() {
    sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p;}' "$1"
}

# Fails where an option has no value behind it.  need_value "$@"
need_value() {
    [ $# -ge 2 ] || die "$1 needs a value; see --help"
}

# fairseq's commands come from the active environment, else from the one `make setup` made.
if ! command -v fairseq-train >/dev/null && [ -x "$ROOT/.venv/bin/fairseq-train" ]; then
    PATH="$ROOT/.venv/bin:$PATH"
fi
command -v fairseq-train >/dev/null || die "fairseq-train is not installed; run: make setup"
BIN=$(cd "$(dirname "$(command -v fairseq-train)")" && pwd)
# shellcheck disable=SC2034  # for the scripts that source this
USER_DIR=$ROOT/user_dir

# Threads that wait sleep instead of spinning: where other work shares the cores, a training step on
# two threads took a tenth of the time. On quiet cores it costs nothing measurable.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}

fairtale() {
    PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" "$BIN/python" -m fairtale "$@"
}

num_cpus() {
    nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 1
}

# Prints "GPUS PRECISION": how many CUDA devices torch sees and the option for the 16-bit type that
# the first of them computes with. "0" and nothing without a GPU.
find_gpus() {
    "$BIN/python" -c '
import torch
count = torch.cuda.device_count() if torch.cuda.is_available() else 0
print(count, ("--bf16" if torch.cuda.is_bf16_supported(False) else "--fp16") if count else "")'
}

# absolute PATH
absolute() {
    if [ -d "$1" ]; then (cd "$1" && pwd); else
        (cd "$(dirname "$1")" && echo "$(pwd)/$(basename "$1")")
    fi
}

# Names and sizes of a file or of all files in a folder, as one checksum.  fingerprint PATH
fingerprint() {
    local folder=$1 name=.
    [ -d "$1" ] || { folder=$(dirname "$1") && name=./$(basename "$1"); }
    (cd "$folder" && find -L "$name" -type f ! -name '.*' -exec wc -c {} \; | LC_ALL=C sort) |
        cksum | tr ' ' '-'
}

# --- folders that are made in one piece ----------------------------------------------------------

# Leaves the script if DIR was already made with the same settings, fails if with others.
# check_made DIR STAMP SETTINGS: STAMP is the file in DIR that holds the settings it was made with
check_made() {
    [ -e "$1" ] || return 0
    if [ ! -f "$1/$2" ]; then
        rmdir "$1" 2>/dev/null && return 0
        die "$1 is there, but this script did not make it; remove it or choose another folder"
    fi
    if [ "$(cat "$1/$2")" = "$3" ]; then
        say "$1 is ready (made before with the same settings)"
        exit 0
    fi
    echo "error: $1 was made with other settings; remove it or choose another folder:" >&2
    diff "$1/$2" - <<<"$3" | sed -n 's/^</  it has:    /p; s/^>/  asked for: /p' >&2 || true
    exit 2
}

# Makes the folder next to DIR in which its content is put together, as $PARTIAL; removes it when
# the script ends, and those that killed runs on this machine have left.  start_partial DIR
start_partial() {
    local left
    mkdir -p "$(dirname "$1")"
    for left in "$1.partial.$(hostname)."*; do
        if [ -d "$left" ] && ! kill -0 "${left##*.}" 2>/dev/null; then rm -rf "$left"; fi
    done
    PARTIAL="$1.partial.$(hostname).$$"
    mkdir "$PARTIAL"
    trap 'rm -rf "$PARTIAL"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

# Gives a finished folder its name; the stamp goes in last.  finish MADE DIR STAMP SETTINGS
finish() {
    printf '%s\n' "$4" >"$1/$3"
    mv "$1" "$2"
}

# --- download ------------------------------------------------------------------------------------

# Fetches URL to FILE; goes on where an interrupted download stopped. Checked by length and SHA-256
# where they are known (given, or told by Hugging Face), and by gzip.  download URL FILE [SHA256]
download() {
    local url=$1 file=$2 sha=${3:-} part=$2.part headers size status=0
    [ ! -f "$file" ] || return 0
    mkdir -p "$(dirname "$file")"
    command -v curl >/dev/null || die "curl is needed to fetch $url; or give --source PATH"
    headers=$(curl -sI --connect-timeout 30 "$url" | tr -d '\r' | tr '[:upper:]' '[:lower:]') || true
    size=$(sed -n 's/^x-linked-size: *\([0-9]*\)$/\1/p' <<<"$headers")
    [ -n "$sha" ] || sha=$(sed -n 's/^x-linked-etag: *"\([0-9a-f]\{64\}\)"$/\1/p' <<<"$headers")
    if [ -z "$size" ] || [ ! -f "$part" ] || [ "$(wc -c <"$part")" -ne "$size" ]; then
        say "fetching $url"
        curl -fL -C - --retry 5 --retry-delay 5 --connect-timeout 30 -o "$part" "$url" || status=$?
        if [ "$status" = 33 ] || [ "$status" = 36 ]; then # the server cannot go on from a byte
            rm -f "$part" && status=0
            curl -fL --retry 5 -o "$part" "$url" || status=$?
        fi
        # A refusal (22) may only mean that nothing was left to fetch.
        if [ "$status" != 0 ] && ! gzip -t "$part" 2>/dev/null; then
            die "could not fetch $url (curl: $status); run again to go on, or give --source PATH"
        fi
    fi
    if [ -n "$size" ] && [ "$(wc -c <"$part")" -ne "$size" ]; then
        die "$part has $(wc -c <"$part") bytes and should have $size; run again to go on"
    fi
    if [ -n "$sha" ]; then
        say "checking SHA-256"
        [ "$(sha256 "$part")" = "$sha" ] || {
            mv "$part" "$file.damaged"
            die "$url: SHA-256 is not $sha; kept as $file.damaged, run again to fetch it anew"
        }
    fi
    gzip -t "$part" || die "$part is not a whole gzip file; remove it and run again"
    mv "$part" "$file"
}

sha256() {
    if command -v sha256sum >/dev/null; then sha256sum "$1"; else shasum -a 256 "$1"; fi |
        cut -d' ' -f1
}
