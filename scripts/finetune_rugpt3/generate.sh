#!/usr/bin/env bash
# Sample continuations of prompts from a fine-tuned model, as JSON lines or as text.
#
#   --prompts FILE            one prompt a line (required)
#   --num-samples N           samples for each prompt (3)
#   --sampling-topk K         sample from the K most probable tokens (50)
#   --sampling-topp P         sample from the most probable tokens whose probabilities sum to P (0.95)
#   --temperature T           divisor of the logits: below 1, probable tokens become more probable (0.8)
#   --checkpoint FILE         checkpoint of the model (runs/finetune_rugpt3/all/checkpoint_last.pt)
#   --output FILE             file for the samples (standard output)
#   --seed N                  random seed (1); the same seed gives the same samples
#   anything else             is passed to `fairtale sample`, e.g. --lora-adapter DIR
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

