#!/usr/bin/env bash
# Let a trained model write stories; one a line, the prompt included.
#
#   --prompt TEXT        how a story begins; may be repeated ("Once upon a time")
#   --prompts FILE       or a file with one prompt a line
#   --quantity N         stories for each prompt (3)
#   --topk K             sample from the K likeliest tokens only (10)
#   --temperature T      divides the logits before the softmax: below 1 likely words get likelier,
#                        above 1 the choice gets more even (1.0)
#   --output FILE        text only (standard output)
#   --checkpoint FILE    (runs/story_tinystories/checkpoint_best.pt)
#   --data-bin DIR       for its dictionary and tokenizer (data-bin/story_tinystories)
#   --seed N             other numbers give other stories (1)
#   anything else        goes to fairseq-interactive, e.g. --no-repeat-ngram-size 4 or --fp16
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

checkpoint=$ROOT/runs/story_tinystories/checkpoint_best.pt
data_bin=$ROOT/data-bin/story_tinystories
prompts=() prompt_file='' quantity=3 topk=10 temperature=1.0 output='' seed=1 extra=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage "${BASH_SOURCE[0]}" && exit 0 ;;
        --prompt) need_value "$@" && prompts+=("$2") && shift 2 ;;
        --prompts) need_value "$@" && prompt_file=$2 && shift 2 ;;
        --quantity) need_value "$@" && quantity=$2 && shift 2 ;;
        --topk) need_value "$@" && topk=$2 && shift 2 ;;
        --temperature) need_value "$@" && temperature=$2 && shift 2 ;;
        --output) need_value "$@" && output=$2 && shift 2 ;;
        --checkpoint) need_value "$@" && checkpoint=$2 && shift 2 ;;
        --data-bin) need_value "$@" && data_bin=$2 && shift 2 ;;
        --seed) need_value "$@" && seed=$2 && shift 2 ;;
        *) extra+=("$1") && shift ;;
    esac
done
[ -f "$checkpoint" ] || die "$checkpoint: no such checkpoint; make one with train.sh"
[[ $quantity =~ ^[1-9][0-9]*$ ]] || die "--quantity $quantity: a whole number of at least 1"
if [ -n "$prompt_file" ]; then
    [ ${#prompts[@]} -eq 0 ] || die "--prompt and --prompts: give one of them"
    [ -s "$prompt_file" ] || die "--prompts $prompt_file: no such file, or an empty one"
else
    [ ${#prompts[@]} -gt 0 ] || prompts=("Once upon a time")
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Samples of one prompt are the rows of its beam; more than 32 come from further lines.
beam=$((quantity < 32 ? quantity : 32))
lines=$(((quantity + beam - 1) / beam))
if [ -n "$prompt_file" ]; then cat "$prompt_file"; else printf '%s\n' "${prompts[@]}"; fi |
    awk -v n="$lines" '{ for (i = 0; i < n; i++) print }' >"$work/prompts"

fairseq-interactive "$data_bin" --user-dir "$USER_DIR" --task story_lm --path "$checkpoint" \
    --input "$work/prompts" --buffer-size 1024 --batch-size 32 --seed "$seed" \
    --sampling --sampling-topk "$topk" --temperature "$temperature" \
    --beam "$beam" --nbest "$beam" --max-len-b 256 \
    ${extra[@]+"${extra[@]}"} >"$work/log" || {
    grep -v ' | INFO | ' "$work/log" >&2 || true # what was said besides the reason on stderr
    exit 2
}

# S is the prompt and H a continuation, both as pieces: put together they decode to the exact text.
awk -F'\t' -v n="$lines" -v quantity="$quantity" '
    /^S-/ { prompt = $2 }
    /^H-/ { id = int(substr($1, 3) / n); if (count[id]++ < quantity) print prompt, $3 }
' "$work/log" >"$work/pieces"
fairtale spm encode "$work/pieces" --decode --model "$data_bin/sentencepiece.bpe.model" --quiet \
    --workers 1 --output "$work/stories"
if [ -n "$output" ]; then
    mkdir -p "$(dirname "$output")"
    mv "$work/stories" "$output"
    say "$(($(wc -l <"$output"))) stories, top-k $topk, temperature $temperature -> $output"
else
    cat "$work/stories"
fi
