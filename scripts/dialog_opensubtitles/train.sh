#!/usr/bin/env bash
# Train a model that answers film subtitles; running it again goes on from the last checkpoint.
#
#   --model NAME         what to train (mixture, or the environment's MODEL):
#                        gpt      causal, every token predicted (gpt_112m)
#                        unilm    prefixes read in both directions, responses predicted
#                        mixture  a quarter of the updates as unilm, the others as gpt
#                        reverse  as unilm, from the response to the query, for rerank.sh
#                        nat      fairseq's insertion transformer: not from left to right
#   --data-bin DIR       from prepare.sh (data-bin/dialog_opensubtitles)
#   --save-dir DIR       checkpoints, train.log, tensorboard/ (runs/dialog_opensubtitles/NAME)
#   --update-tokens N    tokens of one update, all devices together (4096)
#   --max-tokens N       tokens of one batch on one device (update-tokens / devices)
#   anything else        goes to fairseq-train and wins, e.g. --arch gpt_tiny or --lr 1e-3
#   N_GPUS=2 train.sh    how many GPUs (all that torch sees); 0 trains on the CPU
#
# The recipe: 12 layers of 768; 64 x 64 = 4,096 tokens an update = 1 GPU x 4,096 x 1; AdamW, 4,000
# updates of warm-up, then inverse square root; gradients clipped at 2.5; labels smoothed by 0.1,
# the loss a KL divergence; dropout 0.1. The peak rate of 3e-4 is ours.
set -euo pipefail
EXPERIMENT=dialog_opensubtitles
# shellcheck source=scripts/lib/dialog.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/dialog.sh"
case " $* " in *" -h "* | *" --help "*) usage "${BASH_SOURCE[0]}" && exit 0 ;; esac
train_model "$@"
