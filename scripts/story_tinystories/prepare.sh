#!/usr/bin/env bash
# Make data-bin/story_tinystories from stories: clean, split, learn pieces, encode, binarise. Without
# --source, TinyStories is downloaded. --help lists the options of `fairtale prepare stories`.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

exec_fairtale prepare stories --data-bin "$ROOT/data-bin/story_tinystories" \
    --download-dir "$ROOT/data-bin/download" --vocab-size 5120 --valid 0.005 "$@"
