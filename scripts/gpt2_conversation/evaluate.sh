#!/usr/bin/env bash
# Print the perplexity and the accuracy of the answers, then BLEU, chrF, distinct-1/2, length in words and
# F1 of the model's own answers.
#
#   --checkpoint FILE    checkpoint of the model (runs/gpt2_conversation/checkpoint_best.pt)
#   --data-bin DIR       data from prepare.sh (data-bin/gpt2_conversation)
#   --subset NAME        valid or test (test)
#   --output FILE        output of fairseq-generate (outputs/gpt2_conversation/SUBSET.out)
#   --beam N             beam size (5)
#   --max-len-b N        maximum number of tokens of an answer (64)
#   --cpu, --fp16, --bf16, for both fairseq-validate and fairseq-generate
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

checkpoint=$ROOT/runs/gpt2_conversation/checkpoint_best.pt data_bin=$ROOT/data-bin/gpt2_conversation
subset=test output='' beam=5 max_len_b=64
options "checkpoint data-bin subset output beam max-len-b" "input nbest" "$@"
output=${output:-$ROOT/outputs/$EXPERIMENT/$subset.out} references=$data_bin/text/$subset.tsv
need_checkpoint "$checkpoint"
[ -f "$references" ] || die "$references: no such file, so there are no references"

mkdir -p "$(dirname "$output")"
fairseq-validate "$data_bin" --user-dir "$USER_DIR" --path "$checkpoint" --valid-subset "$subset" \
    --max-tokens 8192 --log-format simple ${extra[@]+"${extra[@]}"} | fairtale log validation
fairseq-generate "$data_bin" --user-dir "$USER_DIR" --path "$checkpoint" --gen-subset "$subset" \
    --beam "$beam" --nbest 1 --max-len-b "$max_len_b" --max-tokens 8192 \
    ${extra[@]+"${extra[@]}"} >"$output.partial" || failed "$output.partial"
mv "$output.partial" "$output"
fairtale score-dialog "$output" "$references"
