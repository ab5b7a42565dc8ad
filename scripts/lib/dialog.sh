# shellcheck shell=bash disable=SC2034,SC2120,SC2154
# What the dialog experiments share; each of their scripts sets EXPERIMENT and its defaults, sources
# this and calls one function. To be sourced. bash 3.2 will do.

# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

data_bin=$ROOT/data-bin/$EXPERIMENT runs=$ROOT/runs/$EXPERIMENT outputs=$ROOT/outputs/$EXPERIMENT

# --- prepare -------------------------------------------------------------------------------------

sources=() dialogs_options=() vocab_size=32000 valid=0.005 test=0.005 max_unknown=3 seed=1
workers=$(num_cpus)

# Takes one option with its value, if it is known; sets $taken to the number of words it has.
prepare_option() {
    taken=2
    case $1 in
        --dedupe | --strict | --keep-asides | --keep-punctuation | --allow-equal | --split-by-name)
            dialogs_options+=("$1") && taken=1 && return 0 ;;
        --source) need_value "$@" && sources+=("$2") ;;
        --data-bin) need_value "$@" && data_bin=$2 ;;
        --vocab-size) need_value "$@" && vocab_size=$2 ;;
        --valid) need_value "$@" && valid=$2 ;;
        --test) need_value "$@" && test=$2 ;;
        --seed) need_value "$@" && seed=$2 ;;
        --max-unknown) need_value "$@" && max_unknown=$2 ;;
        --workers) need_value "$@" && workers=$2 ;;
        --format | --min-chars | --max-chars | --max-context-turns)
            need_value "$@" && dialogs_options+=("$1" "$2") ;;
        *) die "unknown option $1; see --help" ;;
    esac
}

# Leaves the script if $data_bin was made before from these $sources with these settings.
prepare_check() {
    local source
    settings="vocab-size $vocab_size
valid $valid
test $test
seed $seed
max-unknown $max_unknown
options ${dialogs_options[*]-}"
    for source in "${sources[@]}"; do
        [ -e "$source" ] || die "--source $source: no such file or folder"
        settings+=$'\n'"source $(absolute "$source") $(fingerprint "$source")"
    done
    check_made "$data_bin" prepare.txt "$settings"
}

