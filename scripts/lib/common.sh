# shellcheck shell=bash disable=SC2034
# Shared by the experiments' scripts: paths, messages, options. To be sourced. Written for bash 3.2
# too, which is what macOS ships.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

die() {
    echo "error: $*" >&2
    exit 2
}

say() {
    echo "== $*" >&2
}

# fairseq's commands come from the active environment, else from the one `make setup` made.
if ! command -v fairseq-train >/dev/null && [ -x "$ROOT/.venv/bin/fairseq-train" ]; then
    PATH="$ROOT/.venv/bin:$PATH"
fi
command -v fairseq-train >/dev/null || die "fairseq-train is not installed; run: make setup"
BIN=$(cd "$(dirname "$(command -v fairseq-train)")" && pwd)
USER_DIR=$ROOT/user_dir

# Threads that wait sleep instead of spinning: where other work shares the cores, a training step on
# two threads took a tenth of the time. On quiet cores it costs nothing measurable.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}

fairtale() {
    PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" "$BIN/python" -m fairtale "$@"
}

# The same in place of this script, so that a signal reaches the command itself.
exec_fairtale() {
    PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" exec "$BIN/python" -m fairtale "$@"
}

# Takes the options of a script: --data-bin DIR sets $data_bin. The rest is left in $extra. -h and
# --help print the comment at the script's head.  options "NAME..." "REFUSED..." "$@"
#   NAME      an option of this script; NAME+ may be repeated: $name then holds a value a line
#   REFUSED   options of its neighbours, which fairseq would take for something else
options() {
    local known=" $1 " refused=" $2 " name
    shift 2
    extra=()
    while [ $# -gt 0 ]; do
        case $1 in
            -h | --help) sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p;}' "$0" && exit 0 ;;
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

# Fails where options are left that a script cannot pass on.
no_extra() {
    [ ${#extra[@]} = 0 ] || die "unknown option ${extra[0]}; see --help"
}

need_checkpoint() {
    [ -f "$1" ] || die "$1: no such checkpoint; make one with train.sh"
}

# Shows what a command that failed has said besides the error on stderr.  failed LOG
failed() {
    grep -v ' | INFO | ' "$1" | tail -n 5 >&2 || true
    exit 2
}

# Fails where training has left no checkpoint.  need_trained DIR
need_trained() {
    [ -f "$1/checkpoint_last.pt" ] || die "no checkpoint was written; see $1/train.log"
}

# Says where a model is. The last of its checkpoints in between equals checkpoint_last.pt, so they
# are removed.  trained DIR
trained() {
    need_trained "$1"
    rm -f "$1"/checkpoint_[0-9]*_[0-9]*.pt
    say "trained: $1 (fairtale plot $1 draws its curves)"
}
