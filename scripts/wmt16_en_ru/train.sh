#!/usr/bin/env bash
# Train a translation model; running it again goes on from the last checkpoint. At the end the last
# five checkpoints are averaged into checkpoint_average.pt.
#
#   --model NAME         base: 6 + 6 layers of 512; small: 2 + 2; tiny: to try it (base)
#   --data-bin DIR       from prepare.sh (data-bin/wmt16_en_ru)
#   --save-dir DIR       checkpoints, train.log, tensorboard/ (runs/wmt16_en_ru/NAME)
#   --max-tokens N       tokens of one batch on one device (GPU 8192, CPU 2048)
#   --update-tokens N    tokens of one update, all devices together (GPU 24576, CPU 4096)
#   --average N          checkpoints to average; 0: none (5)
#   anything else        goes to fairseq-train and wins over what is set below
#   N_GPUS=2 train.sh    how many GPUs (all that torch sees); 0 trains on the CPU
#
# An update is GPUs x max-tokens x update-freq tokens of the longer side, padding included. The
# published base model takes 25,000: 24,576 = 1 x 8,192 x 3 = 3 x 8,192 x 1. On the CPU it is
# 4,096 = 1 x 2,048 x 2.
set -euo pipefail
# shellcheck source=scripts/lib/translation.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/translation.sh"

model=base save_dir='' max_tokens='' update_tokens='' average=5 extra=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage "${BASH_SOURCE[0]}" && exit 0 ;;
        --model) need_value "$@" && model=$2 && shift 2 ;;
        --data-bin) need_value "$@" && data_bin=$2 && shift 2 ;;
        --save-dir) need_value "$@" && save_dir=$2 && shift 2 ;;
        --max-tokens) need_value "$@" && max_tokens=$2 && shift 2 ;;
        --update-tokens) need_value "$@" && update_tokens=$2 && shift 2 ;;
        --average) need_value "$@" && average=$2 && shift 2 ;;
        *) extra+=("$1") && shift ;;
    esac
done
need_data
model_shape "$model"
save_dir=${save_dir:-$runs/$model}

# The best checkpoint is that of the best BLEU, if it is measured.
best=(--best-checkpoint-metric bleu --maximize-best-checkpoint-metric)
case " ${extra[*]-} " in *" --eval-bleu-sentences 0 "*) best=() ;; esac
# Noam's schedule with 512 channels: the rate grows to 512^-0.5 x 4000^-0.5 = 7e-4 and then falls
# with the square root of the updates.
train_translation --arch transformer --criterion label_smoothed_kl --lr 7e-4 \
    --warmup-updates 4000 --warmup-init-lr 1e-7 --max-update 100000 \
    ${best[@]+"${best[@]}"} ${extra[@]+"${extra[@]}"}
if [ "$average" -gt 0 ]; then
    kept=$(find "$save_dir" -name 'checkpoint_[0-9]*_[0-9]*.pt' | wc -l)
    [ "$((kept))" -ge 2 ] || die "$save_dir holds $((kept)) checkpoints to average; give --average 0"
    fairtale average "$save_dir" --last "$((kept < average ? kept : average))" \
        --output "$save_dir/checkpoint_average.pt"
fi
say "trained: $save_dir (fairtale plot $save_dir draws its curves)"
