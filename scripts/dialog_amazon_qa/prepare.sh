#!/usr/bin/env bash
# Amazon's questions and answers -> data-bin/dialog_amazon_qa: clean, split by product, learn pieces,
# encode, binarise. Running it again does nothing while the settings are the same.
#
#   --source PATH         file or folder of .json(.gz) files; may be repeated. Without it they are
#                         fetched into data-bin/download (AMAZON_QA_URL names another site)
#   --answers KIND        which files to fetch: one answer to a question, many, or both (both)
#   --categories "A B"    which shops to fetch, e.g. "Electronics Baby" (all); a few have no file of
#                         many answers to a question
#   --data-bin DIR        result (data-bin/dialog_amazon_qa)
#   --vocab-size N        pieces and marks (32000)
#   --valid X, --test X   shares, by product (0.005 each)
#   --max-unknown N       pieces of a turn (3)
#   --seed N, --workers N
#   --max-chars N, --keep-asides, --keep-punctuation, ...    see: fairtale dialogs --help
#
# An answer that several products repeat is kept once.
set -euo pipefail
EXPERIMENT=dialog_amazon_qa
# shellcheck source=scripts/lib/dialog.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/dialog.sh"

# is_among WORD WORDS
is_among() {
    local word
    for word in $2; do
        [ "$word" != "$1" ] || return 0
    done
    return 1
}

dialogs_options=(--dedupe) answers=both categories=''
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage "${BASH_SOURCE[0]}" && exit 0 ;;
        --answers) need_value "$@" && answers=$2 && shift 2 ;;
        --categories) need_value "$@" && categories=$2 && shift 2 ;;
        *) prepare_option "$@" && shift "$taken" ;;
    esac
done

if [ ${#sources[@]} -eq 0 ]; then
    site=${AMAZON_QA_URL:-https://mcauleylab.ucsd.edu/public_datasets/data/amazon/qa}
    both="Automotive Baby Beauty Cell_Phones_and_Accessories Clothing_Shoes_and_Jewelry Electronics
        Grocery_and_Gourmet_Food Health_and_Personal_Care Home_and_Kitchen Musical_Instruments
        Office_Products Patio_Lawn_and_Garden Pet_Supplies Sports_and_Outdoors
        Tools_and_Home_Improvement Toys_and_Games Video_Games"
    one="Appliances Arts_Crafts_and_Sewing Industrial_and_Scientific Software $both"
    for name in $categories; do
        is_among "$name" "$one" || die "--categories $name: not one of $(xargs <<<"$one")"
    done
    case $answers in one | many | both) ;; *) die "--answers $answers: one, many or both" ;; esac
    files=()
    [ "$answers" = many ] || for name in ${categories:-$one}; do files+=("qa_$name.json.gz"); done
    [ "$answers" = one ] || for name in ${categories:-$both}; do
        if is_among "$name" "$both"; then
            files+=("icdm/QA_$name.json.gz")
        else
            say "$name: there is no file with many answers to a question"
        fi
    done
    [ ${#files[@]} -gt 0 ] || die "--categories '$categories' --answers $answers: there is no such file"
    for file in "${files[@]}"; do
        sources+=("$ROOT/data-bin/download/amazon_qa/$file")
        download "$site/$file" "$ROOT/data-bin/download/amazon_qa/$file"
    done
fi
prepare_data
