#!/usr/bin/env bash
# Make data-bin/finetune_rugpt3 from works of one genre or author: strip markup and metadata, split by
# work, encode with the tokenizer of the pretrained model, binarise.
#
#   prepare.sh --source PATH --tokenizer DIR    PATH: a folder of texts, one work a file; JSON lines; or a
#                                               table of a SQLite database. DIR: what `fairtale gpt2
#                                               import` made of the pretrained model
#
# --help after these lists the options of `fairtale prepare documents`.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

exec_fairtale prepare documents --data-bin "$ROOT/data-bin/finetune_rugpt3" --valid 0.1 "$@"
