"""Check the options of fine-tuning on the command line of ``fairseq-train``."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from ..errors import UserError
from .finetuning_config import fixed_options, flag
from .unfreezing import read_schedule


def check_command(args: Namespace, words: list[str]) -> None:
    """Check the options of fine-tuning, and convert ``--warmup-ratio``; other commands have none.

    Args:
        args: parsed options of a fairseq command.
        words: words of the command line.
    """
    if hasattr(args, "warmup_ratio"):  # the command is fairseq-train
        check_options(args)
        set_warmup(args, words)


def check_options(args: Any) -> None:
    """Refuse options of fine-tuning that contradict each other or other options.

    What depends on the number of layers is checked when the model exists, by
    :func:`~fairtale.optim.parameter_groups.plan_finetuning`.

    Args:
        args: parsed options of ``fairseq-train``.

    Raises:
        UserError: the message contains the options, the rule and the remedy.
    """
    given = fixed_options(args)
    if not given:
        return
    for one, other in (
        ("lr_decay_per_group", "lr_per_group"),
        ("freeze_all_but_last", "unfreeze_schedule"),
    ):
        if one in given and other in given:
            raise UserError(f"{flag(one)} and {flag(other)} contradict each other: give one")
    for name, least in (("finetune_groups", 1), ("freeze_all_but_last", 1)):
        if given.get(name, least) < least:
            raise UserError(f"{flag(name)} {given[name]}: must be at least {least}")
    decay = given.get("lr_decay_per_group", 1.0)
    if not 0.0 < decay <= 1.0:
        raise UserError(
            f"--lr-decay-per-group {decay:g}: must be above 0 and at most 1; to train only the "
            "last layers, use --freeze-all-but-last"
        )
    if "lr_per_group" in given:
        read_rates(given["lr_per_group"])
        if len(args.lr) > 1:
            raise UserError(f"--lr-per-group needs one --lr, not {len(args.lr)} for the epochs")
    if {"finetune_groups"} == given.keys():
        raise UserError(
            f"--finetune-groups {given['finetune_groups']} alone changes nothing: add "
            "--lr-decay-per-group, --lr-per-group or --unfreeze-schedule"
        )
    if "unfreeze_schedule" in given:
        text = given["unfreeze_schedule"]
        schedule = read_schedule(text, None)
        schedule.check_end(text, args.max_update or 0, args.max_epoch or 0, 0)
    _check_trainer(args)


def _check_trainer(args: Any) -> None:
    """Refuse ways of training whose parameters do not stay in their groups."""
    for refused, option in (
        (getattr(args, "use_bmuf", False), "--use-bmuf"),
        (getattr(args, "tpu", False), "--tpu"),
        (getattr(args, "optimizer", None) == "composite", "--optimizer composite"),
        (getattr(args, "zero_sharding", "none") == "os", "--zero-sharding os"),
        (getattr(args, "pipeline_model_parallel", False), "--pipeline-model-parallel"),
        (
            getattr(args, "ddp_backend", "") in ("fully_sharded", "slowmo"),
            f"--ddp-backend {getattr(args, 'ddp_backend', '')}",
        ),
    ):
        if refused:
            given = ", ".join(map(flag, fixed_options(args)))
            raise UserError(f"{option} does not keep groups of parameters: leave out {given} or it")


def read_rates(text: str) -> list[float]:
    """Read the value of ``--lr-per-group``.

    Raises:
        UserError: it is not a list of positive numbers separated by commas.
    """
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        rates = []
    if not rates or not all(0.0 < rate < float("inf") for rate in rates):
        raise UserError(
            f"--lr-per-group {text}: write positive numbers separated by commas, from the "
            "embeddings to the last layers; to freeze layers, use --freeze-all-but-last"
        )
    return rates


def set_warmup(args: Namespace, words: list[str]) -> None:
    """Convert ``--warmup-ratio`` to the schedule's own option, in updates or as ``--cut-frac``.

    Args:
        args: parsed options, which are changed in place.
        words: words of the command line.

    Raises:
        UserError: the ratio is outside (0, 1), the schedule has no warm-up, the number of updates
            is not known, or the warm-up is given twice.
    """
    ratio = args.warmup_ratio
    if ratio is None:
        return
    if not 0.0 < ratio < 1.0:
        raise UserError(f"--warmup-ratio {ratio:g}: must be between 0 and 1")
    target = next((name for name in ("cut_frac", "warmup_updates") if hasattr(args, name)), None)
    if target is None:
        raise UserError(
            f"--warmup-ratio {ratio:g}: --lr-scheduler {args.lr_scheduler} has no warm-up; use "
            "slanted_triangular, polynomial_decay, cosine, inverse_sqrt or fixed"
        )
    if any(word.split("=")[0] == flag(target) for word in words):
        raise UserError(f"--warmup-ratio and {flag(target)} contradict each other: give one")
    if target == "cut_frac":
        args.cut_frac = ratio
    elif not args.max_update:
        raise UserError(f"--warmup-ratio {ratio:g} is a share of --max-update, so give it as well")
    else:
        args.warmup_updates = max(1, round(ratio * args.max_update))
