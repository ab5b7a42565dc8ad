#!/usr/bin/env bash
# Prune the model of cpu.sh, as reported in the README and in docs/pruning.md: fine-tune it with gates
# on the encoder's heads while the decoder is frozen, fix the gates, let the model recover, remove the
# closed heads, print BLEU and chrF2.
#
#   cpu_prune.sh HEADS    number of the encoder's 24 heads to keep
#
# 600 updates of 4,096 = 1 x 4,096 x 1 tokens; gates are fixed after 480. The other
# options are those of prune.sh; the options below take precedence.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

case ${1:-} in '' | *[!0-9]*) show_help && exit 2 ;; esac
scripts=$ROOT/scripts/$EXPERIMENT
data_bin=$ROOT/data-bin/wmt16_cpu run=$ROOT/runs/wmt16_cpu/prune_$1

N_GPUS=0 attend bash "$scripts/prune.sh" --checkpoint "$ROOT/runs/wmt16_cpu/base/checkpoint_last.pt" \
    --heads "$1" --updates 600 --fix-update 480 --data-bin "$data_bin" --save-dir "$run" \
    --max-tokens 4096 --update-tokens 4096 \
    --l0-warmup-updates 100 --gate-lr-scale 128 --lr 1e-3 --warmup-updates 200

subsets=()
grep -q '^test' "$data_bin/text/names.txt" || subsets=(--subsets valid)
bash "$scripts/evaluate.sh" --data-bin "$data_bin" --checkpoint "$run/pruned.pt" \
    --output "$ROOT/outputs/wmt16_cpu/prune_$1" ${subsets[@]+"${subsets[@]}"} --cpu
