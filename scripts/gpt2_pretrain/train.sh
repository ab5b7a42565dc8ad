#!/usr/bin/env bash
# Pretrain a GPT on documents. The same command goes on from the last checkpoint, also after a crash.
#
#   --arch NAME            gpt_112m, gpt_112m_half or gpt_345m (gpt_112m)
#   --data-bin DIR         data from prepare.sh; several folders are joined by ':' (data-bin/gpt2_pretrain)
#   --save-dir DIR         folder for checkpoints, train.log, tensorboard/ (runs/gpt2_pretrain)
#   --from-checkpoint N    go on from the checkpoint after N updates instead of the last one; later ones
#                          are moved to a subfolder. Leave it out to go on from there after a crash
#   --tokens-per-sample N  length of a block (1024)
#   --max-tokens N         tokens of one batch on one device (GPU 8192, CPU 2048)
#   --update-tokens N      tokens of one update on all devices together (65536)
#   --precision P          fp32, bf16, fp16, or auto for the fastest on the device (auto)
#   anything else          is passed to fairseq-train and takes precedence over the options below, e.g.
#                          --wandb-project NAME, --restore-file FILE, --compile, --ddp-backend NAME
#   N_GPUS=2 train.sh      number of GPUs (all that torch sees); 0 trains on the CPU
#
# An update has GPUs x max-tokens x update-freq tokens: 65,536 = 1 x 8,192 x 8 = 8 x 8,192 x 1.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

arch=gpt_112m data_bin=$ROOT/data-bin/gpt2_pretrain save_dir=$ROOT/runs/gpt2_pretrain
from_checkpoint='' tokens_per_sample=1024 max_tokens='' update_tokens=65536 precision=auto
options "arch data-bin save-dir from-checkpoint tokens-per-sample max-tokens update-tokens precision" \
    '' "$@"
[ -e "${data_bin%%:*}/dict.txt" ] || die "$data_bin holds no training data; make it with prepare.sh"
width=768 && [ "$arch" != gpt_345m ] || width=1024

mkdir -p "$save_dir"
[ -z "$from_checkpoint" ] || go_back "$save_dir" "$from_checkpoint"
train "$save_dir" --max-tokens "${max_tokens:-8192}" --update-tokens "$update_tokens" \
    --cpu-max-tokens "${max_tokens:-2048}" --precision "$precision" --width "$width" \
    fairseq-train "$data_bin" --user-dir "$USER_DIR" --task story_lm --arch "$arch" \
    --tokens-per-sample "$tokens_per_sample" --sample-break-mode split --pack \
    --criterion label_smoothed_kl --loss-average samples --report-accuracy \
    --required-batch-size-multiple 1 \
    --optimizer adam --adam-betas '(0.95, 0.999)' --weight-decay 0.01 --clip-norm 0.25 --lr 3.5e-4 \
    --lr-scheduler polynomial_decay --warmup-updates 1000 --total-num-update 300000 --max-update 300000 \
    --validate-interval-updates 5000 --save-interval-updates 5000 --keep-interval-updates 5 \
    --no-epoch-checkpoints --validate-interval 1000000 --log-format json --log-interval 100 \
    --tensorboard-logdir "$save_dir/tensorboard" --save-dir "$save_dir" \
    ${extra[@]+"${extra[@]}"}
need_trained "$save_dir"
say "trained: $save_dir (fairtale plot $save_dir draws its curves)"
