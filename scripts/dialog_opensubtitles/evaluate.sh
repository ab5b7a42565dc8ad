#!/usr/bin/env bash
# Compare models in one table: bits per response token under the model, then BLEU, chrF, distinct-1/2,
# length in words and F1 of its replies.
#
#   --models "A B"       models; those that are not trained are skipped ("gpt unilm mixture")
#   --runs DIR           folder with a subfolder for each model (runs/EXPERIMENT)
#   --outputs DIR        folder for the replies (outputs/EXPERIMENT)
#   --data-bin DIR       data from prepare.sh (data-bin/EXPERIMENT)
#   --subset NAME        valid or test (test)
#   --beam N             beam size (5)
#   anything else        is passed to fairseq-generate
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

data_bin=$ROOT/data-bin/$EXPERIMENT runs=$ROOT/runs/$EXPERIMENT
outputs=$ROOT/outputs/$EXPERIMENT models="gpt unilm mixture" subset=test beam=5
options "models runs outputs data-bin subset beam" \
    "model checkpoint nbest input output reverse weight" "$@"
device=() # options that fairseq-validate has too
for word in ${extra[@]+"${extra[@]}"}; do
    case $word in --cpu | --fp16 | --bf16) device+=("$word") ;; esac
done
[ -f "$data_bin/dict.txt" ] || die "$data_bin: no such data; make it with prepare.sh"
references=$data_bin/text/$subset.tsv
[ -f "$references" ] || die "$references: no such file, so there are no references"

mkdir -p "$outputs"
rows=() failed=''
for model in $models; do
    checkpoint=$runs/$model/checkpoint_best.pt output=$outputs/$model.$subset.out
    [ -f "$checkpoint" ] || { say "$model is not trained and is skipped" && continue; }
    log=- # the loss of hidden tokens is not a probability of the response
    if [ "$model" != nat ]; then
        say "$model: loss of the responses"
        log=$outputs/$model.$subset.valid.log
        fairseq-validate "$data_bin" --user-dir "$USER_DIR" --path "$checkpoint" \
            --valid-subset "$subset" --max-tokens 8192 --log-format simple \
            ${device[@]+"${device[@]}"} >"$log" 2>&1 ||
            die "fairseq-validate failed on $checkpoint: $(tail -n 1 "$log")"
    fi
    say "generating replies to $subset with $checkpoint"
    fairseq-generate "$data_bin" --user-dir "$USER_DIR" --path "$checkpoint" \
        --gen-subset "$subset" --beam "$beam" --nbest 1 --max-len-b 64 --max-tokens 8192 \
        ${extra[@]+"${extra[@]}"} >"$output.partial" ||
        { tail -n 5 "$output.partial" >&2 && failed+=" $model" && continue; }
    mv "$output.partial" "$output"
    rows+=(--model "$model" "$output" "$log")
done
[ ${#rows[@]} -gt 0 ] || [ -z "$failed" ] || die "fairseq-generate failed for$failed; see above"
[ ${#rows[@]} -gt 0 ] || die "none of $models is trained; see train.sh"
fairtale compare-dialogs "$references" --subset "$subset" "${rows[@]}"
[ -z "$failed" ] || die "not in the table, because fairseq-generate failed:$failed; see above"
