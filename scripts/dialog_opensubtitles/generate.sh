#!/usr/bin/env bash
# Generate replies to the dialogs of the test set, or to those of a file.
#
#   --model NAME         gpt, unilm, mixture or nat (mixture, or the environment variable MODEL)
#   --checkpoint FILE    checkpoint of the model (runs/EXPERIMENT/NAME/checkpoint_best.pt)
#   --data-bin DIR       data from prepare.sh (data-bin/EXPERIMENT)
#   --subset NAME        valid or test (test)
#   --beam N, --nbest N  beam size, and replies for each dialog (5, 1)
#   --output FILE        output of fairseq-generate (outputs/EXPERIMENT/NAME.SUBSET.out)
#   --input FILE         a file of dialogs instead of a subset: one dialog a line, turns separated by
#                        tabs, the query last; the replies are printed, --nbest lines for each dialog
#   anything else        is passed to fairseq, e.g. --sampling --sampling-topp 0.9
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

data_bin=$ROOT/data-bin/$EXPERIMENT
model=${MODEL:-mixture} checkpoint='' subset=test beam=5 nbest=1 input='' output=''
options "model checkpoint data-bin subset beam nbest input output" \
    "models reverse weight runs outputs" "$@"
checkpoint=${checkpoint:-$ROOT/runs/$EXPERIMENT/$model/checkpoint_best.pt}
output=${output:-$ROOT/outputs/$EXPERIMENT/$model.$subset.out}
[ -f "$data_bin/dict.txt" ] || die "$data_bin: no such data; make it with prepare.sh"
need_checkpoint "$checkpoint"

if [ -n "$input" ]; then
    [ -s "$input" ] || die "--input $input: no such file, or an empty one"
    work=$(mktemp -d) && log=$work/log
    trap 'rm -r "$work"' EXIT
    plain_lines <"$input" >"$work/input"
    blank=$(awk -F'\t' '$NF !~ /[^[:space:]]/ { print NR; exit }' "$work/input")
    [ -z "$blank" ] || die "--input $input: line $blank has an empty last turn, so there is no query"
    fairseq-interactive "$data_bin" --user-dir "$USER_DIR" --path "$checkpoint" \
        --input - --buffer-size 1024 --batch-size 32 --beam "$beam" --nbest "$nbest" \
        --max-len-b 64 ${extra[@]+"${extra[@]}"} <"$work/input" >"$log" || failed "$log"
    fairtale log outputs "$log"
    exit 0
fi
references=$data_bin/text/$subset.tsv
mkdir -p "$(dirname "$output")"
say "generating replies to $subset with $checkpoint"
fairseq-generate "$data_bin" --user-dir "$USER_DIR" --path "$checkpoint" \
    --gen-subset "$subset" --beam "$beam" --nbest "$nbest" --max-len-b 64 --max-tokens 8192 \
    ${extra[@]+"${extra[@]}"} >"$output.partial" || failed "$output.partial"
mv "$output.partial" "$output"
say "output of fairseq-generate: $output"
[ -f "$references" ] || die "$references: no such file, so there are no references"
fairtale score-dialog "$output" "$references"
