#!/usr/bin/env bash
# Amazon's questions and answers -> data-bin/dialog_amazon_qa: clean, split by product, learn pieces,
# encode, binarise; without --source the files are fetched. An answer that several products repeat is
# kept once. --help lists the options of `fairtale prepare dialogs`.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

exec_fairtale prepare dialogs --corpus amazon_qa --data-bin "$ROOT/data-bin/dialog_amazon_qa" \
    --download-dir "$ROOT/data-bin/download/amazon_qa" \
    --vocab-size 32000 --valid 0.005 --test 0.005 --max-unknown 3 "$@"
