#!/usr/bin/env bash
# Sample continuations of prompts from a pretrained model. The texts are printed; --output also writes them
# as JSON lines.
#
#   --prompts FILE            one prompt a line (required)
#   --num-samples N           samples of each prompt (3)
#   --sampling-topk K         sample from the K most probable tokens (50)
#   --sampling-topp P         or from the most probable tokens whose probabilities sum to P
#   --temperature T           divisor of the logits: below 1, probable tokens become more probable (0.8)
#   --max-len-b N             maximum number of tokens of a sample (120)
#   --checkpoint FILE         checkpoint of the model (runs/gpt2_pretrain/checkpoint_best.pt)
#   --data-bin DIR            folder with dictionary and tokenizer (data-bin/gpt2_pretrain)
#   --seed N                  random seed (1); the same seed gives the same samples
#   anything else             is passed to `fairtale sample`, e.g. --output FILE
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

checkpoint=$ROOT/runs/gpt2_pretrain/checkpoint_best.pt data_bin=$ROOT/data-bin/gpt2_pretrain prompts=''
num_samples=3 sampling_topk='' sampling_topp='' temperature=0.8 max_len_b=120 seed=1
options "prompts num-samples sampling-topk sampling-topp temperature max-len-b checkpoint data-bin seed" \
    '' "$@"
need_checkpoint "$checkpoint"
[ -s "$prompts" ] || die "--prompts $prompts: give a file with one prompt a line"
limit_sampling 50

exec_fairtale sample "$checkpoint" --data "$data_bin" --prompts "$prompts" \
    --num-samples "$num_samples" "${choice[@]}" --temperature "$temperature" \
    --max-len-b "$max_len_b" --seed "$seed" ${extra[@]+"${extra[@]}"}
