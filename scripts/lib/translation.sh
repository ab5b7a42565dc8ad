# shellcheck shell=bash disable=SC2154
# Functions for the translation scripts. Source this file. It also runs in bash 3.2.

# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Fail if there is no data.  need_data DATA_BIN
need_data() {
    local found=("$1"/dict.*.txt)
    [ -f "${found[0]}" ] || die "$1: no such data; make it with prepare.sh"
}

# Print the option that shares embeddings: all of them if both languages have the same vocabulary.
# shared_embeddings DATA_BIN
shared_embeddings() {
    local found=("$1"/dict.*.txt)
    if [ ${#found[@]} = 2 ] && cmp -s "${found[@]}"; then
        echo --share-all-embeddings
    else
        echo --share-decoder-input-output-embed
    fi
}

# Average the last N checkpoints of a training, or all if there are fewer.  average_last DIR N
average_last() {
    local kept
    [ "$2" -gt 0 ] || return 0
    kept=$(($(find "$1" -name 'checkpoint_[0-9]*_[0-9]*.pt' | wc -l)))
    [ "$kept" -ge 2 ] || die "$1 holds $kept checkpoints to average; give --average 0"
    fairtale average "$1" --last "$((kept < $2 ? kept : $2))" --output "$1/checkpoint_average.pt"
}

# Print the path of the original text of a split.  sentences DATA_BIN SUBSET
sentences() {
    local found=("$1/text/$2".*)
    [ -f "${found[0]}" ] ||
        die "$1/text/$2.*: no such file; --subset must be a split of the data"
    echo "${found[0]}"
}

# Print the options in $extra that change a training, each with its values on a line.
training_options() {
    local word line='' same=' cpu log-interval log-format tensorboard-logdir wandb-project num-workers
data-buffer-size max-update no-progress-bar save-interval-updates keep-interval-updates validate-interval-updates '
    for word in ${extra[@]+"${extra[@]}"} --; do
        if [[ $word != --* ]]; then line="$line $word" && continue; fi
        [ -z "$line" ] || [[ ${same//[$'\n']/ } = *" ${line%% *} "* ]] || printf 'option --%s\n' "$line"
        line=${word#--} line=${line/=/ }
    done | LC_ALL=C sort
}

# For prune.sh: fail if $save_dir holds a training with other settings, which must not be resumed; else
# record the settings.
check_resumed() {
    local stamp=$save_dir/prune.txt settings checkpoint_path
    checkpoint_path=$(cd "$(dirname "$checkpoint")" && pwd)/$(basename "$checkpoint")
    settings="checkpoint $checkpoint_path $(cksum <"$checkpoint" | tr ' ' '-')
goal ${goal[0]} ${goal[1]}
gated $gated
freeze $freeze
fixed after $fix
$(training_options)
batch ${max_tokens:-default} ${update_tokens:-default}"
    if [ -f "$save_dir/checkpoint_last.pt" ]; then
        [ -f "$stamp" ] ||
            die "$save_dir holds a training, but no prune.txt with its settings;" \
                "remove it or choose another --save-dir"
        if [ "$(cat "$stamp")" != "$settings" ]; then
            diff "$stamp" - <<<"$settings" |
                sed -n 's/^</  it has:    /p; s/^>/  asked for: /p' >&2 || true
            die "$save_dir holds a training with other settings, see above; remove it or choose" \
                "another --save-dir"
        fi
    fi
    mkdir -p "$save_dir"
    printf '%s\n' "$settings" >"$stamp"
}
