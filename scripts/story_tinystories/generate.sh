#!/usr/bin/env bash
# Generate stories with a trained model. The output holds one story a line, including its prompt.
#
#   --prompt TEXT        beginning of the stories; may be repeated ("Once upon a time")
#   --prompts FILE       file with one prompt a line, instead of --prompt
#   --quantity N         stories for each prompt (3)
#   --sampling-topk K    sample from the K most probable tokens (10)
#   --sampling-topp P    or from the most probable tokens whose probabilities sum to P
#   --temperature T      divisor of the logits: below 1, probable tokens become more probable; above
#                        1, the distribution becomes more even (1.0)
#   --output FILE        file for the stories (standard output)
#   --checkpoint FILE    checkpoint of the model (runs/story_tinystories/checkpoint_best.pt)
#   --data-bin DIR       folder with dictionary and tokenizer (data-bin/story_tinystories)
#   --seed N             random seed (1)
#   anything else        is passed to fairseq-interactive, e.g. --no-repeat-ngram-size 4
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

checkpoint=$ROOT/runs/story_tinystories/checkpoint_best.pt
data_bin=$ROOT/data-bin/story_tinystories
prompt='' prompts='' quantity=3 sampling_topk='' sampling_topp='' temperature=1.0 output='' seed=1
options "prompt+ prompts quantity sampling-topk sampling-topp temperature output checkpoint data-bin \
seed" '' "$@"
limit_sampling 10
need_checkpoint "$checkpoint"
[[ $quantity =~ ^[1-9][0-9]*$ ]] || die "--quantity $quantity: must be a whole number of at least 1"
if [ -n "$prompts" ]; then
    [ -z "$prompt" ] || die "--prompt and --prompts: give one of them"
    [ -s "$prompts" ] || die "--prompts $prompts: no such file, or an empty one"
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The stories of one prompt are the rows of its beam; for more than 32, the prompt is repeated.
beam=$((quantity < 32 ? quantity : 32))
lines=$(((quantity + beam - 1) / beam))
if [ -n "$prompts" ]; then cat "$prompts"; else printf %s "${prompt:-$'Once upon a time\n'}"; fi |
    plain_lines | awk -v n="$lines" '{ for (i = 0; i < n; i++) print }' >"$work/prompts"
fairseq-interactive "$data_bin" --user-dir "$USER_DIR" --task story_lm --path "$checkpoint" \
    --input "$work/prompts" --buffer-size 1024 --batch-size 32 --seed "$seed" \
    --sampling "${choice[@]}" --temperature "$temperature" \
    --beam "$beam" --nbest "$beam" --max-len-b 256 \
    ${extra[@]+"${extra[@]}"} >"$work/log" || failed "$work/log"

# Decode the pieces of prompt and continuation together, which gives the exact text.
fairtale log outputs "$work/log" --continued --inputs-per-prompt "$lines" --quantity "$quantity" \
    --output "$work/pieces"
verb=spm tokenizer=(--model "$data_bin/sentencepiece.bpe.model")
if [ -f "$data_bin/tokenizer.json" ]; then
    verb=bpe tokenizer=(--tokenizer "$data_bin/tokenizer.json" --join-lines)
fi
fairtale "$verb" encode "$work/pieces" --decode "${tokenizer[@]}" --quiet \
    --workers 1 --output "$work/stories"
[ -n "$output" ] || { cat "$work/stories" && exit 0; }
mkdir -p "$(dirname "$output")"
mv "$work/stories" "$output"
say "$(($(wc -l <"$output"))) stories, ${choice[0]#--sampling-} ${choice[1]}, temperature $temperature -> $output"
