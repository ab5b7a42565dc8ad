#!/usr/bin/env bash
# Reproduce the small story model of the README on a CPU: prepare the data, train for about ten minutes
# on two cores, print validation perplexity and bits per byte. A further run resumes.
#
#   cpu.sh SOURCE...    files or folders of stories
#
# 4 layers of 256, 11M tokens in 900 updates of 4,096 = 1 x 4,096 x 1 tokens. The other options
# are those of train.sh; the options below take precedence.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

case ${1:-} in '' | -*) show_help && exit 2 ;; esac
scripts=$ROOT/scripts/$EXPERIMENT
data_bin=$ROOT/data-bin/story_cpu run=$ROOT/runs/story_cpu

sources=()
for path in "$@"; do sources+=(--source "$path"); done
bash "$scripts/prepare.sh" "${sources[@]}" --data-bin "$data_bin" --vocab-size 5120 --valid 0.02

N_GPUS=0 attend bash "$scripts/train.sh" --data-bin "$data_bin" --save-dir "$run" \
    --max-tokens 4096 --update-tokens 4096 --pack \
    --decoder-layers 4 --decoder-embed-dim 256 --decoder-ffn-embed-dim 1024 \
    --decoder-attention-heads 4 --lr 2e-3 --warmup-updates 100 --lr-patience 1 --max-update 900 \
    --validate-interval-updates 150 --save-interval-updates 150

bash "$scripts/evaluate.sh" --data-bin "$data_bin" --checkpoint "$run/checkpoint_best.pt"
