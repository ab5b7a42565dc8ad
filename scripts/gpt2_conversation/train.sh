#!/usr/bin/env bash
# Fine-tune a pretrained GPT on questions and answers, with the loss on the answers only. A further run
# resumes from the last checkpoint.
#
#   --base FILE            the pretrained checkpoint (runs/gpt2_pretrain/checkpoint_best.pt)
#   --echo-query-prob A    train with probability A on the question as its own answer (0)
#   --data-bin DIR         data from prepare.sh (data-bin/gpt2_conversation)
#   --save-dir DIR         folder for checkpoints, train.log, tensorboard/ (runs/gpt2_conversation)
#   --max-tokens N         tokens of one batch on one device (GPU 8192, CPU 2048)
#   --update-tokens N      tokens of one update on all devices together (16384)
#   --precision P          fp32, bf16, fp16, or auto for the fastest on the device (auto)
#   anything else          is passed to fairseq-train and takes precedence over the options below
#   N_GPUS=2 train.sh      number of GPUs (all that torch sees); 0 trains on the CPU
#
# An update has GPUs x max-tokens x update-freq tokens: 16,384 = 1 x 8,192 x 2 = 2 x 8,192 x 1. Shape,
# dropout and number of positions are those of the pretrained model. The learning rate and the number of
# updates are ours; the other values are those of pretraining.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

base=$ROOT/runs/gpt2_pretrain/checkpoint_best.pt echo_query_prob=0
data_bin=$ROOT/data-bin/gpt2_conversation save_dir=$ROOT/runs/gpt2_conversation
max_tokens='' update_tokens=16384 precision=auto
options "base echo-query-prob data-bin save-dir max-tokens update-tokens precision" '' "$@"
[ -f "$base" ] || die "--base $base: no such checkpoint; make it with scripts/gpt2_pretrain/train.sh"
[ -e "${data_bin%%:*}/dict.txt" ] || die "$data_bin holds no training data; make it with prepare.sh"

mkdir -p "$save_dir"
train "$save_dir" --max-tokens "${max_tokens:-8192}" --update-tokens "$update_tokens" \
    --cpu-max-tokens "${max_tokens:-2048}" --precision "$precision" --width 768 \
    fairseq-train "$data_bin" --user-dir "$USER_DIR" --task dialog_lm --finetune-from-model "$base" \
    --response-only --echo-query-prob "$echo_query_prob" \
    --criterion label_smoothed_kl --loss-average samples --report-accuracy \
    --optimizer adam --adam-betas '(0.95, 0.999)' --weight-decay 0.01 --clip-norm 0.25 --lr 1e-4 \
    --lr-scheduler polynomial_decay --warmup-updates 500 --total-num-update 20000 --max-update 20000 \
    --validate-interval-updates 1000 --save-interval-updates 1000 --keep-interval-updates 1 \
    --no-epoch-checkpoints --validate-interval 1000000 --log-format json --log-interval 50 \
    --tensorboard-logdir "$save_dir/tensorboard" --save-dir "$save_dir" \
    ${extra[@]+"${extra[@]}"}
trained "$save_dir"
