#!/usr/bin/env bash
# Fine-tune a pretrained GPT. A further run resumes from the last checkpoint.
#
#   --setting NAME         what is trained (all):
#                            all          all layers
#                            last1 ...    the last layer, last two, last three, ...
#                            gradual      all layers in the end: the last group of layers first, the
#                                         others one by one, with rates that fall from group to group
#                            adapters     low-rank adapters of rank 8 in every layer
#   --base FILE            the pretrained checkpoint (models/rugpt3small/checkpoint.pt)
#   --data-bin DIR         data from prepare.sh (data-bin/finetune_rugpt3)
#   --save-dir DIR         folder for checkpoints, train.log, tensorboard/ (runs/finetune_rugpt3/NAME)
#   --updates N            number of updates (1000)
#   --lr R                 learning rate of all layers (1e-4); lastN and adapters have six times as much
#   --tokens-per-sample N  length of a block, at most the model's number of positions (1024)
#   --max-tokens N         tokens of one batch on one device (GPU 8192, CPU 2048)
#   --update-tokens N      tokens of one update on all devices together (32768)
#   --precision P          fp32, bf16, fp16, or auto for the fastest on the device (auto)
#   anything else          is passed to fairseq-train and takes precedence over the options below
#   N_GPUS=2 train.sh      number of GPUs (all that torch sees); 0 trains on the CPU
#
# An update has GPUs x max-tokens x update-freq tokens: 32,768 = 1 x 8,192 x 4 = 4 x 8,192 x 1.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

base=$ROOT/models/rugpt3small/checkpoint.pt data_bin=$ROOT/data-bin/finetune_rugpt3 precision=auto
setting=all save_dir='' updates=1000 lr=1e-4 tokens_per_sample=1024 max_tokens='' update_tokens=32768
options "setting base data-bin save-dir updates lr tokens-per-sample max-tokens update-tokens precision" \
    '' "$@"
[ -f "$base" ] || die "--base $base: no such checkpoint; make it with: fairtale gpt2 import"
[ -f "$data_bin/train.idx" ] || die "$data_bin holds no training data; make it with prepare.sh"
need_count --updates "$updates"
case $lr in '' | *[!0-9.eE+-]* | [!0-9.]*) die "--lr $lr: must be a number" ;; esac

case $setting in last[1-9] | adapters) lr=$(awk "BEGIN { print 6 * $lr }") ;; esac
case $setting in
    all) choice=() ;;
    last[1-9]) choice=(--freeze-all-but-last "${setting#last}") ;;
    gradual) choice=(--finetune-groups 4 --lr-decay-per-group 0.5
        --unfreeze-schedule "every:$((updates / 8))") ;;
    adapters) choice=(--lora-rank 8 --lora-alpha 16 --lora-target "qkv,out,fc1,fc2") ;;
    *) die "--setting $setting: must be all, last1 to last9, gradual or adapters" ;;
esac

mkdir -p "${save_dir:=$ROOT/runs/finetune_rugpt3/$setting}"
train "$save_dir" --max-tokens "${max_tokens:-8192}" --update-tokens "$update_tokens" \
    --cpu-max-tokens "${max_tokens:-2048}" --cpu-update-tokens "$update_tokens" \
    --precision "$precision" --width 768 \
    fairseq-train "$data_bin" --user-dir "$USER_DIR" --finetune-from-model "$base" \
    --tokens-per-sample "$tokens_per_sample" --sample-break-mode split --pack \
    --criterion label_smoothed_kl --required-batch-size-multiple 1 \
    --optimizer adam --adam-betas '(0.9, 0.95)' --weight-decay 0.01 --clip-norm 1.0 --lr "$lr" \
    --lr-scheduler slanted_triangular --warmup-ratio 0.1 --max-update "$updates" \
    --validate-interval-updates $((updates / 4)) --save-interval-updates $((updates / 4)) \
    --keep-interval-updates 1 --no-epoch-checkpoints --validate-interval 1000000 \
    --log-format json --log-interval 50 --tensorboard-logdir "$save_dir/tensorboard" \
    --save-dir "$save_dir" ${choice[@]+"${choice[@]}"} ${extra[@]+"${extra[@]}"}
trained "$save_dir"
