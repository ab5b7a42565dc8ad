#!/usr/bin/env bash
# Run all benchmarks that this machine supports; `make bench` calls this script. Options are passed to
# every benchmark: make bench ARGS="--rounds 3 --threads 1"
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
        # With a vocabulary of 32,768, the model has 111M parameters including the embedding.
        measure train_speed.py --precision "$precision" --compile --arch gpt_112m \
            --vocab 32768 --tokens-per-sample 1024 --rows 16 --dropouts 0.1 "$@"
        measure generate_speed.py --precision "$precision" "$@"
        measure finetune_speed.py --precision "$precision" "$@"
    done
    measure dialog_mask.py "$@"
    measure loss_memory.py "$@"
    measure prune_speed.py --precision fp16 "$@"
else
    echo "there is no GPU, so only the benchmarks on the CPU are run"
    measure train_speed.py "$@"
    measure generate_speed.py "$@"
    measure finetune_speed.py "$@"
    measure dialog_mask.py "$@"
    measure loss_memory.py "$@"
    measure prune_speed.py "$@"
fi

measure sharding.py "$@"
measure serve_speed.py "$@"
measure document_export.py "$@"
