#!/usr/bin/env bash
# Make data-bin/dialog_amazon_qa from Amazon's questions and answers: clean, split by product, learn
# pieces, encode, binarise. Without --source, the files are downloaded. Duplicates are removed. --help
# lists the options of `fairtale prepare dialogs`.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

exec_fairtale prepare dialogs --corpus amazon_qa --data-bin "$ROOT/data-bin/dialog_amazon_qa" \
    --download-dir "$ROOT/data-bin/download/amazon_qa" \
    --vocab-size 32000 --valid 0.005 --test 0.005 --max-unknown 3 "$@"
