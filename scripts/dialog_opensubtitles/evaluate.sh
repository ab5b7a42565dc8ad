#!/usr/bin/env bash
# Compare models: loss of the responses, then BLEU, chrF, distinct-1/2, length and F1 of the replies.
#
#   --models "A B"       of runs/dialog_opensubtitles ("gpt unilm mixture"); those not trained are skipped
#   --data-bin DIR       (data-bin/dialog_opensubtitles)
#   --subset NAME        valid or test (test)
#   --beam N             (5)
#   anything else        goes to fairseq-generate
set -euo pipefail
EXPERIMENT=dialog_opensubtitles
# shellcheck source=scripts/lib/dialog.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/dialog.sh"
case " $* " in *" -h "* | *" --help "*) usage "${BASH_SOURCE[0]}" && exit 0 ;; esac
decode_options "$@"
evaluate_models
