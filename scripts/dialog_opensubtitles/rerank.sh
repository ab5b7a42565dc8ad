#!/usr/bin/env bash
# Re-rank replies by mutual information: N candidates of a model, each scored with
# (1 - W) log P(reply | dialog) + W log P(query | reply).
#
#   --reverse FILE       model of the query (runs/dialog_opensubtitles/reverse/checkpoint_best.pt;
#                        train.sh --model reverse makes it)
#   --weight W           0 keeps the order, 1 asks the reverse model alone (0.5)
#   --nbest N            candidates (10)
#   --beam N             (as many as candidates)
#   --model NAME, --checkpoint FILE, --data-bin DIR, --subset NAME    as in generate.sh
#   --output FILE        (outputs/dialog_opensubtitles/NAME.SUBSET.mmi-W.out)
#   anything else        goes to fairseq-generate
set -euo pipefail
EXPERIMENT=dialog_opensubtitles
# shellcheck source=scripts/lib/dialog.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/dialog.sh"
case " $* " in *" -h "* | *" --help "*) usage "${BASH_SOURCE[0]}" && exit 0 ;; esac
takes="--model --checkpoint --data-bin --subset --beam --nbest --output --reverse --weight"
decode_options --nbest 10 --beam '' "$@"
beam=${beam:-$nbest}
reverse=${reverse:-$runs/reverse/checkpoint_best.pt}
need_checkpoint "$reverse"
output=${output:-$outputs/$model.$subset.mmi-$weight.out}
generate_subset --mmi-path "$reverse" --mmi-weight "$weight"
score_output
