# shellcheck shell=bash disable=SC2034
# Functions for the scripts of all experiments: paths, messages, options. Source this file. It also runs
# in bash 3.2, the version of macOS.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
EXPERIMENT=$(basename "$(cd "$(dirname "$0")" && pwd)") # the folder of the script that was started

die() {
    echo "error: $*" >&2
    exit 2
}

# Print the comment at the head of the script that was started.
show_help() {
    sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p;}' "$0" | sed "s/EXPERIMENT/$EXPERIMENT/g"
}

say() {
    echo "== $*" >&2
}

# Use fairseq's commands of the active environment, or else of the environment made by `make setup`.
if ! command -v fairseq-train >/dev/null && [ -x "$ROOT/.venv/bin/fairseq-train" ]; then
    PATH="$ROOT/.venv/bin:$PATH"
fi
command -v fairseq-train >/dev/null || die "fairseq-train is not installed; run: make setup"
BIN=$(cd "$(dirname "$(command -v fairseq-train)")" && pwd)
USER_DIR=$ROOT/user_dir

# Let waiting OpenMP threads sleep instead of spin. On cores that are shared with other work, a training
# step on two threads took a tenth of the time; on idle cores there was no measurable difference.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}

fairtale() {
    PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" "$BIN/python" -m fairtale "$@"
}

# Like fairtale, but replace this script's process, so that signals reach the command itself.
exec_fairtale() {
    PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" exec "$BIN/python" -m fairtale "$@"
}

# Run a command and return its status. A signal that ends this script ends the command first; bash would
# leave it running.  attend COMMAND...
attend() {
    local command status
    "$@" &
    command=$!
    trap 'kill "$command" 2>/dev/null || true' HUP INT TERM
    while :; do # a signal interrupts `wait`
        status=0
        wait "$command" || status=$?
        kill -0 "$command" 2>/dev/null || break
    done
    trap - HUP INT TERM
    return "$status"
}

# Run a training with `fairtale launch`, show its output and append it to DIR/train.log.  train DIR WORDS...
train() {
    local log=$1/train.log work status=0
    shift
    work=$(mktemp -d)
    mkfifo "$work/output"
    tee -a "$log" <"$work/output" &
    attend exec_fairtale launch "$@" >"$work/output" 2>&1 || status=$?
    wait # for tee
    rm -r "$work"
    return "$status"
}

# Parse the options of a script: --data-bin DIR sets $data_bin. Other words are stored in $extra. -h and
# --help print the comment at the head of the script.  options "NAME..." "REFUSED..." "$@"
#   NAME      an option of this script; NAME+ may be repeated, and $name then holds one value a line
#   REFUSED   options of the neighbouring scripts, which must not be passed to fairseq
options() {
    local known=" $1 " refused=" $2 " name
    shift 2
    extra=()
    while [ $# -gt 0 ]; do
        case $1 in
            -h | --help) show_help && exit 0 ;;
            --topk | --topks | --topp) die "$1 is now --sampling-${1#--}, as in fairseq" ;;
        esac
        name=${1#--}
        if [ "$1" = "$name" ] || [[ $known$refused != *" $name "* && $known != *" $name+ "* ]]; then
            extra+=("$1") && shift && continue
        fi
        [[ $refused != *" $name "* ]] || die "$1: not an option of this script; see --help"
        [ $# -ge 2 ] || die "$1 needs a value; see --help"
        if [[ $known = *" $name+ "* ]]; then
            local list=${name//-/_}
            printf -v "$list" '%s%s\n' "${!list}" "$2"
        else
            printf -v "${name//-/_}" %s "$2"
        fi
        shift 2
    done
}

# Fail if there are options that the script does not know.
no_extra() {
    [ ${#extra[@]} = 0 ] || die "unknown option ${extra[0]}; see --help"
}

# Fail if the value of an option is not a whole number of at least 1.  need_count OPTION VALUE
need_count() {
    case $2 in '' | *[!0-9]* | 0*) die "$1 $2: must be a whole number of at least 1" ;; esac
}

# Set $choice to the option that limits sampling: $sampling_topk or $sampling_topp, or else top-k.
# limit_sampling DEFAULT_TOPK
limit_sampling() {
    [ -z "$sampling_topk" ] || [ -z "$sampling_topp" ] ||
        die "--sampling-topk and --sampling-topp: give one of them"
    choice=(--sampling-topk "${sampling_topk:-$1}")
    [ -z "$sampling_topp" ] || choice=(--sampling-topp "$sampling_topp")
}

need_checkpoint() {
    [ -f "$1" ] || die "$1: no such checkpoint; make one with train.sh"
}

# Copy lines, with spaces for null bytes and for carriage returns, at which Python would end a line as well.
plain_lines() {
    LC_ALL=C tr '\r\000' '  '
}

# Exit after a failed command and show its error, or else the last lines of its output.  failed LOG
failed() {
    grep '^error: ' "$1" | tail -n 1 >&2 || grep -v ' | INFO | ' "$1" | tail -n 5 >&2 || true
    exit 2
}

# Fail if a training has not written a checkpoint.  need_trained DIR
need_trained() {
    [ -f "$1/checkpoint_last.pt" ] || die "no checkpoint was written; see $1/train.log"
}

# Report the end of a training. The checkpoint kept by --keep-interval-updates is removed, because it
# equals checkpoint_last.pt.  trained DIR
trained() {
    need_trained "$1"
    rm -f "$1"/checkpoint_[0-9]*_[0-9]*.pt
    say "trained: $1 (fairtale plot $1 draws its curves)"
}

# Let a training go on from an earlier checkpoint. The later ones, the last and a copy of the best are moved
# to a subfolder.  go_back DIR UPDATES
go_back() {
    local path number chosen='' known='' later
    for path in "$1"/checkpoint_[0-9]*_[0-9]*.pt; do
        [ -f "$path" ] || continue
        number=${path##*_} number=${number%.pt} known="$known $number"
        [ "$number" != "$2" ] || chosen=$path
    done
    [ -n "$chosen" ] ||
        die "--from-checkpoint $2: the checkpoints of $1 are those after updates${known:- (none)}"
    later=$(mktemp -d "$1/after_$2_XXXXXX")
    [ ! -f "$1/checkpoint_best.pt" ] || cp "$1/checkpoint_best.pt" "$later"
    cp "$chosen" "$1/checkpoint_last.pt.partial" # a crash in between leaves a checkpoint_last.pt
    [ ! -f "$1/checkpoint_last.pt" ] || cp "$1/checkpoint_last.pt" "$later"
    mv "$1/checkpoint_last.pt.partial" "$1/checkpoint_last.pt"
    for path in "$1"/checkpoint_[0-9]*_[0-9]*.pt; do
        number=${path##*_} number=${number%.pt}
        [ "$number" -le "$2" ] || mv "$path" "$later"
    done
    say "going on from $chosen; later checkpoints: $later"
}
