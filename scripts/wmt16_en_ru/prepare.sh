#!/usr/bin/env bash
# Make data-bin/wmt16_en_ru from parallel corpora: clean, tokenise, filter, learn pieces, encode,
# binarise. Without --source, the corpora of WMT16 that need no licence are downloaded. --help lists the
# options of `fairtale prepare bitext`.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

exec_fairtale prepare bitext --data-bin "$ROOT/data-bin/wmt16_en_ru" \
    --download-dir "$ROOT/data-bin/download/wmt16" --vocab-size 32000 --type bpe "$@"
