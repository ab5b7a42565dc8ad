#!/usr/bin/env bash
# Let a trained model write stories; one a line, the prompt included.
#
#   --prompt TEXT        how a story begins; may be repeated ("Once upon a time")
#   --prompts FILE       or a file with one prompt a line
#   --quantity N         stories for each prompt (3)
#   --sampling-topk K    sample from the K likeliest tokens only (10)
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
prompt='' prompts='' quantity=3 sampling_topk=10 temperature=1.0 output='' seed=1
options "prompt+ prompts quantity sampling-topk temperature output checkpoint data-bin seed" '' "$@"
need_checkpoint "$checkpoint"
[[ $quantity =~ ^[1-9][0-9]*$ ]] || die "--quantity $quantity: a whole number of at least 1"
if [ -n "$prompts" ]; then
    [ -z "$prompt" ] || die "--prompt and --prompts: give one of them"
    [ -s "$prompts" ] || die "--prompts $prompts: no such file, or an empty one"
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Samples of one prompt are the rows of its beam; more than 32 come from further lines.
beam=$((quantity < 32 ? quantity : 32))
lines=$(((quantity + beam - 1) / beam))
if [ -n "$prompts" ]; then cat "$prompts"; else printf %s "${prompt:-$'Once upon a time\n'}"; fi |
    awk -v n="$lines" '{ for (i = 0; i < n; i++) print }' >"$work/prompts"
fairseq-interactive "$data_bin" --user-dir "$USER_DIR" --task story_lm --path "$checkpoint" \
    --input "$work/prompts" --buffer-size 1024 --batch-size 32 --seed "$seed" \
    --sampling --sampling-topk "$sampling_topk" --temperature "$temperature" \
    --beam "$beam" --nbest "$beam" --max-len-b 256 \
    ${extra[@]+"${extra[@]}"} >"$work/log" || failed "$work/log"

# A prompt and its continuation, both as pieces, put together decode to the exact text.
fairtale log outputs "$work/log" --continued --inputs-per-prompt "$lines" --quantity "$quantity" \
    --output "$work/pieces"
fairtale spm encode "$work/pieces" --decode --model "$data_bin/sentencepiece.bpe.model" --quiet \
    --workers 1 --output "$work/stories"
[ -n "$output" ] || { cat "$work/stories" && exit 0; }
mkdir -p "$(dirname "$output")"
mv "$work/stories" "$output"
say "$(($(wc -l <"$output"))) stories, top-k $sampling_topk, temperature $temperature -> $output"
