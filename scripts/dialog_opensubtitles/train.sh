#!/usr/bin/env bash
# Train a dialog model. A further run resumes from the last checkpoint.
#
#   --model NAME         model to train (mixture, or the environment variable MODEL):
#                        gpt      causal model that predicts every token (gpt_112m)
#                        unilm    bidirectional attention in prefixes, predicts responses
#                        mixture  a quarter of the updates like unilm, the others like gpt
#                        reverse  like unilm, predicts the query from the response (rerank.sh)
#                        nat      mask-predict: all tokens of a reply at once, then the unsure ones anew
#   --data-bin DIR       data from prepare.sh (data-bin/EXPERIMENT)
#   --save-dir DIR       folder for checkpoints, train.log, tensorboard/ (runs/EXPERIMENT/NAME)
#   --update-tokens N    tokens of one update on all devices together (4096)
#   --max-tokens N       tokens of one batch on one device (update-tokens / devices)
#   --precision P        fp32, bf16, fp16, or auto for the fastest on the device (auto)
#   anything else        is passed to fairseq-train and takes precedence, e.g. --lr 1e-3
#   N_GPUS=2 train.sh    number of GPUs (all that torch sees); 0 trains on the CPU
#
# An update has 64 dialogs of 64 tokens: 4,096 = 1 GPU x 4,096 x 1 = 4 GPUs x 1,024 x 1. fairseq's adam
# decays weights like AdamW. The peak learning rate of 3e-4 is ours; the other values are those of the
# published recipe.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

data_bin=$ROOT/data-bin/$EXPERIMENT
model=${MODEL:-mixture} save_dir='' update_tokens=4096 max_tokens='' precision=auto
options "model data-bin save-dir max-tokens update-tokens precision" '' "$@"
kind=(--task dialog_lm --criterion label_smoothed_kl --use-kl)
case $model in # all models have 12 layers of width 768
    gpt) kind+=(--arch gpt_112m) ;;
    unilm) kind+=(--arch unilm_seq2seq_base --seq2seq-prob 1) ;;
    mixture) kind+=(--arch unilm_seq2seq_base --seq2seq-prob 0.25) ;;
    reverse) kind+=(--arch unilm_seq2seq_base --seq2seq-prob 1 --reverse) ;;
    nat) kind[1]=dialog_nat && kind+=(--arch mask_predict_base) ;;
    *) die "--model $model: gpt, unilm, mixture, reverse or nat" ;;
esac
save_dir=${save_dir:-$ROOT/runs/$EXPERIMENT/$model}
[ -f "$data_bin/train.idx" ] || die "$data_bin holds no training data; make it with prepare.sh"

# The large --validate-interval, in epochs, disables the validation at the end of an epoch.
mkdir -p "$save_dir"
train "$save_dir" --update-tokens "$update_tokens" ${max_tokens:+--max-tokens "$max_tokens"} \
    --precision "$precision" --width 768 \
    fairseq-train "$data_bin" --user-dir "$USER_DIR" "${kind[@]}" --label-smoothing 0.1 --dropout 0.1 \
    --optimizer adam --adam-betas '(0.9, 0.98)' --weight-decay 0.01 --clip-norm 2.5 \
    --lr 3e-4 --lr-scheduler inverse_sqrt --warmup-updates 4000 --max-update 200000 \
    --validate-interval-updates 2000 --save-interval-updates 2000 --keep-interval-updates 1 \
    --no-epoch-checkpoints --validate-interval 1000000 --log-format json --log-interval 50 \
    --tensorboard-logdir "$save_dir/tensorboard" --save-dir "$save_dir" \
    ${extra[@]+"${extra[@]}"}
trained "$save_dir"
