#!/usr/bin/env bash
# Let a trained model lose attention heads: tune it with gates, fix them, recover, and remove the
# closed heads. A checkpoint of fairseq's transformer will do; which options of it will not, is said.
# Running it again goes on.
#
#   --checkpoint FILE    a trained model (runs/wmt16_en_ru/base/checkpoint_average.pt)
#   --heads N            heads that stay, in all gated attentions together; or
#   --penalty X          price of open heads (0.05, 0.1, ...): how many stay shows in the end
#   --gated LIST         encoder, decoder, cross, with commas between (encoder)
#   --freeze PART        whose weights stay as they are: decoder, encoder, none (decoder)
#   --updates N          of tuning (10000)
#   --fix-update N       then gates are fixed, the rest is recovery (three quarters of --updates)
#   --ffn-keep RATIO     share of feed-forward units that stays, chosen by their gradients (all)
#   --data-bin DIR       from prepare.sh (data-bin/wmt16_en_ru)
#   --save-dir DIR       checkpoints, gates.jsonl, pruned.pt (runs/wmt16_en_ru/prune_N or _X); one for
#                        each checkpoint and choice of heads
#   --max-tokens N, --update-tokens N    see train.sh
#   anything else        goes to fairseq-train and wins over what is set below
set -euo pipefail
# shellcheck source=scripts/lib/translation.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/translation.sh"

checkpoint=$runs/base/checkpoint_average.pt heads='' penalty='' gated=encoder freeze=decoder
updates=10000 fix='' ffn_keep='' save_dir='' max_tokens='' update_tokens='' extra=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage "${BASH_SOURCE[0]}" && exit 0 ;;
        --checkpoint) need_value "$@" && checkpoint=$2 && shift 2 ;;
        --heads) need_value "$@" && heads=$2 && shift 2 ;;
        --penalty) need_value "$@" && penalty=$2 && shift 2 ;;
        --gated) need_value "$@" && gated=$2 && shift 2 ;;
        --freeze) need_value "$@" && freeze=$2 && shift 2 ;;
        --updates) need_value "$@" && updates=$2 && shift 2 ;;
        --fix-update) need_value "$@" && fix=$2 && shift 2 ;;
        --ffn-keep) need_value "$@" && ffn_keep=$2 && shift 2 ;;
        --data-bin) need_value "$@" && data_bin=$2 && shift 2 ;;
        --save-dir) need_value "$@" && save_dir=$2 && shift 2 ;;
        --max-tokens) need_value "$@" && max_tokens=$2 && shift 2 ;;
        --update-tokens) need_value "$@" && update_tokens=$2 && shift 2 ;;
        *) extra+=("$1") && shift ;;
    esac
done
need_data
need_checkpoint "$checkpoint"
if [ -n "$heads" ] && [ -z "$penalty" ]; then goal=(--target-heads "$heads")
elif [ -n "$penalty" ] && [ -z "$heads" ]; then goal=(--l0-penalty "$penalty")
else die "say how many heads may stay (--heads N) or what they cost (--penalty X), one of them"; fi
[[ $updates =~ ^[1-9][0-9]*$ ]] || die "--updates $updates: a whole number of at least 1"
fix=${fix:-$((updates * 3 / 4))} warmup=$((updates < 10 ? 1 : updates < 5000 ? updates / 10 : 500))
[ -z "$heads" ] || goal+=(--l0-warmup-updates $((fix / 5))) # the number comes down from all heads
[ "$freeze" = none ] || goal+=(--freeze "$freeze")
save_dir=${save_dir:-$runs/prune_${heads:-$penalty}}
settings="checkpoint $(absolute "$checkpoint") $(cksum <"$checkpoint" | tr ' ' '-')
goal ${goal[0]} ${goal[1]}
gated $gated
freeze $freeze"
check_resumed "$save_dir" prune.txt "$settings"
options=$(fairtale transformer-options "$checkpoint")
read -r -a shape <<<"$(tr '\n' ' ' <<<"$options")"

mkdir -p "$save_dir"
printf '%s\n' "$settings" >"$save_dir/prune.txt"
train_translation --arch transformer_hcg --gated-attention "$gated" \
    --finetune-from-model "$checkpoint" --criterion l0_gated "${goal[@]}" \
    --gates-fix-update "$fix" --lr 3e-4 --warmup-updates "$warmup" \
    --max-update "$updates" ${extra[@]+"${extra[@]}"}
smaller=(--by gates)
[ -z "$ffn_keep" ] || smaller+=(--ffn-keep "$ffn_keep" --data "$data_bin")
fairtale prune "$save_dir/checkpoint_last.pt" --output "$save_dir/pruned.pt" "${smaller[@]}"
say "gates: fairtale plot-gates $save_dir --output gates.gif"
say "compare: fairtale prune-report $checkpoint $save_dir/pruned.pt --data $data_bin --output report.md"
