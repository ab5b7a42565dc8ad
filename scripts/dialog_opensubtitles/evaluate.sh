#!/usr/bin/env bash
# Compare models in one table: bits per response token under the model, then BLEU, chrF, distinct-1/2,
# length in words and F1 of its replies.
#
#   --models "A B"       ("gpt unilm mixture"); those that are not trained are skipped
#   --runs DIR           where they are, each in a folder of its name (runs/dialog_opensubtitles)
#   --outputs DIR        where their replies go (outputs/dialog_opensubtitles)
#   --data-bin DIR       (data-bin/dialog_opensubtitles)
#   --subset NAME        valid or test (test)
#   --beam N             (5)
#   anything else        goes to fairseq-generate
set -euo pipefail
EXPERIMENT=dialog_opensubtitles
# shellcheck source=scripts/lib/dialog.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/dialog.sh"
case " $* " in *" -h "* | *" --help "*) usage "${BASH_SOURCE[0]}" && exit 0 ;; esac
takes="--models --runs --outputs --data-bin --subset --beam"
decode_options "$@"
evaluate_models
