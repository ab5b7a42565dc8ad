#!/usr/bin/env bash
# Make data-bin/gpt2_conversation from questions and answers, or from longer conversations: clean, split by
# question, encode with the vocabulary of the pretrained model, binarise. A line of data is
# `question <SEP> answer`: <SEP> stands where others write <usr> question <sys> answer.
#
#   prepare.sh --source PATH    JSON lines {"q", "a"} (other fields may follow), CSV with columns Q and A,
#                               turns separated by tabs, ... (docs/dialogs.md)
#   --tokenizer DIR             the data of the pretrained model (data-bin/gpt2_pretrain)
#
# --help after these lists the options of `fairtale prepare dialogs`.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

exec_fairtale prepare dialogs --tokenizer "$ROOT/data-bin/gpt2_pretrain" \
    --data-bin "$ROOT/data-bin/gpt2_conversation" --valid 0.01 --test 0.01 "$@"
