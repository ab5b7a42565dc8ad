# shellcheck shell=bash disable=SC2034,SC2154
# What the translation scripts share. To be sourced. bash 3.2 will do.

# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

data_bin=$ROOT/data-bin/wmt16_en_ru runs=$ROOT/runs/wmt16_en_ru outputs=$ROOT/outputs/wmt16_en_ru

# Sets $shape to the options of a model's size.  model_shape NAME LAYERS
model_shape() {
    local layers width ffn heads
    case $1 in
        base) layers=6 width=512 ffn=2048 heads=8 ;;
        small) layers=2 width=512 ffn=2048 heads=8 ;;
        tiny) layers=1 width=32 ffn=64 heads=4 ;; # to try the commands
        *) die "--model $1: base, small or tiny" ;;
    esac
    shape=(--encoder-layers "$layers" --decoder-layers "$layers"
        --encoder-embed-dim "$width" --decoder-embed-dim "$width"
        --encoder-ffn-embed-dim "$ffn" --decoder-ffn-embed-dim "$ffn"
        --encoder-attention-heads "$heads" --decoder-attention-heads "$heads")
    # One table of embeddings where both languages have the same vocabulary.
    local dictionaries=("$data_bin"/dict.*.txt)
    if [ ${#dictionaries[@]} = 2 ] && cmp -s "${dictionaries[@]}"; then
        shape+=(--share-all-embeddings)
    else
        shape+=(--share-decoder-input-output-embed)
    fi
}

# Runs fairseq-train with an update of about $update_tokens tokens.  train_translation [options]
train_translation() {
    local gpus precision devices update_freq launch=(fairseq-train) device=()
    read -r gpus precision <<<"$(find_gpus)"
    gpus=${N_GPUS:-$gpus}
    if [ "$gpus" = 0 ]; then
        device=(--cpu)
        max_tokens=${max_tokens:-2048} update_tokens=${update_tokens:-4096}
    else
        [ -z "$precision" ] || device=("$precision")
        max_tokens=${max_tokens:-8192} update_tokens=${update_tokens:-24576}
        [ "$gpus" = 1 ] ||
            launch=(torchrun --standalone --nproc-per-node "$gpus" "$BIN/fairseq-train")
    fi
    devices=$((gpus > 0 ? gpus : 1))
    update_freq=$(((update_tokens + devices * max_tokens - 1) / (devices * max_tokens)))
    say "an update: $devices x $max_tokens x $update_freq = $((devices * max_tokens * update_freq)) tokens"
    # --validate-interval counts epochs: validation is between them only.
    mkdir -p "$save_dir"
    "${launch[@]}" "$data_bin" --user-dir "$USER_DIR" --task wmt16_translation "${shape[@]}" \
        ${device[@]+"${device[@]}"} --max-tokens "$max_tokens" --update-freq "$update_freq" \
        --required-batch-size-multiple 1 --label-smoothing 0.1 --dropout 0.1 \
        --optimizer adam --adam-betas '(0.9, 0.98)' --lr-scheduler inverse_sqrt \
        --validate-interval-updates 1000 --save-interval-updates 1000 --keep-interval-updates 5 \
        --no-epoch-checkpoints --validate-interval 1000000 --log-format json --log-interval 50 \
        --tensorboard-logdir "$save_dir/tensorboard" --save-dir "$save_dir" \
        "$@" 2>&1 | tee -a "$save_dir/train.log"
    [ -f "$save_dir/checkpoint_last.pt" ] || die "no checkpoint was written; see $save_dir/train.log"
}

# Fails where DIR holds a training with other settings than those asked for, which would go on as if
# it were theirs.  check_resumed DIR STAMP SETTINGS: STAMP is the file in DIR with its settings
check_resumed() {
    [ -f "$1/checkpoint_last.pt" ] || return 0
    [ -f "$1/$2" ] ||
        die "$1 holds a training, but no $2 that says with which settings; remove it or choose" \
            "another --save-dir"
    [ "$(cat "$1/$2")" != "$3" ] || return 0
    diff "$1/$2" - <<<"$3" | sed -n 's/^</  it has:    /p; s/^>/  asked for: /p' >&2 || true
    die "$1 holds a training with other settings, see above; remove it or choose another --save-dir"
}

# Fails where there are no data, or no checkpoint.
need_data() {
    local found=("$data_bin"/dict.*.txt)
    [ -f "${found[0]}" ] || die "$data_bin: no such data; make it with prepare.sh"
}
need_checkpoint() {
    [ -f "$1" ] || die "$1: no such checkpoint; make one with train.sh"
}

# Takes one option that both generate.sh and evaluate.sh have, with its value, if it is one.
checkpoint=$runs/base/checkpoint_average.pt beam=4 lenpen=0.6
decode_option() {
    case $1 in
        --checkpoint) need_value "$@" && checkpoint=$2 ;;
        --data-bin) need_value "$@" && data_bin=$2 ;;
        --output) need_value "$@" && output=$2 ;;
        --beam) need_value "$@" && beam=$2 ;;
        --lenpen) need_value "$@" && lenpen=$2 ;;
        --max-tokens) need_value "$@" && max_tokens=$2 ;;
        *) return 1 ;;
    esac
}

# Shows what a command that failed has said besides the error on stderr.  failed LOG
failed() {
    grep -v ' | INFO | ' "$1" | tail -n 5 >&2 || true
    exit 2
}

# Prints NUMBER<TAB>TEXT for each translation in a log of fairseq's; no text where the source was
# blank, for which models invent some.  translations LOG
translations() {
    LC_ALL=C awk '
        /^S-[0-9]+\t?$/ { blank[substr($1, 3)] = 1 }
        /^D-[0-9]+\t/ {
            number = substr($1, 3)
            sub(/^D-[0-9]+\t[^\t]*\t?/, "")
            print number "\t" (number in blank ? "" : $0)
        }' "$1"
}

# Translates a split with $checkpoint; plain text, a line for each sentence, goes to FILE, and what
# fairseq-generate says to FILE.log.  translate_subset SUBSET FILE [options]
translate_subset() {
    local subset=$1 file=$2 wanted
    shift 2
    mkdir -p "$(dirname "$file")"
    fairseq-generate "$data_bin" --user-dir "$USER_DIR" --path "$checkpoint" \
        --gen-subset "$subset" --beam "$beam" --lenpen "$lenpen" --max-len-a 1.5 --max-len-b 10 \
        --max-tokens "$max_tokens" "$@" >"$file.log" || failed "$file.log"
    translations "$file.log" | sort -n | cut -f 2- >"$file"
    wanted=$(cat "$data_bin/text/$subset".* | wc -l)
    [ $((2 * $(wc -l <"$file"))) = $((wanted)) ] ||
        die "$(($(wc -l <"$file"))) translations of $((wanted / 2)) sentences in $subset; see $file.log"
}
