#!/usr/bin/env bash
# Story corpus -> data-bin/story_tinystories: clean, split, learn pieces, encode, binarise.
# Running it again does nothing while the settings are the same; an interrupted run leaves nothing.
#
#   --source PATH      file or folder of stories; may be repeated. Shards (.json, .tar.gz), text with
#                      <|endoftext|> between stories, one story a line, books (.md).
#                      Without it TinyStories_all_data.tar.gz is fetched (1.6 GB; TINYSTORIES_URL and
#                      TINYSTORIES_SHA256 name another copy) into data-bin/download.
#   --data-bin DIR     result (data-bin/story_tinystories)
#   --vocab-size N     pieces, fairseq's four marks included (5120)
#   --valid X          share of the stories for validation (0.005)
#   --test X           share for the test set (the same)
#   --seed N           of the split (1)
#   --format F, --max-words N, --dedupe, --strict    see: fairtale stories --help
#   --workers N        processes (all CPUs)
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

sources=() stories_options=() data_bin=$ROOT/data-bin/story_tinystories
vocab_size=5120 valid=0.005 test='' seed=1 workers=$(num_cpus)
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage "${BASH_SOURCE[0]}" && exit 0 ;;
        --dedupe | --strict) stories_options+=("$1") && shift && continue ;;
        --source | --data-bin | --vocab-size | --valid | --test | --seed | --workers) ;;
        --format | --max-words) ;;
        *) die "unknown option $1; see --help" ;;
    esac
    need_value "$@"
    case $1 in
        --source) sources+=("$2") ;;
        --data-bin) data_bin=$2 ;;
        --vocab-size) vocab_size=$2 ;;
        --valid) valid=$2 ;;
        --test) test=$2 ;;
        --seed) seed=$2 ;;
        --workers) workers=$2 ;;
        *) stories_options+=("$1" "$2") ;;
    esac
    shift 2
done

if [ ${#sources[@]} -eq 0 ]; then
    site=https://huggingface.co/datasets/roneneldan/TinyStories/resolve/main
    url=${TINYSTORIES_URL:-$site/TinyStories_all_data.tar.gz}
    sources=("$ROOT/data-bin/download/$(basename "$url")")
    download "$url" "${sources[0]}" "${TINYSTORIES_SHA256:-}"
fi
settings="vocab-size $vocab_size
valid $valid
test ${test:-$valid}
seed $seed
options ${stories_options[*]-}"
for source in "${sources[@]}"; do
    [ -e "$source" ] || die "--source $source: no such file or folder"
    settings+=$'\n'"source $(absolute "$source") $(fingerprint "$source")"
done
check_made "$data_bin" prepare.txt "$settings"
start_partial "$data_bin"
text=$PARTIAL/text pieces=$PARTIAL/pieces made=$PARTIAL/made

say "1/4 cleaning and splitting"
fairtale stories "${sources[@]}" --output "$text" --valid "$valid" --test "${test:-$valid}" \
    --seed "$seed" ${stories_options[@]+"${stories_options[@]}"}

say "2/4 learning $vocab_size pieces from the training stories"
fairtale spm train "$text/train.txt" --model "$made/sentencepiece.bpe" --dict "$PARTIAL/dict.txt" \
    --vocab-size "$vocab_size" --workers "$workers"

say "3/4 encoding"
fairtale spm encode "$text"/*.txt --model "$made/sentencepiece.bpe.model" --output-dir "$pieces" \
    --workers "$workers"

say "4/4 fairseq-preprocess"
prefixes=()
for subset in train valid test; do
    [ ! -f "$text/$subset.txt" ] || prefixes+=("--${subset}pref" "$pieces/$subset.txt")
done
fairseq-preprocess --only-source "${prefixes[@]}" --srcdict "$PARTIAL/dict.txt" \
    --destdir "$made" --workers "$workers" >"$PARTIAL/preprocess.out" 2>&1 ||
    { tail -n 20 "$PARTIAL/preprocess.out" >&2 && die "fairseq-preprocess failed, see above"; }
for file in "$text"/*.txt; do
    stories=$(($(wc -l <"$file")))
    grep -q "/$(basename "$file"): $stories sents" "$PARTIAL/preprocess.out" ||
        die "fairseq-preprocess lost lines of $(basename "$file"), which has $stories"
done
grep -o '[a-z]*\.txt: [0-9]* sents.*' "$PARTIAL/preprocess.out"

# The held-out stories stay readable: prompts, and what people wrote, to compare with.
mkdir "$made/text"
rm -f "$text/train.txt"
mv "$text"/* "$made/text/"
finish "$made" "$data_bin" prepare.txt "$settings"
say "$data_bin is ready"
