#!/usr/bin/env bash
# Film subtitles -> data-bin/dialog_opensubtitles: clean, split by document, learn pieces, encode,
# binarise. Running it again does nothing while the settings are the same.
#
#   --source PATH            file or folder; may be repeated. Plain lines (an empty one ends a film),
#                            or PolyAI's conversational-datasets, JSON lines or TFRecord. Without it
#                            OpenSubtitles 2018 is fetched from OPUS into data-bin/download
#                            (OPENSUBTITLES_URL names another copy; English is some 4 GB)
#   --language XX            which to fetch (en)
#   --lines N                of what is fetched take the first N lines only (all)
#   --max-context-turns N    lines before the query that are kept (3)
#   --data-bin DIR           result (data-bin/dialog_opensubtitles)
#   --vocab-size N           pieces and marks (32000)
#   --valid X, --test X      shares, by document (0.0005 each)
#   --split-by-name          PolyAI's own test files stay the test set
#   --max-unknown N          pieces of a turn (3)
#   --seed N, --workers N
#   --max-chars N, --keep-asides, --keep-punctuation, ...    see: fairtale dialogs --help
set -euo pipefail
EXPERIMENT=dialog_opensubtitles
# shellcheck source=scripts/lib/dialog.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/dialog.sh"

dialogs_options=(--max-context-turns 3) language=en lines=''
valid=0.0005 test=0.0005
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage "${BASH_SOURCE[0]}" && exit 0 ;;
        --language) need_value "$@" && language=$2 && shift 2 ;;
        --lines) need_value "$@" && lines=$2 && shift 2 ;;
        *) prepare_option "$@" && shift "$taken" ;;
    esac
done

if [ ${#sources[@]} -eq 0 ]; then
    site=https://object.pouta.csc.fi/OPUS-OpenSubtitles/v2018/mono
    url=${OPENSUBTITLES_URL:-$site/$language.txt.gz}
    sources=("$ROOT/data-bin/download/opensubtitles/$(basename "$url")")
    download "$url" "${sources[0]}"
    if [ -n "$lines" ]; then
        [[ $lines =~ ^[1-9][0-9]*$ ]] || die "--lines $lines: a whole number of at least 1"
        part=${sources[0]%.txt.gz}.$lines.txt
        if [ ! -f "$part" ]; then
            { gzip -dc "${sources[0]}" || true; } 2>/dev/null | head -n "$lines" >"$part.partial"
            mv "$part.partial" "$part"
        fi
        sources=("$part")
    fi
fi
prepare_data
