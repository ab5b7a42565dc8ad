#!/usr/bin/env bash
# Translate plain text, or a test set; one translation a line, and a blank line for a blank line.
#
#   --input FILE         plain text, a sentence a line; - is standard input
#   --subset NAME        or a split of the data: valid, test, test1, ... (test)
#   --output FILE        (standard output)
#   --checkpoint FILE    (runs/wmt16_en_ru/base/checkpoint_average.pt)
#   --data-bin DIR       for its dictionaries and tokenizer (data-bin/wmt16_en_ru)
#   --beam N             (4)
#   --lenpen X           length penalty: scores are divided by length^X, so above 1 favours long
#                        translations, below 1 short ones (0.6)
#   --max-tokens N       tokens of a batch (4096)
#   anything else        goes to fairseq-interactive or fairseq-generate, e.g. --fp16 or --cpu
set -euo pipefail
# shellcheck source=scripts/lib/translation.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/translation.sh"

input='' subset=test output='' max_tokens=4096 extra=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage "${BASH_SOURCE[0]}" && exit 0 ;;
        --input) need_value "$@" && input=$2 && shift 2 ;;
        --subset) need_value "$@" && subset=$2 && shift 2 ;;
        *) if decode_option "$@"; then shift 2; else extra+=("$1") && shift; fi ;;
    esac
done
need_data
need_checkpoint "$checkpoint"
[ -z "$input" ] || [ "$input" = - ] || [ -s "$input" ] ||
    die "--input $input: no such file, or an empty one"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ -n "$input" ]; then
    # Python would end a line at a carriage return as well.
    if [ "$input" = - ]; then cat; else cat "$input"; fi | LC_ALL=C tr '\r' ' ' >"$work/input"
    fairseq-interactive "$data_bin" --user-dir "$USER_DIR" --path "$checkpoint" --input - \
        --buffer-size 1024 --max-tokens "$max_tokens" --beam "$beam" --lenpen "$lenpen" \
        --max-len-a 1.5 --max-len-b 10 ${extra[@]+"${extra[@]}"} <"$work/input" >"$work/log" ||
        failed "$work/log"
    translations "$work/log" >"$work/numbered"
    wanted=$(grep -c '' "$work/input" || true) given=$(($(wc -l <"$work/numbered")))
    [ "$given" -le "$wanted" ] || die "$given translations of $wanted lines; leave --nbest out"
    if [ "$given" -lt "$wanted" ]; then
        lost=$(awk '$1 == number { number++ } END { print number + 1 }' "$work/numbered")
        die "$given translations of $wanted lines: line $lost has none; is it too long for the" \
            "model? divide it"
    fi
    cut -f 2- "$work/numbered" >"$work/text"
else
    translate_subset "$subset" "$work/text" ${extra[@]+"${extra[@]}"}
fi
if [ -n "$output" ]; then
    mkdir -p "$(dirname "$output")"
    mv "$work/text" "$output"
    say "$(($(wc -l <"$output"))) translations -> $output"
else
    cat "$work/text"
fi
