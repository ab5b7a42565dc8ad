"""Refuse options that sharded training does not support, before anything is loaded."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from ..errors import UserError
from .sharding_config import BACKEND, DEFAULT_STAGE, STAGES

WITH = f"with --ddp-backend {BACKEND}"
# options that must have their default, and the remedy
UNSUPPORTED = {
    "amp": "use --bf16 or --fp16, which keep the optimizer's parameters in fp32",
    "memory_efficient_fp16": "use --fp16, which keeps no second copy of the parameters",
    "memory_efficient_bf16": "use --bf16, which keeps no second copy of the parameters",
    "tpu": "FSDP2 runs on GPUs and CPUs",
    "use_bmuf": "leave it out",
    "pipeline_model_parallel": "leave it out; stage 3 divides the parameters",
    "use_sharded_state": "it is fairscale's; checkpoints here are whole files",
    "no_reshard_after_forward": "it is fairscale's; use --shard-stage 2",
    "store_ema": "average checkpoints after the training (fairtale average)",
    "base_layers": "leave it out",
    "quantization_config_path": "leave it out",
    "quant_noise_pq": "leave it out",
    "quant_noise_scalar": "leave it out",
    "encoder_layerdrop": "the processes would drop different layers; use --dropout",
    "decoder_layerdrop": "the processes would drop different layers; use --dropout",
    "skip_remainder_batch": "it depends on the number of processes; leave it out",
}
# options of tasks by which processes generate in validation, each by itself
GENERATING = ("sample_prompts", "eval_bleu", "eval_bleu_sentences", "sample_translations")
OWN = ("shard_stage", "accumulate_locally", "save_sharded")
# options of saving that must have their default with --save-sharded, and the remedy
UNSUPPORTED_SAVING = {
    "write_checkpoints_asynchronously": "--save-sharded does so by itself",
    "no_last_checkpoints": "the newest folder is what a training goes on from",
    "keep_best_checkpoints": "the best one is kept by itself",
    "checkpoint_suffix": "leave it out",
}


def check_command(args: Namespace, words: list[str]) -> None:
    """Check the options of sharding; other commands than ``fairseq-train`` have none.

    Args:
        args: parsed options of a fairseq command.
        words: words of the command line.
    """
    if hasattr(args, "shard_stage") and hasattr(args, "update_freq"):
        check_options(args)


def check_options(args: Any) -> None:
    """Refuse options that contradict each other, or that sharded training does not support.

    Args:
        args: parsed options of ``fairseq-train``, or an object with these attributes.

    Raises:
        UserError: the message names all refused options.
    """
    if str(args.ddp_backend) != BACKEND:
        for name in OWN:
            if getattr(args, name, None):
                raise UserError(f"{_flag(name)} needs --ddp-backend {BACKEND}")
        return
    if args.shard_stage is not None and args.shard_stage not in STAGES:
        raise UserError(
            f"--shard-stage {args.shard_stage}: must be 1 (optimizer state), 2 (and gradients) or "
            "3 (and parameters); for 0 use --ddp-backend legacy_ddp"
        )
    refused = [
        f"{_flag(name)} ({remedy})"
        for name, remedy in UNSUPPORTED.items()
        if getattr(args, name, None)
    ]
    if str(getattr(args, "zero_sharding", "none")) != "none":
        refused.append("--zero-sharding (it is fairscale's; use --shard-stage 1)")
    if str(getattr(args, "ddp_comm_hook", "none")) != "none":
        refused.append("--ddp-comm-hook (leave it out)")
    if (getattr(args, "model_parallel_size", 1) or 1) > 1:
        refused.append("--model-parallel-size (leave it out; stage 3 divides the parameters)")
    if refused:
        raise UserError(f"{WITH}, these options are not supported: {'; '.join(refused)}")
    stage = args.shard_stage or DEFAULT_STAGE
    if stage == 1 and args.accumulate_locally:
        raise UserError("--accumulate-locally: stage 1 always does so; leave it out")
    if args.save_sharded:
        _check_saving(args)
    if stage == 3 and getattr(args, "unlikelihood_sequence_prob", 0):
        raise UserError(
            f"--unlikelihood-sequence-prob {args.unlikelihood_sequence_prob} with --shard-stage 3: "
            "generation in an update needs whole parameters in each process; use --shard-stage 2"
        )


def _check_saving(args: Any) -> None:
    refused = [
        f"{_flag(name)} ({remedy})"
        for name, remedy in UNSUPPORTED_SAVING.items()
        if getattr(args, name, None) not in (None, False, -1, "")
    ]
    if getattr(args, "keep_interval_updates_pattern", -1) != -1:
        refused.append("--keep-interval-updates-pattern (use --keep-interval-updates)")
    if refused:
        raise UserError(f"with --save-sharded, these are not supported: {'; '.join(refused)}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def generates(task_cfg: Any) -> bool:
    """Return whether a task with this config generates in validation."""
    return any(getattr(task_cfg, name, None) for name in GENERATING)
