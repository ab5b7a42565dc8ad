#!/usr/bin/env bash
# Print the validation perplexity of a model per token and per word, its bits per byte, and the percentage
# of tokens that it predicts correctly.
#
#   --checkpoint FILE         checkpoint of the model (runs/gpt2_pretrain/checkpoint_best.pt)
#   --data-bin DIR            data from prepare.sh (data-bin/gpt2_pretrain)
#   --subset NAME             valid or test (valid)
#   --max-tokens N            tokens of a batch (8192)
#   anything else             is passed to fairseq-validate
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

checkpoint=$ROOT/runs/gpt2_pretrain/checkpoint_best.pt
data_bin=$ROOT/data-bin/gpt2_pretrain subset=valid max_tokens=8192
options "checkpoint data-bin subset max-tokens" '' "$@"
need_checkpoint "$checkpoint"

fairseq-validate "$data_bin" --user-dir "$USER_DIR" --task story_lm --path "$checkpoint" \
    --valid-subset "$subset" --max-tokens "$max_tokens" --log-format simple \
    ${extra[@]+"${extra[@]}"} | fairtale log validation
