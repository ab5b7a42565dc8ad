#!/usr/bin/env bash
# Let a model answer: the dialogs of the test set, or those of a file.
#
#   --model NAME         gpt, unilm, mixture or nat (mixture, or the environment's MODEL)
#   --checkpoint FILE    (runs/dialog_amazon_qa/NAME/checkpoint_best.pt)
#   --data-bin DIR       (data-bin/dialog_amazon_qa)
#   --subset NAME        valid or test (test)
#   --beam N, --nbest N  (5, 1)
#   --output FILE        what fairseq-generate says (outputs/dialog_amazon_qa/NAME.SUBSET.out)
#   --input FILE         instead: dialogs, one a line, turns separated by tabs, the query last;
#                        replies go to standard output, one a line (nbest a line, the best first)
#   anything else        goes to fairseq, e.g. --sampling --sampling-topp 0.9 or --no-repeat-ngram-size 3
set -euo pipefail
EXPERIMENT=dialog_amazon_qa
# shellcheck source=scripts/lib/dialog.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/dialog.sh"
case " $* " in *" -h "* | *" --help "*) usage "${BASH_SOURCE[0]}" && exit 0 ;; esac
takes="--model --checkpoint --data-bin --subset --beam --nbest --input --output"
decode_options "$@"
if [ -n "$input" ]; then
    answer_input
else
    output=${output:-$outputs/$model.$subset.out}
    generate_subset
    score_output
fi
