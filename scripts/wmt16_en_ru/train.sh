#!/usr/bin/env bash
# Train a translation model. A further run resumes from the last checkpoint. At the end, the last five
# checkpoints are averaged into checkpoint_average.pt.
#
#   --model NAME         base (6 + 6 layers of 512), small (2 + 2) or tiny (for a trial) (base)
#   --data-bin DIR       data from prepare.sh (data-bin/wmt16_en_ru)
#   --save-dir DIR       folder for checkpoints, train.log, tensorboard/ (runs/wmt16_en_ru/NAME)
#   --max-tokens N       tokens of one batch on one device (GPU 8192, CPU 2048)
#   --update-tokens N    tokens of one update on all devices together (GPU 24576, CPU 4096)
#   --precision P        fp32, bf16, fp16, or auto for the fastest on the device (auto)
#   --average N          number of checkpoints to average; 0 averages none (5)
#   anything else        is passed to fairseq-train and takes precedence over the options below
#   N_GPUS=2 train.sh    number of GPUs (all that torch sees); 0 trains on the CPU
#
# An update has GPUs x max-tokens x update-freq tokens of the longer side, including padding. The
# published base model has 25,000: 24,576 = 1 x 8,192 x 3 = 3 x 8,192 x 1. On a CPU an update has
# 4,096 = 1 x 2,048 x 2. In Noam's schedule with width 512, the learning rate rises to
# 512^-0.5 x 4000^-0.5 = 7e-4 and then falls with the inverse square root of the updates.
set -euo pipefail
# shellcheck source=scripts/lib/translation.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/translation.sh"

data_bin=$ROOT/data-bin/wmt16_en_ru
model=base save_dir='' max_tokens='' update_tokens='' precision=auto average=5
options "model data-bin save-dir max-tokens update-tokens precision average" '' "$@"
save_dir=${save_dir:-$ROOT/runs/wmt16_en_ru/$model}
need_data "$data_bin"
case $model in
    base) layers=6 width=512 ffn=2048 heads=8 ;;
    small) layers=2 width=512 ffn=2048 heads=8 ;;
    tiny) layers=1 width=32 ffn=64 heads=4 ;; # for a trial
    *) die "--model $model: base, small or tiny" ;;
esac
embeddings=$(shared_embeddings "$data_bin")
# The best checkpoint is the one with the best BLEU, if BLEU is computed.
best=(--best-checkpoint-metric bleu --maximize-best-checkpoint-metric)
case " ${extra[*]-} " in *" --eval-bleu-sentences 0 "*) best=() ;; esac

# The large --validate-interval, in epochs, disables the validation at the end of an epoch.
mkdir -p "$save_dir"
train "$save_dir" --max-tokens "${max_tokens:-8192}" --update-tokens "${update_tokens:-24576}" \
    --cpu-max-tokens "${max_tokens:-2048}" --cpu-update-tokens "${update_tokens:-4096}" \
    --precision "$precision" --width "$width" \
    fairseq-train "$data_bin" --user-dir "$USER_DIR" --task wmt16_translation --arch transformer \
    --encoder-layers "$layers" --encoder-embed-dim "$width" --encoder-ffn-embed-dim "$ffn" \
    --encoder-attention-heads "$heads" --decoder-layers "$layers" --decoder-embed-dim "$width" \
    --decoder-ffn-embed-dim "$ffn" --decoder-attention-heads "$heads" "$embeddings" \
    --required-batch-size-multiple 1 --criterion label_smoothed_kl --label-smoothing 0.1 \
    --dropout 0.1 --optimizer adam --adam-betas '(0.9, 0.98)' --lr 7e-4 \
    --lr-scheduler inverse_sqrt --warmup-updates 4000 --warmup-init-lr 1e-7 --max-update 100000 \
    --validate-interval-updates 1000 --save-interval-updates 1000 --keep-interval-updates 5 \
    --no-epoch-checkpoints --validate-interval 1000000 --log-format json --log-interval 50 \
    --tensorboard-logdir "$save_dir/tensorboard" --save-dir "$save_dir" \
    ${best[@]+"${best[@]}"} ${extra[@]+"${extra[@]}"}
need_trained "$save_dir"
average_last "$save_dir" "$average"
say "trained: $save_dir (fairtale plot $save_dir draws its curves)"
