#!/usr/bin/env bash
# Train a small en-ru model of one domain until it converges: the PHP manual, of which whole documents are
# held out for validation and test. Prints BLEU and chrF2 of the test documents. A further run resumes.
# benchmarks/pruning_study.py compares ways to prune this model.
#
#   php_manual.sh PREFIX DOCUMENTS [OPTION...]
#       parallel text PREFIX.en and PREFIX.ru; the document of each line, gzipped; options of train.sh
#
# 4 + 4 layers of 256 in updates of 16,384 tokens; N_GPUS=0 trains on the CPU.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

case ${2:-} in '' | -*) show_help && exit 2 ;; esac
scripts=$ROOT/scripts/$EXPERIMENT
text=$ROOT/data-bin/php_manual_text data_bin=$ROOT/data-bin/php_manual run=$ROOT/runs/php_manual/base

# A document goes to validation or test, 4 % each, by the hash of its name.
mkdir -p "$text"
"$BIN/python" - "$1" "$2" "$text" <<'PY'
import contextlib, gzip, hashlib, sys
prefix, documents, output = sys.argv[1:]
def split(name):
    number = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 1000
    return "valid" if number < 40 else "test" if number < 80 else "train"
with gzip.open(documents, "rt", encoding="utf-8") as lines:
    splits = [split(line.rstrip("\n")) for line in lines]
for language in ("en", "ru"):
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(open(f"{prefix}.{language}", encoding="utf-8", newline="\n"))
        files = {
            name: stack.enter_context(open(f"{output}/{name}.{language}", "w", encoding="utf-8"))
            for name in ("train", "valid", "test")
        }
        for name, line in zip(splits, source, strict=True):
            files[name].write(line)
PY
bash "$scripts/prepare.sh" --source "$text/train" --valid "$text/valid" --test "$text/test" \
    --data-bin "$data_bin" --vocab-size 6000 --joint

bash "$scripts/train.sh" --model small --data-bin "$data_bin" --save-dir "$run" \
    --max-tokens 16384 --update-tokens 16384 --encoder-layers 4 --decoder-layers 4 \
    --encoder-embed-dim 256 --encoder-ffn-embed-dim 1024 --decoder-embed-dim 256 \
    --decoder-ffn-embed-dim 1024 --dropout 0.3 --lr 2e-3 --warmup-updates 400 --max-update 2500 \
    --validate-interval-updates 250 --save-interval-updates 250 --eval-bleu-sentences 300 "${@:3}"
bash "$scripts/evaluate.sh" --data-bin "$data_bin" --checkpoint "$run/checkpoint_average.pt" \
    --output "$ROOT/outputs/php_manual/base"
