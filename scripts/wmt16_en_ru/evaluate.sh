#!/usr/bin/env bash
# BLEU and chrF2 of the test sets, in a Markdown table with sacreBLEU's signatures. Translations are
# compared with the references as they were published.
#
#   --checkpoint FILE    (runs/wmt16_en_ru/base/checkpoint_average.pt)
#   --data-bin DIR       from prepare.sh (data-bin/wmt16_en_ru)
#   --subsets "A B"      (all test sets)
#   --output DIR         where the translations go (outputs/wmt16_en_ru/NAME OF THE CHECKPOINT)
#   --beam N             (4)
#   --lenpen X           length penalty, see generate.sh (0.6)
#   --max-tokens N       tokens of a batch (4096)
#   anything else        goes to fairseq-generate, e.g. --fp16 or --cpu
set -euo pipefail
# shellcheck source=scripts/lib/translation.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/translation.sh"

subsets='' output='' max_tokens=4096 extra=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage "${BASH_SOURCE[0]}" && exit 0 ;;
        --subsets) need_value "$@" && subsets=$2 && shift 2 ;;
        *) if decode_option "$@"; then shift 2; else extra+=("$1") && shift; fi ;;
    esac
done
need_data
need_checkpoint "$checkpoint"
names=$data_bin/text/names.txt
[ -f "$names" ] || die "$names: no such file, so there is nothing to compare with; see prepare.sh"
subsets=${subsets:-$(cut -f 1 "$names" | grep '^test' || true)}
[ -n "$subsets" ] || die "$data_bin holds no test set; make it with prepare.sh --test PREFIX"
output=${output:-$outputs/$(basename "$(dirname "$checkpoint")")}
# The first line of what prepare.sh was told: languages SOURCE TARGET
read -r _ _ target <"$data_bin/prepare.txt"

rows='' signatures=''
for subset in $subsets; do
    name=$(awk -F'\t' -v subset="$subset" '$1 == subset { print $2 }' "$names")
    references=$data_bin/text/$subset.$target translations=$output/$subset.$target
    [ -f "$references" ] || die "$references: no such file; --subsets has to name splits of the data"
    say "translating ${name:-$subset}"
    translate_subset "$subset" "$translations" ${extra[@]+"${extra[@]}"}
    scores=$("$BIN/sacrebleu" "$references" -i "$translations" -m bleu chrf -w 2 -f text)
    # BLEU|signature = 12.34 45.6/...    chrF2|signature = 34.56
    figures=$(sed -n 's/^ *[A-Za-z0-9]*|[^ ]* = \([0-9.]*\).*/| \1 /p' <<<"$scores" | tr -d '\n')
    rows+="| ${name:-$subset} | $(($(wc -l <"$references"))) $figures|"$'\n'
    signatures=$(sed -n 's/^ *\([A-Za-z0-9]*|[^ ]*\) = .*/\1/p' <<<"$scores")
done
echo "| set | sentences | BLEU | chrF2 |"
echo "|---|--:|--:|--:|"
printf '%s\n' "$rows"
echo "beam $beam, length penalty $lenpen; $(tr '\n' ' ' <<<"$signatures")"
