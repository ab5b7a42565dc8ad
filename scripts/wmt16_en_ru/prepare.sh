#!/usr/bin/env bash
# Parallel corpora -> data-bin/wmt16_en_ru: clean, tokenise, filter, learn pieces, encode, binarise;
# without --source those of WMT16 that need no licence are fetched. --help lists the options of
# `fairtale prepare bitext`.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

exec_fairtale prepare bitext --data-bin "$ROOT/data-bin/wmt16_en_ru" \
    --download-dir "$ROOT/data-bin/download/wmt16" --vocab-size 32000 --type bpe "$@"
