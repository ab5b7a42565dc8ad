#!/usr/bin/env bash
# Reproduce the small en-ru model of the README on a CPU: prepare the data, train for about 70 minutes on
# one core, print BLEU and chrF2 of the test sets. A further run resumes. cpu_prune.sh prunes the model.
#
#   cpu.sh SOURCE... [--test PREFIX...]    prefixes of parallel texts PREFIX.en and PREFIX.ru
#
# 3 + 3 layers of 256, 12M tokens in 3,000 updates of 4,096 = 1 x 4,096 x 1 tokens. The other
# options are those of train.sh; the options below take precedence.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

case ${1:-} in '' | -*) show_help && exit 2 ;; esac
scripts=$ROOT/scripts/$EXPERIMENT
data_bin=$ROOT/data-bin/wmt16_cpu run=$ROOT/runs/wmt16_cpu/base

sources=() option=--source tests=no
for word in "$@"; do
    if [ "$word" = --test ]; then option=--test tests=yes; else sources+=("$option" "$word"); fi
done
bash "$scripts/prepare.sh" "${sources[@]}" --data-bin "$data_bin" --valid-size 1500 \
    --vocab-size 10000 --joint

N_GPUS=0 attend bash "$scripts/train.sh" --model small --data-bin "$data_bin" --save-dir "$run" --average 0 \
    --max-tokens 4096 --update-tokens 4096 \
    --encoder-layers 3 --encoder-embed-dim 256 --encoder-ffn-embed-dim 1024 \
    --decoder-layers 3 --decoder-embed-dim 256 --decoder-ffn-embed-dim 1024 \
    --lr 1.5e-3 --warmup-updates 800 --max-update 3000 --validate-interval-updates 600

subsets=()
[ "$tests" = yes ] || subsets=(--subsets valid)
bash "$scripts/evaluate.sh" --data-bin "$data_bin" --checkpoint "$run/checkpoint_last.pt" \
    --output "$ROOT/outputs/wmt16_cpu/base" ${subsets[@]+"${subsets[@]}"} --cpu
