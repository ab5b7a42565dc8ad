#!/usr/bin/env bash
# Print BLEU and chrF2 of the test sets as a Markdown table with sacreBLEU's signatures. Translations
# are compared with the published references.
#
#   --checkpoint FILE    checkpoint of the model (runs/wmt16_en_ru/base/checkpoint_average.pt)
#   --data-bin DIR       data from prepare.sh (data-bin/wmt16_en_ru)
#   --subsets "A B"      splits of the data (all test sets)
#   --output DIR         folder for the translations (outputs/wmt16_en_ru/RUN)
#   --beam N             beam size (4)
#   --lenpen X           length penalty, see generate.sh (0.6)
#   --max-tokens N       tokens of a batch (4096)
#   anything else        is passed to fairseq-generate, e.g. --fp16 or --cpu
set -euo pipefail
# shellcheck source=scripts/lib/translation.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/translation.sh"

data_bin=$ROOT/data-bin/wmt16_en_ru checkpoint=$ROOT/runs/wmt16_en_ru/base/checkpoint_average.pt
subsets='' output='' beam=4 lenpen=0.6 max_tokens=4096
options "checkpoint data-bin subsets output beam lenpen max-tokens" '' "$@"
need_data "$data_bin"
need_checkpoint "$checkpoint"
names=$data_bin/text/names.txt
[ -f "$names" ] || die "$names: no such file, so there are no references; see prepare.sh"
subsets=${subsets:-$(cut -f 1 "$names" | grep '^test' || true)}
[ -n "$subsets" ] || die "$data_bin holds no test set; make it with prepare.sh --test PREFIX"
output=${output:-$ROOT/outputs/wmt16_en_ru/$(basename "$(dirname "$checkpoint")")}
read -r _ _ target <"$data_bin/prepare.txt" # languages SOURCE TARGET

mkdir -p "$output"
sets=()
for subset in $subsets; do
    name=$(awk -F'\t' -v subset="$subset" '$1 == subset { print $2 }' "$names")
    references=$data_bin/text/$subset.$target translations=$output/$subset.$target
    [ -f "$references" ] || die "$references: no such file; --subsets must be splits of the data"
    say "translating ${name:-$subset}"
    fairseq-generate "$data_bin" --user-dir "$USER_DIR" --path "$checkpoint" \
        --gen-subset "$subset" --beam "$beam" --lenpen "$lenpen" --max-len-a 1.5 --max-len-b 10 \
        --max-tokens "$max_tokens" ${extra[@]+"${extra[@]}"} >"$translations.log" ||
        failed "$translations.log"
    fairtale log outputs "$translations.log" --keep-blank --lines-of "$references" \
        --output "$translations"
    sets+=(--set "${name:-$subset}" "$translations" "$references")
done
fairtale score-translation "${sets[@]}" --settings "beam $beam, length penalty $lenpen"
