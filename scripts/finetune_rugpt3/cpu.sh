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
