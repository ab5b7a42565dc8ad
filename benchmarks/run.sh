#!/usr/bin/env bash
# Every measurement that this machine can make; `make bench` calls it.
# Options go to each of them: make bench ARGS="--rounds 3 --threads 1"
set -euo pipefail
cd "$(dirname "$0")/.."

measure() {
    local script=benchmarks/$1
    shift
    echo "== $script $*"
    python "$script" "$@"
}

has_gpu() {
    python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'
}

if has_gpu; then
    for precision in bf16 fp16; do
        measure train_speed.py --precision "$precision" --compile "$@"
        # 32,768 entries: 111M parameters with the embedding
        measure train_speed.py --precision "$precision" --compile --arch gpt_112m \
            --vocab 32768 --tokens-per-sample 1024 --rows 16 --dropouts 0.1 "$@"
        measure generate_speed.py --precision "$precision" "$@"
    done
    measure dialog_mask.py "$@"
    measure loss_memory.py "$@"
    measure prune_speed.py --precision fp16 "$@"
else
    echo "no GPU here: the measurements on one are left out"
    measure train_speed.py "$@"
    measure generate_speed.py "$@"
    measure dialog_mask.py "$@"
    measure loss_memory.py "$@"
    measure prune_speed.py "$@"
fi