# $sources -> $data_bin, in one piece.
prepare_data() {
    local text pieces made subset held_out=() prefixes=() lines
    prepare_check
    start_partial "$data_bin"
    text=$PARTIAL/text pieces=$PARTIAL/pieces made=$PARTIAL/made

    say "1/4 cleaning and splitting"
    fairtale dialogs "${sources[@]}" --output "$text" --valid "$valid" --test "$test" \
        --seed "$seed" ${dialogs_options[@]+"${dialogs_options[@]}"}

    say "2/4 learning $vocab_size pieces from the training dialogs"
    fairtale spm train "$text/train.tsv" --dialog --model "$made/sentencepiece.bpe" \
        --dict "$PARTIAL/dict.txt" --vocab-size "$vocab_size" --workers "$workers"

    # The dialogs that are held out stay readable, line by line those that are binarised.
    say "3/4 encoding"
    for subset in valid test; do
        [ ! -f "$text/$subset.tsv" ] || held_out+=("$text/$subset.tsv")
    done
    encode=(--dialog --model "$made/sentencepiece.bpe.model" --output-dir "$pieces"
        --max-unknown "$max_unknown" --workers "$workers")
    fairtale spm encode "$text/train.tsv" "${encode[@]}"
    [ ${#held_out[@]} = 0 ] ||
        fairtale spm encode "${held_out[@]}" "${encode[@]}" --kept-dir "$made/text"

    say "4/4 fairseq-preprocess"
    for subset in train valid test; do
        [ ! -f "$pieces/$subset.tsv" ] || prefixes+=("--${subset}pref" "$pieces/$subset.tsv")
    done
    fairseq-preprocess --only-source "${prefixes[@]}" --srcdict "$PARTIAL/dict.txt" \
        --destdir "$made" --workers "$workers" >"$PARTIAL/preprocess.out" 2>&1 ||
        { tail -n 20 "$PARTIAL/preprocess.out" >&2 && die "fairseq-preprocess failed, see above"; }
    for subset in "$pieces"/*.tsv; do
        lines=$(($(wc -l <"$subset")))
        grep -q "/$(basename "$subset"): $lines sents" "$PARTIAL/preprocess.out" ||
            die "fairseq-preprocess lost lines of $(basename "$subset"), which has $lines"
    done
    grep -o '[a-z]*\.tsv: [0-9]* sents.*' "$PARTIAL/preprocess.out"
    mkdir -p "$made/text"
    mv "$text/report.json" "$made/text/"
    finish "$made" "$data_bin" prepare.txt "$settings"
    say "$data_bin is ready"
}

# --- train ---------------------------------------------------------------------------------------

# train_model [options]: $MODEL or --model says what.
train_model() {
    local model=${MODEL:-mixture} save_dir='' update_tokens=4096 max_tokens='' extra=() kind
    local gpus precision devices update_freq launch=(fairseq-train) device=() task=dialog_lm
    local loss=(--criterion label_smoothed_kl --label-smoothing 0.1 --use-kl)
    while [ $# -gt 0 ]; do
        case $1 in
            --model) need_value "$@" && model=$2 && shift 2 ;;
            --data-bin) need_value "$@" && data_bin=$2 && shift 2 ;;
            --save-dir) need_value "$@" && save_dir=$2 && shift 2 ;;
            --max-tokens) need_value "$@" && max_tokens=$2 && shift 2 ;;
            --update-tokens) need_value "$@" && update_tokens=$2 && shift 2 ;;
            *) extra+=("$1") && shift ;;
        esac
    done
    case $model in # all of them are 12 layers of 768
        gpt) kind=(--arch gpt_112m) ;;
        unilm) kind=(--arch unilm_seq2seq_base --seq2seq-prob 1) ;;
        mixture) kind=(--arch unilm_seq2seq_base --seq2seq-prob 0.25) ;;
        reverse) kind=(--arch unilm_seq2seq_base --seq2seq-prob 1 --reverse) ;;
        nat) # as many layers, half of them in an encoder
            task=dialog_nat loss=(--criterion nat_loss --label-smoothing 0.1)
            kind=(--arch insertion_transformer --share-all-embeddings --apply-bert-init
                --encoder-layers 6 --encoder-embed-dim 768 --encoder-attention-heads 12
                --encoder-ffn-embed-dim 3072 --decoder-layers 6 --decoder-embed-dim 768
                --decoder-attention-heads 12 --decoder-ffn-embed-dim 3072) ;;
        *) die "--model $model: gpt, unilm, mixture, reverse or nat" ;;
    esac
    save_dir=${save_dir:-$runs/$model}
    [ -f "$data_bin/train.idx" ] || die "$data_bin holds no training data; make it with prepare.sh"

    read -r gpus precision <<<"$(find_gpus)"
    gpus=${N_GPUS:-$gpus}
    if [ "$gpus" = 0 ]; then device=(--cpu); elif [ -n "$precision" ]; then device=("$precision"); fi
    [ "$gpus" -lt 2 ] ||
        launch=(torchrun --standalone --nproc-per-node "$gpus" "$BIN/fairseq-train")
    # 64 dialogs of 64 tokens: 4,096 = 1 device x 4,096 x 1 = 4 devices x 1,024 x 1.
    devices=$((gpus > 0 ? gpus : 1))
    max_tokens=${max_tokens:-$(((update_tokens + devices - 1) / devices))}
    update_freq=$(((update_tokens + devices * max_tokens - 1) / (devices * max_tokens)))
    say "an update: $devices x $max_tokens x $update_freq = $((devices * max_tokens * update_freq)) tokens"

    # fairseq's adam decays weights as AdamW does. --validate-interval counts epochs: validation is
    # every 2,000 updates and not also where an epoch ends.
    mkdir -p "$save_dir"
    "${launch[@]}" "$data_bin" --user-dir "$USER_DIR" --task "$task" "${kind[@]}" \
        ${device[@]+"${device[@]}"} --max-tokens "$max_tokens" --update-freq "$update_freq" \
        "${loss[@]}" --dropout 0.1 \
        --optimizer adam --adam-betas '(0.9, 0.98)' --weight-decay 0.01 --clip-norm 2.5 \
        --lr 3e-4 --lr-scheduler inverse_sqrt --warmup-updates 4000 --max-update 200000 \
        --validate-interval-updates 2000 --save-interval-updates 2000 --keep-interval-updates 1 \
        --no-epoch-checkpoints --validate-interval 1000000 --log-format json --log-interval 50 \
        --tensorboard-logdir "$save_dir/tensorboard" --save-dir "$save_dir" \
        ${extra[@]+"${extra[@]}"} 2>&1 | tee -a "$save_dir/train.log"

    [ -f "$save_dir/checkpoint_last.pt" ] || die "no checkpoint was written; see $save_dir/train.log"
    rm -f "$save_dir"/checkpoint_[0-9]*_[0-9]*.pt # the last of them equals checkpoint_last.pt
    say "trained: $save_dir (fairtale plot $save_dir draws its curves)"
}

# --- generate, re-rank, evaluate -----------------------------------------------------------------

# Options of the scripts below: of those $takes names the ones that a script has; what none of
# them knows is left in $extra.
decode_options() {
    local known=' --model --models --checkpoint --data-bin --subset --beam --nbest --input --output '
    known+='--reverse --weight --runs --outputs '
    model=${MODEL:-mixture} checkpoint='' subset=test beam=5 nbest=1 input='' output='' extra=()
    reverse='' weight=0.5 models="gpt unilm mixture" device=()
    while [ $# -gt 0 ]; do
        [[ $known != *" $1 "* || " $takes " = *" $1 "* ]] ||
            die "$1: not an option of this script; see --help"
        case $1 in
            --model) need_value "$@" && model=$2 ;;
            --models) need_value "$@" && models=$2 ;;
            --checkpoint) need_value "$@" && checkpoint=$2 ;;
            --data-bin) need_value "$@" && data_bin=$2 ;;
            --subset) need_value "$@" && subset=$2 ;;
            --beam) need_value "$@" && beam=$2 ;;
            --nbest) need_value "$@" && nbest=$2 ;;
            --input) need_value "$@" && input=$2 ;;
            --output) need_value "$@" && output=$2 ;;
            --reverse) need_value "$@" && reverse=$2 ;;
            --weight) need_value "$@" && weight=$2 ;;
            --runs) need_value "$@" && runs=$2 ;;
            --outputs) need_value "$@" && outputs=$2 ;;
            --cpu | --fp16 | --bf16) device+=("$1") && shift && continue ;;
            *) extra+=("$1") && shift && continue ;;
        esac
        shift 2
    done
    checkpoint=${checkpoint:-$runs/$model/checkpoint_best.pt}
    [ -f "$data_bin/dict.txt" ] || die "$data_bin: no such data; make it with prepare.sh"
}

need_checkpoint() {
    [ -f "$1" ] || die "$1: no such checkpoint; make one with train.sh"
}

# Answers the dialogs of $subset, the output of fairseq-generate to $output.  generate_subset [...]
generate_subset() {
    need_checkpoint "$checkpoint"
    mkdir -p "$(dirname "$output")"
    say "answering $subset with $checkpoint"
    fairseq-generate "$data_bin" --user-dir "$USER_DIR" --path "$checkpoint" \
        --gen-subset "$subset" --beam "$beam" --nbest "$nbest" --max-len-b 64 --max-tokens 8192 \
        ${device[@]+"${device[@]}"} ${extra[@]+"${extra[@]}"} "$@" >"$output.partial" ||
        { tail -n 5 "$output.partial" >&2 && exit 2; }
    mv "$output.partial" "$output"
    say "output of fairseq-generate: $output"
}

# Answers the dialogs of the file $input, one reply a line.
answer_input() {
    need_checkpoint "$checkpoint"
    [ -s "$input" ] || die "--input $input: no such file, or an empty one"
    local log blank
    blank=$(awk -F'\t' '$NF !~ /[^[:space:]]/ { print NR; exit }' "$input")
    [ -z "$blank" ] || die "--input $input: line $blank asks nothing, its last turn is empty"
    log=$(mktemp)
    fairseq-interactive "$data_bin" --user-dir "$USER_DIR" --path "$checkpoint" \
        --input "$input" --buffer-size 1024 --batch-size 32 --beam "$beam" --nbest "$nbest" \
        --max-len-b 64 ${device[@]+"${device[@]}"} ${extra[@]+"${extra[@]}"} >"$log" ||
        { tail -n 5 "$log" >&2 && exit 2; }
    sed -n $'s/^D-[0-9]*\t[^\t]*\t//p' "$log"
    rm -f "$log"
}

# Prints the figures of the replies in $output.  score_output [options of fairtale score-dialog]
score_output() {
    local references=$data_bin/text/$subset.tsv
    [ -f "$references" ] || die "$references: no such file, so there is nothing to compare with"
    fairtale score-dialog "$output" "$references" "$@"
}

# One table of $models, those of them that are trained: bits per response token, replies' figures.
evaluate_models() {
    local bits rows='' scores='' head failed=''
    for model in $models; do
        checkpoint=$runs/$model/checkpoint_best.pt output=$outputs/$model.$subset.out
        [ -f "$checkpoint" ] || { say "$model is not trained, so it is skipped" && continue; }
        bits=- # an insertion model's loss is no probability of the response
        if [ "$model" != nat ]; then
            say "$model: loss of the responses"
            bits=$(fairseq-validate "$data_bin" --user-dir "$USER_DIR" --path "$checkpoint" \
                --valid-subset "$subset" --max-tokens 8192 --log-format simple \
                ${device[@]+"${device[@]}"} 2>&1 |
                sed -n "s/.*valid on '$subset' subset.* nll_loss \([0-9.]*\).*/\1/p")
            [ -n "$bits" ] || die "fairseq-validate failed on $checkpoint; run it to see why"
        fi
        (generate_subset) || { failed+=" $model" && continue; }
        scores=$(score_output --table)
        rows+="| $model | $bits $(sed -n 's/^| first //p' <<<"$scores")"$'\n'
    done
    [ -n "$rows" ] || [ -z "$failed" ] || die "could not answer with$failed, see above"
    [ -n "$rows" ] || die "none of $models is trained; see train.sh"
    head=$(head -n 1 <<<"$scores")
    echo "| model | bits/token ${head#| reply }"
    echo "|---|--:|--:|--:|--:|--:|--:|--:|"
    printf '%s' "$rows"
    tail -n 2 <<<"$scores"
    [ -z "$failed" ] || die "not in the table, for they could not answer:$failed; see above"
}
