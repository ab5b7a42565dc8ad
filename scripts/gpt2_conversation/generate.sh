#!/usr/bin/env bash
# Answer questions. The answers are printed, --nbest lines for each question.
#
#   --input FILE         one question a line, or the turns of a conversation separated by tabs (required)
#   --checkpoint FILE    checkpoint of the model (runs/gpt2_conversation/checkpoint_best.pt)
#   --data-bin DIR       folder with dictionary and tokenizer (data-bin/gpt2_conversation)
#   --beam N, --nbest N  beam size, and answers to each question (5, 1)
#   --max-len-b N        maximum number of tokens of an answer (64)
#   anything else        is passed to fairseq-interactive, e.g. --sampling --sampling-topp 0.9
#
# `fairtale chat CHECKPOINT` answers at a terminal.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

checkpoint=$ROOT/runs/gpt2_conversation/checkpoint_best.pt data_bin=$ROOT/data-bin/gpt2_conversation
input='' beam=5 nbest=1 max_len_b=64
options "input checkpoint data-bin beam nbest max-len-b" "output subset" "$@"
need_checkpoint "$checkpoint"
[ -s "$input" ] || die "--input $input: give a file with one question a line"
work=$(mktemp -d) && log=$work/log
trap 'rm -r "$work"' EXIT
plain_lines <"$input" >"$work/input"
blank=$(awk -F'\t' '$NF !~ /[^[:space:]]/ { print NR; exit }' "$work/input")
[ -z "$blank" ] || die "--input $input: line $blank has an empty last turn, so there is no question"

fairseq-interactive "$data_bin" --user-dir "$USER_DIR" --task dialog_lm --path "$checkpoint" \
    --input "$work/input" --buffer-size 1024 --batch-size 32 --beam "$beam" --nbest "$nbest" \
    --max-len-b "$max_len_b" ${extra[@]+"${extra[@]}"} >"$log" || failed "$log"
fairtale log outputs "$log"
