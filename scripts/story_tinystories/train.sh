#!/usr/bin/env bash
# Train a story model. A further run resumes from the last checkpoint.
#
#   --data-bin DIR         data from prepare.sh (data-bin/story_tinystories)
#   --save-dir DIR         folder for checkpoints, train.log, tensorboard/ (runs/story_tinystories)
#   --arch NAME            gpt_tiny, gpt_story_24m, gpt_112m, ... (gpt_story_24m)
#   --max-tokens N         tokens of one batch on one device (GPU 16384, CPU 2048)
#   --update-tokens N      tokens of one update on all devices together (GPU 131072, CPU 8192)
#   --precision P          fp32, bf16, fp16, or auto for the fastest on the device (auto)
#   anything else          is passed to fairseq-train and takes precedence over the options below
#   N_GPUS=2 train.sh      number of GPUs (all that torch sees); 0 trains on the CPU
#
# An update has GPUs x max-tokens x update-freq tokens. The published recipe has 512 stories of 256
# tokens: 131,072 = 1 x 16,384 x 8 = 8 x 16,384 x 1. On a CPU such an update would take minutes, so
# there it has 8,192 = 1 x 2,048 x 4 tokens.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

data_bin=$ROOT/data-bin/story_tinystories save_dir=$ROOT/runs/story_tinystories
arch=gpt_story_24m max_tokens='' update_tokens='' precision=auto
options "data-bin save-dir arch max-tokens update-tokens precision" '' "$@"
[ -f "$data_bin/train.idx" ] || die "$data_bin holds no training data; make it with prepare.sh"

# The learning rate is multiplied by 0.3 after ten validations without improvement, and training ends
# when it falls below 1e-6. A warm-up therefore has to begin above this rate.
# The large --validate-interval, in epochs, disables the validation at the end of an epoch.
mkdir -p "$save_dir"
train "$save_dir" --max-tokens "${max_tokens:-16384}" --update-tokens "${update_tokens:-131072}" \
    --cpu-max-tokens "${max_tokens:-2048}" --cpu-update-tokens "${update_tokens:-8192}" \
    --precision "$precision" --width 512 \
    fairseq-train "$data_bin" --user-dir "$USER_DIR" --task story_lm --tokens-per-sample 256 \
    --arch "$arch" --criterion label_smoothed_kl --required-batch-size-multiple 1 \
    --optimizer adam --adam-betas '(0.9, 0.95)' --lr 3e-4 --clip-norm 1.0 \
    --lr-scheduler reduce_lr_on_validation --lr-shrink 0.3 --lr-patience 10 --stop-min-lr 1e-6 \
    --warmup-init-lr 1e-5 --max-update 100000 \
    --validate-interval-updates 1000 --save-interval-updates 1000 --keep-interval-updates 1 \
    --no-epoch-checkpoints --validate-interval 1000000 --sample-prompts "Once upon a time" \
    --log-format json --log-interval 50 --tensorboard-logdir "$save_dir/tensorboard" \
    --save-dir "$save_dir" ${extra[@]+"${extra[@]}"}

case " ${extra[*]-} " in *" --no-save "*) exit 0 ;; esac
trained "$save_dir"
