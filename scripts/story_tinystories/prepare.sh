#!/usr/bin/env bash
# Story corpus -> data-bin/story_tinystories: clean, split, learn pieces, encode, binarise; without
# --source TinyStories is fetched. --help lists the options of `fairtale prepare stories`.
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

exec_fairtale prepare stories --data-bin "$ROOT/data-bin/story_tinystories" \
    --download-dir "$ROOT/data-bin/download" --vocab-size 5120 --valid 0.005 "$@"
