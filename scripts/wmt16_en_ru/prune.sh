#!/usr/bin/env bash
# Prune attention heads of a trained model: fine-tune it with gates, fix the gates, let the model
# recover, and remove the closed heads. The model may be fairseq's transformer; options of it that are
# not supported are reported. A further run resumes, unless options that change the training differ.
#
#   --checkpoint FILE    checkpoint of the trained model (runs/wmt16_en_ru/base/checkpoint_average.pt)
#   --heads N            number of heads to keep, over all gated attentions together; or
#   --penalty X          penalty for open heads (0.05, 0.1, ...), which determines their number
#   --gated LIST         comma-separated list of encoder, decoder, cross (encoder)
#   --freeze PART        part whose weights are frozen: decoder, encoder, none (decoder)
#   --updates N          number of updates (10000)
#   --fix-update N       update at which the gates are fixed (three quarters of --updates)
#   --ffn-keep RATIO     share of feed-forward units to keep, chosen by their gradients (all)
#   --data-bin DIR       data from prepare.sh (data-bin/wmt16_en_ru)
#   --save-dir DIR       folder for checkpoints, gates.jsonl and pruned.pt, one for each checkpoint and
#                        choice of heads (runs/wmt16_en_ru/prune_N or prune_X)
#   --max-tokens N, --update-tokens N, --precision P    see train.sh
#   anything else        is passed to fairseq-train and takes precedence over the options below
set -euo pipefail
# shellcheck source=scripts/lib/translation.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/translation.sh"

data_bin=$ROOT/data-bin/wmt16_en_ru checkpoint=$ROOT/runs/wmt16_en_ru/base/checkpoint_average.pt
heads='' penalty='' gated=encoder freeze=decoder updates=10000 fix_update='' ffn_keep='' save_dir=''
max_tokens='' update_tokens='' precision=auto
options "checkpoint heads penalty gated freeze updates fix-update ffn-keep data-bin save-dir \
max-tokens update-tokens precision" '' "$@"
need_data "$data_bin"
need_checkpoint "$checkpoint"
[[ $updates =~ ^[1-9][0-9]*$ ]] || die "--updates $updates: must be a whole number of at least 1"
fix=${fix_update:-$((updates * 3 / 4))} warmup=$((updates < 10 ? 1 : updates < 5000 ? updates / 10 : 500))
if [ -n "$heads" ] && [ -z "$penalty" ]; then # the number of open heads falls from all to $heads
    goal=(--target-heads "$heads" --l0-warmup-updates $((fix / 5)))
elif [ -n "$penalty" ] && [ -z "$heads" ]; then goal=(--l0-penalty "$penalty")
else die "give either --heads N (heads to keep) or --penalty X (penalty for open heads)"; fi
save_dir=${save_dir:-$ROOT/runs/wmt16_en_ru/prune_${heads:-$penalty}}
[ "$freeze" = none ] || goal+=(--freeze "$freeze")
options=$(fairtale transformer-options "$checkpoint") # fails for models that cannot be pruned
check_resumed # fail if the training in $save_dir began with other settings
read -r -a shape <<<"$(tr '\n' ' ' <<<"$options")" # options of the checkpoint's shape

train "$save_dir" --max-tokens "${max_tokens:-8192}" --update-tokens "${update_tokens:-24576}" \
    --cpu-max-tokens "${max_tokens:-2048}" --cpu-update-tokens "${update_tokens:-4096}" \
    --precision "$precision" --width 512 \
    fairseq-train "$data_bin" --user-dir "$USER_DIR" --task wmt16_translation \
    --arch transformer_hcg "${shape[@]}" --gated-attention "$gated" \
    --finetune-from-model "$checkpoint" --criterion l0_gated "${goal[@]}" \
    --gates-fix-update "$fix" --required-batch-size-multiple 1 --label-smoothing 0.1 --dropout 0.1 \
    --optimizer adam --adam-betas '(0.9, 0.98)' --lr 3e-4 --lr-scheduler inverse_sqrt \
    --warmup-updates "$warmup" --max-update "$updates" \
    --validate-interval-updates 1000 --save-interval-updates 1000 --keep-interval-updates 5 \
    --no-epoch-checkpoints --validate-interval 1000000 --log-format json --log-interval 50 \
    --tensorboard-logdir "$save_dir/tensorboard" --save-dir "$save_dir" \
    ${extra[@]+"${extra[@]}"}
need_trained "$save_dir"
fairtale prune "$save_dir/checkpoint_last.pt" --output "$save_dir/pruned.pt" --by gates \
    ${ffn_keep:+--ffn-keep "$ffn_keep" --data "$data_bin"}
say "gates: fairtale plot-gates $save_dir --output gates.gif"
say "compare: fairtale prune-report $checkpoint $save_dir/pruned.pt --data $data_bin --output report.md"
