#!/usr/bin/env bash
# Parallel corpora -> data-bin/wmt16_en_ru: clean, tokenise, filter, learn pieces, encode, binarise.
# Running it again does nothing while the settings are the same; an interrupted run leaves nothing.
#
#   --source PREFIX    training corpus, PREFIX.en and PREFIX.ru; may be repeated. Without it those of
#                      WMT16 that need no licence are fetched (Common Crawl, News Commentary v11,
#                      about 1 GB; WMT16_MIRROR: another address of the archives), with
#                      newstest2015 as --valid and newstest2016 as --test
#   --download-dir DIR where they are kept (data-bin/download/wmt16)
#   --valid PREFIX     validation set: as above, or .sgm as in WMT's archives
#                      (PREFIX-src.en.sgm, PREFIX-ref.ru.sgm), or two files SOURCE,TARGET
#   --valid-size N     without --valid: training pairs that are held out (2000)
#   --test PREFIX      test set; may be repeated: test, test1, ...
#   -s LANG, -t LANG   (en, ru)
#   --data-bin DIR     result (data-bin/wmt16_en_ru)
#   --vocab-size N     entries, fairseq's four marks included (32000; 10000 suits a small model)
#   --joint            one vocabulary for both languages, else each has its own
#   --type bpe|unigram SentencePiece's way of learning pieces (bpe)
#   --max-words N, --max-ratio X, --tokenizer T, --no-normalize, --escape, --keep-duplicates,
#   --seed N           see: fairtale bitext --help
#   --workers N        processes (all CPUs)
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

sources=() valid='' valid_size='' tests=() src=en tgt=ru data_bin=$ROOT/data-bin/wmt16_en_ru
vocab_size=32000 joint=no kind=bpe options=() workers=$(num_cpus)
downloads=$ROOT/data-bin/download/wmt16
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage "${BASH_SOURCE[0]}" && exit 0 ;;
        --joint) joint=yes && shift && continue ;;
        --no-normalize | --escape | --keep-duplicates) options+=("$1") && shift && continue ;;
        --source) need_value "$@" && sources+=("$2") ;;
        --valid) need_value "$@" && valid=$2 ;;
        --valid-size) need_value "$@" && valid_size=$2 ;;
        --test) need_value "$@" && tests+=("$2") ;;
        -s | --source-lang) need_value "$@" && src=$2 ;;
        -t | --target-lang) need_value "$@" && tgt=$2 ;;
        --data-bin) need_value "$@" && data_bin=$2 ;;
        --vocab-size) need_value "$@" && vocab_size=$2 ;;
        --type) need_value "$@" && kind=$2 ;;
        --max-words | --max-ratio | --tokenizer | --seed) need_value "$@" && options+=("$1" "$2") ;;
        --download-dir) need_value "$@" && downloads=$2 ;;
        --workers) need_value "$@" && workers=$2 ;;
        *) die "unknown option $1; see --help" ;;
    esac
    shift 2
done

# Fetches an archive of WMT and takes the files out whose names end so.  fetch URL ENDING...
fetch() {
    local url=$1 archive name ending member
    shift
    name=$(basename "$url")
    archive=$downloads/$name
    [ -z "${WMT16_MIRROR:-}" ] || url=$WMT16_MIRROR/$name
    download "$url" "$archive"
    for ending in "$@"; do
        [ ! -f "$downloads/$ending" ] || continue
        [ -f "$archive.list" ] || tar -tzf "$archive" >"$archive.list"
        member=$(grep -E "(^|/)${ending//./\\.}\$" "$archive.list" | head -n 1) ||
            die "$archive holds no file $ending; give --source, --valid and --test"
        tar -xzOf "$archive" "$member" >"$downloads/$ending.part"
        mv "$downloads/$ending.part" "$downloads/$ending"
    done
}

