#!/usr/bin/env bash
# Print the validation perplexity and bits per byte of a story model. With --judge, also print the
# perplexity of generated stories under a large model, for several temperatures and top-k values.
#
#   --checkpoint FILE         checkpoint of the model (runs/story_tinystories/checkpoint_best.pt)
#   --data-bin DIR            data from prepare.sh (data-bin/story_tinystories)
#   --subset NAME             valid or test (valid)
#   --max-tokens N            tokens of a batch (8192)
#   --judge DIR               a causal Hugging Face model on disk (see: fairtale perplexity --help)
#   --temperatures "T.."      divisors of the logits ("0.7 1.0 1.3")
#   --sampling-topks "K.."    numbers of tokens to sample from ("5 20 100")
#   --quantity N              stories for each setting (64)
#   --output DIR              folder for the generated stories (outputs/story_tinystories)
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

checkpoint=$ROOT/runs/story_tinystories/checkpoint_best.pt
data_bin=$ROOT/data-bin/story_tinystories output=$ROOT/outputs/story_tinystories
subset=valid max_tokens=8192 judge='' quantity=64
temperatures="0.7 1.0 1.3" sampling_topks="5 20 100"
options "checkpoint data-bin subset max-tokens judge temperatures sampling-topks quantity output" \
    '' "$@"
no_extra
need_checkpoint "$checkpoint"
[ -z "$judge" ] || [ -d "$judge" ] || die "--judge $judge: not a folder with a Hugging Face model"

fairseq-validate "$data_bin" --user-dir "$USER_DIR" --task story_lm --path "$checkpoint" \
    --valid-subset "$subset" --max-tokens "$max_tokens" --log-format simple |
    fairtale log validation
[ -n "$judge" ] || exit 0

# The first row of the table is the perplexity of human-written stories, for comparison.
mkdir -p "$output"
head -n "$quantity" "$data_bin/text/$subset.txt" >"$output/$subset.txt"
files=("$output/$subset.txt")
for temperature in $temperatures; do
    for topk in $sampling_topks; do
        file=$output/temperature-$temperature-topk-$topk.txt
        bash "$ROOT/scripts/story_tinystories/generate.sh" --checkpoint "$checkpoint" \
            --data-bin "$data_bin" --temperature "$temperature" --sampling-topk "$topk" \
            --quantity "$quantity" --output "$file"
        files+=("$file")
    done
done
fairtale perplexity "${files[@]}" --model "$judge" --table
