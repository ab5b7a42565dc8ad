#!/usr/bin/env bash
# Translate plain text or a test set. The output holds one translation a line; blank lines stay blank.
#
#   --input FILE         plain text, one sentence a line; - for standard input
#   --subset NAME        without --input, a split of the data: valid, test, test1, ... (test)
#   --output FILE        file for the translations (standard output)
#   --checkpoint FILE    checkpoint of the model (runs/wmt16_en_ru/base/checkpoint_average.pt)
#   --data-bin DIR       folder with dictionaries and tokenizer (data-bin/wmt16_en_ru)
#   --beam N             beam size (4)
#   --lenpen X           length penalty: scores are divided by length^X, so values above 1 favour long
#                        translations and values below 1 favour short ones (0.6)
#   --max-tokens N       tokens of a batch (4096)
#   anything else        is passed to fairseq-interactive or fairseq-generate, e.g. --cpu
set -euo pipefail
# shellcheck source=scripts/lib/translation.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/translation.sh"

data_bin=$ROOT/data-bin/wmt16_en_ru checkpoint=$ROOT/runs/wmt16_en_ru/base/checkpoint_average.pt
input='' subset=test output='' beam=4 lenpen=0.6 max_tokens=4096
options "input subset output checkpoint data-bin beam lenpen max-tokens" '' "$@"
need_data "$data_bin"
need_checkpoint "$checkpoint"
[ -z "$input" ] || [ "$input" = - ] || [ -s "$input" ] ||
    die "--input $input: no such file, or an empty one"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ -n "$input" ]; then
    lines=$work/input
    if [ "$input" = - ]; then cat; else cat "$input"; fi | plain_lines >"$lines"
    fairseq-interactive "$data_bin" --user-dir "$USER_DIR" --path "$checkpoint" --input - \
        --buffer-size 1024 --max-tokens "$max_tokens" --beam "$beam" --lenpen "$lenpen" \
        --max-len-a 1.5 --max-len-b 10 ${extra[@]+"${extra[@]}"} <"$lines" >"$work/log" ||
        failed "$work/log"
else
    lines=$(sentences "$data_bin" "$subset")
    fairseq-generate "$data_bin" --user-dir "$USER_DIR" --path "$checkpoint" \
        --gen-subset "$subset" --beam "$beam" --lenpen "$lenpen" --max-len-a 1.5 --max-len-b 10 \
        --max-tokens "$max_tokens" ${extra[@]+"${extra[@]}"} >"$work/log" || failed "$work/log"
fi
fairtale log outputs "$work/log" --keep-blank --lines-of "$lines" --output "$work/text"
[ -n "$output" ] || { cat "$work/text" && exit 0; }
mkdir -p "$(dirname "$output")"
mv "$work/text" "$output"
say "$(($(wc -l <"$output"))) translations -> $output"
