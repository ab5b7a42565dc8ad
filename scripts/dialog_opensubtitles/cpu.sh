#!/usr/bin/env bash
# Reproduce a small dialog model of the README on a CPU: prepare the data, train for a quarter of an hour
# on one core, print the scores of the test replies. A further run resumes.
#
#   cpu.sh MODEL SOURCE...    gpt, unilm, mixture or nat (see train.sh); files or folders of dialogs
#
# 4 layers of 128, 4.9M tokens in 1,200 updates of 4,096 = 1 x 4,096 x 1 tokens. The other options
# are those of train.sh; the options below take precedence.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

search=(--beam 4 --no-repeat-ngram-size 3)
case ${1:-} in
    gpt) arch=gpt_tiny ;;
    unilm | mixture) arch=unilm_seq2seq_tiny ;;
    nat) arch=mask_predict_tiny search=(--beam 1 --iter-decode-max-iter 3) ;; # four passes
    *) show_help && exit 2 ;;
esac
model=$1 && shift
[ $# -gt 0 ] || die "give a file or folder of dialogs; see --help"
scripts=$ROOT/scripts/$EXPERIMENT
data_bin=$ROOT/data-bin/dialog_cpu runs=$ROOT/runs/dialog_cpu

sources=()
for path in "$@"; do sources+=(--source "$path"); done
bash "$scripts/prepare.sh" "${sources[@]}" --data-bin "$data_bin" --vocab-size 4000 \
    --valid 0.01 --test 0.01

N_GPUS=0 attend bash "$scripts/train.sh" --model "$model" --arch "$arch" --data-bin "$data_bin" \
    --save-dir "$runs/$model" --precision fp32 --lr 2e-3 --warmup-updates 60 --max-update 1200 \
    --validate-interval-updates 2000 --save-interval-updates 2000

bash "$scripts/evaluate.sh" --models "$model" --data-bin "$data_bin" --runs "$runs" \
    --outputs "$ROOT/outputs/dialog_cpu" --max-len-b 40 --cpu "${search[@]}"
