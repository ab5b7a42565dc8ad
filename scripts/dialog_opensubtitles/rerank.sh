#!/usr/bin/env bash
# Re-rank replies by mutual information: N candidates of a model, each scored with
# (1 - W) log P(reply | dialog) + W log P(query | reply).
#
#   --reverse FILE       model of P(query | reply) (runs/EXPERIMENT/reverse/checkpoint_best.pt;
#                        trained by train.sh --model reverse)
#   --weight W           0 keeps the order, 1 uses only the reverse model (0.5)
#   --nbest N            candidates for each dialog (10)
#   --beam N             beam size (the value of --nbest)
#   --model NAME, --checkpoint FILE, --data-bin DIR, --subset NAME    as in generate.sh
#   --output FILE        (outputs/EXPERIMENT/NAME.SUBSET.mmi-W.out)
#   anything else        is passed to fairseq-generate
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

data_bin=$ROOT/data-bin/$EXPERIMENT runs=$ROOT/runs/$EXPERIMENT
model=${MODEL:-mixture} checkpoint='' subset=test beam='' nbest=10 output=''
reverse=$runs/reverse/checkpoint_best.pt weight=0.5
options "model checkpoint data-bin subset beam nbest output reverse weight" \
    "models input runs outputs" "$@"
checkpoint=${checkpoint:-$runs/$model/checkpoint_best.pt}
output=${output:-$ROOT/outputs/$EXPERIMENT/$model.$subset.mmi-$weight.out}
references=$data_bin/text/$subset.tsv
[ -f "$data_bin/dict.txt" ] || die "$data_bin: no such data; make it with prepare.sh"
need_checkpoint "$reverse"
need_checkpoint "$checkpoint"

mkdir -p "$(dirname "$output")"
say "generating replies to $subset with $checkpoint"
fairseq-generate "$data_bin" --user-dir "$USER_DIR" --path "$checkpoint" \
    --gen-subset "$subset" --beam "${beam:-$nbest}" --nbest "$nbest" --max-len-b 64 \
    --max-tokens 8192 --mmi-path "$reverse" --mmi-weight "$weight" \
    ${extra[@]+"${extra[@]}"} >"$output.partial" || failed "$output.partial"
mv "$output.partial" "$output"
say "output of fairseq-generate: $output"
[ -f "$references" ] || die "$references: no such file, so there are no references"
fairtale score-dialog "$output" "$references"
