#!/usr/bin/env bash
# Fine-tune the small model of scripts/gpt2_pretrain/cpu.sh on questions and answers in a quarter of an hour
# on a CPU core, print the scores of its answers, and answer some questions. A further run resumes.
#
#   cpu.sh SOURCE...    files or folders of questions and answers (see prepare.sh)
#
# 1,500 updates of 512 = 1 x 512 x 1 tokens. The other options are those of train.sh; the options below
# take precedence.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

case ${1:-} in '' | -*) show_help && exit 2 ;; esac
scripts=$ROOT/scripts/$EXPERIMENT base=$ROOT/runs/pretrain_cpu/checkpoint_best.pt
data_bin=$ROOT/data-bin/conversation_cpu run=$ROOT/runs/conversation_cpu
[ -f "$base" ] || die "$base: no such checkpoint; make it with scripts/gpt2_pretrain/cpu.sh"

sources=()
for path in "$@"; do sources+=(--source "$path"); done
bash "$scripts/prepare.sh" "${sources[@]}" --tokenizer "$ROOT/data-bin/pretrain_cpu" \
    --data-bin "$data_bin" --valid 0.02 --test 0.02

N_GPUS=0 attend bash "$scripts/train.sh" --base "$base" --data-bin "$data_bin" --save-dir "$run" \
    --max-source-positions 64 --max-tokens 512 --update-tokens 512 \
    --precision fp32 --lr 2e-3 --warmup-updates 50 --total-num-update 1500 --max-update 1500 \
    --validate-interval-updates 250 --save-interval-updates 250

bash "$scripts/evaluate.sh" --data-bin "$data_bin" --checkpoint "$run/checkpoint_best.pt" --beam 4 \
    --output "$ROOT/outputs/conversation_cpu/test.out" --max-len-b 40 --cpu
head -n 10 "$data_bin/text/test.tsv" | cut -f 1 >"$run/questions.txt"
bash "$scripts/generate.sh" --data-bin "$data_bin" --checkpoint "$run/checkpoint_best.pt" \
    --input "$run/questions.txt" --beam 4 --max-len-b 40 --cpu | paste "$run/questions.txt" -