if [ ${#sources[@]} -eq 0 ]; then
    [ "$src-$tgt" = en-ru ] || [ "$src-$tgt" = ru-en ] ||
        die "-s $src -t $tgt: only the English-Russian corpora are fetched; give --source PREFIX"
    # The form of these addresses: https://www.statmt.org/wmt16/translation-task.html
    wmt16=https://data.statmt.org/wmt16/translation-task
    fetch https://www.statmt.org/wmt13/training-parallel-commoncrawl.tgz commoncrawl.ru-en.{en,ru}
    fetch $wmt16/training-parallel-nc-v11.tgz news-commentary-v11.ru-en.{en,ru}
    fetch $wmt16/dev.tgz "newstest2015-$src$tgt-"{src."$src",ref."$tgt"}.sgm
    fetch $wmt16/test.tgz "newstest2016-$src$tgt-"{src."$src",ref."$tgt"}.sgm
    sources=("$downloads/commoncrawl.ru-en" "$downloads/news-commentary-v11.ru-en")
    [ -n "$valid$valid_size" ] || valid=$downloads/newstest2015-$src$tgt
    [ ${#tests[@]} -gt 0 ] || tests=("$downloads/newstest2016-$src$tgt")
fi

# The files behind PREFIX as one line of the settings.  describe OPTION PREFIX
describe() {
    local file found=''
    for file in "$2.$src" "$2.$tgt" "$2-src.$src.sgm" "$2-ref.$tgt.sgm" ${2//,/ }; do
        [ ! -f "$file" ] || found+=" $(absolute "$file") $(fingerprint "$file")"
    done
    settings+=$'\n'"$1 $2$found"
}
settings="languages $src $tgt
vocab-size $vocab_size
joint $joint
type $kind
valid-size ${valid_size:-default}
options ${options[*]-}"
for source in "${sources[@]}"; do describe source "$source"; done
[ -z "$valid" ] || describe valid "$valid"
for set in ${tests[@]+"${tests[@]}"}; do describe test "$set"; done
check_made "$data_bin" prepare.txt "$settings"
start_partial "$data_bin"
text=$PARTIAL/text pieces=$PARTIAL/pieces made=$PARTIAL/made

say "1/4 cleaning and tokenising"
arguments=()
for source in "${sources[@]}"; do arguments+=(--source "$source"); done
for set in ${tests[@]+"${tests[@]}"}; do arguments+=(--test "$set"); done
[ -z "$valid" ] || arguments+=(--valid "$valid")
[ -z "$valid_size" ] || arguments+=(--valid-size "$valid_size")
fairtale bitext "${arguments[@]}" -s "$src" -t "$tgt" --output "$text" --workers "$workers" \
    ${options[@]+"${options[@]}"}

# The text is normalised already: SentencePiece shall not change it again (it would write No for №).
learn=(--type "$kind" --vocab-size "$vocab_size" --normalization identity --workers "$workers")
if [ "$joint" = yes ]; then
    say "2/4 learning $vocab_size pieces of both languages"
    model=$made/sentencepiece.bpe
    fairtale spm train "$text/train.$src" "$text/train.$tgt" --model "$model" \
        --dict "$PARTIAL/dict.txt" "${learn[@]}"
    models=("$model.model" "$model.model")
    dictionaries=(--joined-dictionary --srcdict "$PARTIAL/dict.txt")
else
    say "2/4 learning $vocab_size pieces of each language"
    for lang in "$src" "$tgt"; do
        fairtale spm train "$text/train.$lang" --model "$made/sentencepiece.bpe.$lang" \
            --dict "$PARTIAL/dict.$lang.txt" "${learn[@]}"
    done
    models=("$made/sentencepiece.bpe.$src.model" "$made/sentencepiece.bpe.$tgt.model")
    dictionaries=(--srcdict "$PARTIAL/dict.$src.txt" --tgtdict "$PARTIAL/dict.$tgt.txt")
fi

say "3/4 encoding"
fairtale spm encode "$text"/*."$src" --model "${models[0]}" --output-dir "$pieces" \
    --workers "$workers"
fairtale spm encode "$text"/*."$tgt" --model "${models[1]}" --output-dir "$pieces" \
    --workers "$workers"

say "4/4 fairseq-preprocess"
prefixes=(--trainpref "$pieces/train" --validpref "$pieces/valid")
if [ ${#tests[@]} -gt 0 ]; then
    # fairseq names those of a list test, test1, ... as they are named here
    list=$pieces/test
    for ((i = 1; i < ${#tests[@]}; i++)); do list+=,$pieces/test$i; done
    prefixes+=(--testpref "$list")
fi
fairseq-preprocess -s "$src" -t "$tgt" "${prefixes[@]}" "${dictionaries[@]}" --destdir "$made" \
    --workers "$workers" >"$PARTIAL/preprocess.out" 2>&1 ||
    { tail -n 20 "$PARTIAL/preprocess.out" >&2 && die "fairseq-preprocess failed, see above"; }
for file in "$pieces"/*; do
    lines=$(($(wc -l <"$file")))
    grep -q "/$(basename "$file"): $lines sents" "$PARTIAL/preprocess.out" ||
        die "fairseq-preprocess lost lines of $(basename "$file"), which has $lines"
done
grep -o "[a-z0-9]*\.[a-z]*: [0-9]* sents.*" "$PARTIAL/preprocess.out"

# The held-out sentences stay readable, as they were: to translate, and to compare with.
mkdir "$made/text"
mv "$text"/raw/* "$text/report.json" "$made/text/"
mv "$text/tokenizer.json" "$made/"
finish "$made" "$data_bin" prepare.txt "$settings"
say "$data_bin is ready"
