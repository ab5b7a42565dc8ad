#!/usr/bin/env bash
# Make data-bin/gpt2_pretrain from documents: clean, split, learn a vocabulary on a sample of them (32,000
# pieces of byte-level BPE, with the marks of conversations), encode, binarise.
#
#   prepare.sh --source PATH...    folders of texts, JSON lines or SQLite databases; with the extra mongo
#                                  also mongo:CONFIG.json (docs/documents.md)
#
# --tokenizer DIR takes an existing vocabulary. --help after these lists the options of
# `fairtale prepare documents`.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

learn=(--vocab-size 32000 --tokenizer-sample 100000 --dialog-marks)
case " $* " in *" --tokenizer "*) learn=() ;; esac
exec_fairtale prepare documents --data-bin "$ROOT/data-bin/gpt2_pretrain" --valid 0.005 \
    ${learn[@]+"${learn[@]}"} "$@"
