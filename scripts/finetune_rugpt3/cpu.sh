#!/usr/bin/env bash
# Reproduce the fine-tuning study of the README on a CPU: pretrain a small GPT on the works of a folder
# without those of one author, give it to Hugging Face's format and back, fine-tune it on that author in
# all ways with three seeds, print the table. It takes about an hour and a half on one core, and a further
# run goes on where this one stopped.
#
#   cpu.sh AUTHOR FOLDER    FOLDER holds one work a file, AUTHOR__TITLE.txt
#
# Pretraining: 6 layers of 256, 2,400 updates of 2,048 = 1 x 2,048 x 1 tokens. Fine-tuning: 300 updates of
# the same size. The other options are those of train.sh.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

case ${1:-} in '' | -*) show_help && exit 2 ;; esac
author=$1 folder=${2:-}
[ -d "$folder" ] || die "$folder: give the folder of works after the author"
scripts=$ROOT/scripts/$EXPERIMENT run=$ROOT/runs/finetune_cpu model=$ROOT/models/finetune_cpu
general=$ROOT/data-bin/finetune_cpu_general own=$ROOT/data-bin/finetune_cpu_author

sources=() works=()
for path in "$folder"/*.txt; do
    case $(basename "$path") in
        "$author"__*) works+=(--source "$path") ;;
        *) sources+=(--source "$path") ;;
    esac
done
[ ${#works[@]} -gt 0 ] || die "$folder holds no work of $author; see --help"

# 1. The pretrained model: a tokenizer and a model of the other authors, to Hugging Face's format and back.
fairtale prepare documents "${sources[@]}" --data-bin "$general" --vocab-size 5000 --valid 0.1
mkdir -p "$run/base"
fairtale launch --max-tokens 2048 --update-tokens 2048 --precision bf16 --width 256 \
    fairseq-train "$general" --user-dir "$USER_DIR" --task story_lm --arch gpt --cpu \
    --decoder-layers 6 --decoder-embed-dim 256 --decoder-ffn-embed-dim 1024 \
    --decoder-attention-heads 4 --attention-dropout 0 \
    --tokens-per-sample 256 --sample-break-mode split --pack --criterion label_smoothed_kl \
    --optimizer adam --adam-betas '(0.9, 0.95)' --weight-decay 0.1 --clip-norm 1.0 --lr 2e-3 \
    --lr-scheduler cosine --warmup-updates 100 --max-update 2400 --validate-interval 1000000 \
    --validate-interval-updates 300 --save-interval-updates 300 --keep-interval-updates 1 \
    --no-epoch-checkpoints --log-format json --log-interval 50 --save-dir "$run/base" 2>&1 |
    tee -a "$run/base/train.log" | fairtale log validation
if [ ! -d "$model" ]; then
    fairtale gpt2 export "$run/base/checkpoint_last.pt" --data "$general" --output "$run/gpt2"
    fairtale gpt2 import "$run/gpt2" --output "$model"
fi

# 2. The author's works, with the tokenizer of the model, and the comparison.
bash "$scripts/prepare.sh" "${works[@]}" --tokenizer "$model" --data-bin "$own" --valid 0.3
N_GPUS=0 bash "$scripts/compare.sh" --base "$model/checkpoint.pt" --data-bin "$own" --updates 300 \
    --output "$run" --tokens-per-sample 256 --max-tokens 2048 --update-tokens 2048 --precision fp32
