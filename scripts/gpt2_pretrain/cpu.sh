#!/usr/bin/env bash
# Pretrain a small GPT on a CPU core in a quarter of an hour: prepare the documents, train, print validation
# perplexity and accuracy. A further run resumes. scripts/gpt2_conversation/cpu.sh goes on from its model.
#
#   cpu.sh SOURCE...    folders of texts, JSON lines or databases, or mongo:CONFIG.json
#
# 4 layers of 128, 0.4M tokens in 375 updates of 1,024 = 1 x 1,024 x 1 tokens. The other options are those
# of train.sh; the options below take precedence.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

case ${1:-} in '' | -*) show_help && exit 2 ;; esac
scripts=$ROOT/scripts/$EXPERIMENT
data_bin=$ROOT/data-bin/pretrain_cpu run=$ROOT/runs/pretrain_cpu

bash "$scripts/prepare.sh" --source "$@" --data-bin "$data_bin" --vocab-size 4000 --valid 0.05

N_GPUS=0 attend bash "$scripts/train.sh" --arch gpt_tiny --data-bin "$data_bin" --save-dir "$run" \
    --tokens-per-sample 64 --max-tokens 1024 --update-tokens 1024 --precision fp32 --lr 3e-3 \
    --warmup-updates 50 --total-num-update 500 --max-update 375 \
    --validate-interval-updates 125 --save-interval-updates 125

bash "$scripts/evaluate.sh" --data-bin "$data_bin" --checkpoint "$run/checkpoint_best.pt" --cpu
