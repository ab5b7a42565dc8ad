#!/usr/bin/env bash
# Film subtitles -> data-bin/dialog_opensubtitles: clean, split by document, learn pieces, encode,
# binarise; without --source OpenSubtitles 2018 is fetched. Of a source, plain lines (an empty one
# ends a film) and PolyAI's conversational-datasets are read. --help lists the options of
# `fairtale prepare dialogs`.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

exec_fairtale prepare dialogs --corpus opensubtitles \
    --data-bin "$ROOT/data-bin/dialog_opensubtitles" \
    --download-dir "$ROOT/data-bin/download/opensubtitles" \
    --vocab-size 32000 --valid 0.0005 --test 0.0005 --max-unknown 3 "$@"
