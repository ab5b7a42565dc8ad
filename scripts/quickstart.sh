#!/usr/bin/env bash
# Train a tiny GPT and generate stories within a few minutes, without a download: write a small corpus
# from a grammar, prepare it, train on the CPU, generate three stories and draw the curves. The scripts
# in scripts/story_tinystories/ run the real experiment in the same way.
#
#   --updates N     number of updates (1400, about two minutes on two cores)
#   --stories N     number of stories of the corpus (6000)
#   --dir DIR       folder for all files (runs/quickstart)
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"

updates=1400 stories=6000 dir=$ROOT/runs/quickstart
options "updates stories dir" '' "$@"
no_extra
# Such a small model does not profit from many threads.
cpus=$(nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 1)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cpus < 4 ? cpus : 4))}
scripts=$ROOT/scripts/story_tinystories
mkdir -p "$dir"

say "writing $stories stories"
"$BIN/python" "$ROOT/tools/make_stories.py" --count "$stories" --output "$dir/stories.txt"
bash "$scripts/prepare.sh" --source "$dir/stories.txt" --data-bin "$dir/data-bin" \
    --vocab-size 1000 --valid 0.02

# An update has 1,536 = 1 x 1,536 x 1 tokens. Many small updates with a high learning rate train such a
# small model fastest: with 4,096 tokens an update and the same total, it confused the names.
say "training for $updates updates"
N_GPUS=0 bash "$scripts/train.sh" --data-bin "$dir/data-bin" --save-dir "$dir" --arch gpt_tiny \
    --max-tokens 1536 --update-tokens 1536 --lr 5e-3 --warmup-updates 50 --dropout 0 \
    --max-update "$updates" --validate-interval-updates 200 --save-interval-updates 200 \
    --precision fp32 --log-interval 20 | fairtale log progress ||
    die "training failed; see $dir/train.log"

bash "$scripts/generate.sh" --checkpoint "$dir/checkpoint_best.pt" --data-bin "$dir/data-bin" \
    --quantity 3 --output "$dir/stories-generated.txt" --cpu
fairtale plot "$dir" --output "$dir/curves.png"
say "three stories by the model (prompt: Once upon a time)"
awk '{ print "\n" $0 }' "$dir/stories-generated.txt"
say "curves: $dir/curves.png; checkpoints and train.log: $dir"
