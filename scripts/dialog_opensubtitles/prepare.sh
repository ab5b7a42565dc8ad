#!/usr/bin/env bash
# Make data-bin/dialog_opensubtitles from film subtitles: clean, split by document, learn pieces, encode,
# binarise. Without --source, OpenSubtitles 2018 is downloaded. A source holds plain lines, with an empty
# line at the end of a film, or PolyAI's conversational-datasets. --help lists the options of
# `fairtale prepare dialogs`.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

exec_fairtale prepare dialogs --corpus opensubtitles \
    --data-bin "$ROOT/data-bin/dialog_opensubtitles" \
    --download-dir "$ROOT/data-bin/download/opensubtitles" \
    --vocab-size 32000 --valid 0.0005 --test 0.0005 --max-unknown 3 "$@"
