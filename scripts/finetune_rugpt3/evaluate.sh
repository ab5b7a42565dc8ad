#!/usr/bin/env bash
# Print the validation perplexity of a model per token and per word, and its bits per byte.
#
#   --checkpoint FILE         checkpoint of the model (runs/finetune_rugpt3/all/checkpoint_last.pt)
#   --data-bin DIR            data from prepare.sh (data-bin/finetune_rugpt3)
#   --subset NAME             valid or test (valid)
#   --max-tokens N            tokens of a batch (8192)
#   anything else             is passed to fairseq-validate, e.g. --lora-adapter DIR
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

checkpoint=$ROOT/runs/finetune_rugpt3/all/checkpoint_last.pt
data_bin=$ROOT/data-bin/finetune_rugpt3 subset=valid max_tokens=8192
options "checkpoint data-bin subset max-tokens" '' "$@"
need_checkpoint "$checkpoint"

fairseq-validate "$data_bin" --user-dir "$USER_DIR" --task story_lm --path "$checkpoint" \
    --sample-break-mode split --valid-subset "$subset" --max-tokens "$max_tokens" \
    --log-format simple ${extra[@]+"${extra[@]}"} | fairtale log validation
