#!/usr/bin/env bash
# Fine-tune a pretrained GPT in several ways with equal numbers of updates, and compare them in a table and
# a figure. A further run goes on where this one stopped; finished trainings are not repeated.
#
#   --settings "NAME.."    see train.sh ("last1 last2 last3 all gradual adapters"); the model as it is
#                          always comes first
#   --seeds "N.."          seeds of the trainings ("1 2 3")
#   --updates N            updates of each training (1000)
#   --output DIR           folder for the trainings, table.md and table.png (runs/finetune_rugpt3)
#   --base, --data-bin, and anything else: as in train.sh
set -euo pipefail
# shellcheck source=scripts/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/common.sh"

scripts=$ROOT/scripts/$EXPERIMENT
settings="last1 last2 last3 all gradual adapters" seeds="1 2 3" updates=1000
output=$ROOT/runs/finetune_rugpt3 base=$ROOT/models/rugpt3small/checkpoint.pt
data_bin=$ROOT/data-bin/finetune_rugpt3 tokens_per_sample=1024
options "settings seeds updates output base data-bin tokens-per-sample" "setting save-dir seed" "$@"
[ -f "$base" ] || die "--base $base: no such checkpoint; make it with: fairtale gpt2 import"

# What is wrong is said now, and not after hours of training.
need_count --updates "$updates"
for name in $settings; do
    case $name in
        last[1-9] | all | gradual | adapters) ;;
        *) die "--settings $settings: $name must be all, last1 to last9, gradual or adapters" ;;
    esac
done
for seed in $seeds; do
    case $seed in *[!0-9]*) die "--seeds $seeds: $seed is not a whole number" ;; esac
done
for list in "--settings $settings" "--seeds $seeds"; do
    words=${list#* }
    [ -n "${words// /}" ] || die "$list: name at least one"
    [ -z "$(tr ' ' '\n' <<<"$words" | grep . | sort | uniq -d)" ] || die "$list: name each once"
done

# Show how far a training is, from its log on standard input.  progress UPDATES
progress() {
    awk -v all="$1" -v tty="$([ -t 2 ] && echo 1)" '
        tty && /train_inner/ && match($0, /"num_updates": "[0-9]+"/) {
            printf "\r   update %d of %d ", substr($0, RSTART + 16, RLENGTH - 17), all; fflush()
        } END { if (tty) printf "\r" }' >&2
}

mkdir -p "$output"
say "the model as it is"
fairseq-validate "$data_bin" --user-dir "$USER_DIR" --task story_lm --path "$base" \
    --tokens-per-sample "$tokens_per_sample" --sample-break-mode split --max-tokens 2048 \
    --log-format simple >"$output/as_it_is.log" 2>&1 || failed "$output/as_it_is.log"

read -ra names <<<"$settings"
read -ra numbers <<<"$seeds"
total=$((${#names[@]} * ${#numbers[@]})) number=0 table=(--setting "as it is" "$output/as_it_is.log")
for name in "${names[@]}"; do
    table+=(--setting "$name")
    for seed in "${numbers[@]}"; do
        run=$output/$name-$seed number=$((number + 1))
        table+=("$run")
        if [ -f "$run/complete" ]; then
            [ "$(<"$run/complete")" = "$updates" ] ||
                die "$run has $(<"$run/complete") updates, not $updates: give another --output"
            continue
        fi
        say "training $number of $total: $name, seed $seed -> $run"
        bash "$scripts/train.sh" --setting "$name" --base "$base" --data-bin "$data_bin" \
            --save-dir "$run" --updates "$updates" --tokens-per-sample "$tokens_per_sample" \
            --seed "$seed" ${extra[@]+"${extra[@]}"} 2>&1 | tee "$output/last.log" |
            progress "$updates" || failed "$output/last.log"
        say "$(grep -oE '"valid_(ppl|bpb)": "[^"]*"' "$run/train.log" | tail -n 2 | tr -d '"' | xargs)"
        echo "$updates" >"$run/complete"
    done
done
fairtale compare-finetuning "${table[@]}" --output "$output/table.md" --figure "$output/table.png"
cat "$output/table.md"
