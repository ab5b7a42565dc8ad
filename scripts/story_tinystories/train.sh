#!/usr/bin/env bash
# Train a story model; running it again goes on from the last checkpoint.
#
#   --data-bin DIR         from prepare.sh (data-bin/story_tinystories)
#   --save-dir DIR         checkpoints, train.log, tensorboard/ (runs/story_tinystories)
#   --arch NAME            gpt_tiny, gpt_story_24m, gpt_112m, ... (gpt_story_24m)
#   --max-tokens N         tokens of one batch on one device (GPU 16384, CPU 2048)
#   --update-tokens N      tokens of one update, all devices together (GPU 131072, CPU 8192)
#   anything else          goes to fairseq-train and wins over what is set below
#   N_GPUS=2 train.sh      how many GPUs (all that torch sees); 0 trains on the CPU
#
# An update is GPUs x max-tokens x update-freq tokens. The published recipe takes 512 stories of
# 256 tokens: 131,072 = 1 x 16,384 x 8 = 8 x 16,384 x 1. Without a GPU that would take minutes an
# update, so there it is 8,192 = 1 x 2,048 x 4.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

data_bin=$ROOT/data-bin/story_tinystories save_dir=$ROOT/runs/story_tinystories
arch=gpt_story_24m max_tokens='' update_tokens='' extra=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage "${BASH_SOURCE[0]}" && exit 0 ;;
        --data-bin) need_value "$@" && data_bin=$2 && shift 2 ;;
        --save-dir) need_value "$@" && save_dir=$2 && shift 2 ;;
        --arch) need_value "$@" && arch=$2 && shift 2 ;;
        --max-tokens) need_value "$@" && max_tokens=$2 && shift 2 ;;
        --update-tokens) need_value "$@" && update_tokens=$2 && shift 2 ;;
        *) extra+=("$1") && shift ;;
    esac
done
[ -f "$data_bin/train.idx" ] || die "$data_bin holds no training data; make it with prepare.sh"

read -r gpus precision <<<"$(find_gpus)"
gpus=${N_GPUS:-$gpus}
launch=(fairseq-train) device=()
if [ "$gpus" = 0 ]; then
    device=(--cpu)
    max_tokens=${max_tokens:-2048} update_tokens=${update_tokens:-8192}
else
    [ -z "$precision" ] || device=("$precision")
    max_tokens=${max_tokens:-16384} update_tokens=${update_tokens:-131072}
    [ "$gpus" = 1 ] || launch=(torchrun --standalone --nproc-per-node "$gpus" "$BIN/fairseq-train")
fi
devices=$((gpus > 0 ? gpus : 1))
update_freq=$(((update_tokens + devices * max_tokens - 1) / (devices * max_tokens)))
say "an update: $devices x $max_tokens x $update_freq = $((devices * max_tokens * update_freq)) tokens"

# The rate falls to 0.3 of itself after ten validations without gain; below 10^-6 training ends.
# A warm-up, if one is added, begins above that and not at 0, which would end it at once.
# --validate-interval counts epochs: it validates every 1,000 updates and not also where one ends.
mkdir -p "$save_dir"
"${launch[@]}" "$data_bin" --user-dir "$USER_DIR" --task story_lm --tokens-per-sample 256 \
    --arch "$arch" --criterion label_smoothed_kl "${device[@]}" \
    --max-tokens "$max_tokens" --update-freq "$update_freq" --required-batch-size-multiple 1 \
    --optimizer adam --adam-betas '(0.9, 0.95)' --lr 3e-4 --clip-norm 1.0 \
    --lr-scheduler reduce_lr_on_validation --lr-shrink 0.3 --lr-patience 10 --stop-min-lr 1e-6 \
    --warmup-init-lr 1e-5 \
    --validate-interval-updates 1000 --save-interval-updates 1000 --keep-interval-updates 1 \
    --no-epoch-checkpoints --validate-interval 1000000 --max-update 100000 --sample-prompts "Once upon a time" \
    --log-format json --log-interval 50 --tensorboard-logdir "$save_dir/tensorboard" \
    --save-dir "$save_dir" ${extra[@]+"${extra[@]}"} 2>&1 | tee -a "$save_dir/train.log"

case " ${extra[*]-} " in *" --no-save "*) exit 0 ;; esac
[ -f "$save_dir/checkpoint_last.pt" ] || die "no checkpoint was written; see $save_dir/train.log"
# The last of the checkpoints in between equals checkpoint_last.pt.
rm -f "$save_dir"/checkpoint_[0-9]*_[0-9]*.pt
say "trained: $save_dir (fairtale plot $save_dir draws its curves)"
