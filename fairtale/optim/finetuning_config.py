"""Options of fine-tuning: groups of layers, their rates, freezing, relative warm-up.

fairseq has no place for options of a plug-in that concern every optimizer. :func:`add_options`
therefore adds the fields of :class:`FinetuningConfig` to fairseq's ``OptimizationConfig``, where
``--lr``, ``--clip-norm`` and ``--max-update`` are. So the options work with every optimizer, and
each checkpoint contains them in ``cfg.optimization``.
"""

from dataclasses import dataclass, field
from typing import Any, Dict, Optional

from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.configs import OptimizationConfig

from ..options import add_fields


@dataclass
class FinetuningConfig(FairseqDataclass):
    """Options that are added to those of ``fairseq-train``."""

    finetune_groups: Optional[int] = field(
        default=None,
        metadata={
            "help": "divide the layers into N groups, which may have learning rates of their own; "
            "the embeddings are one more group below them, and the final norm and an untied output "
            "projection belong to the last group (default: each layer is a group)"
        },
    )
    lr_decay_per_group: Optional[float] = field(
        default=None,
        metadata={
            "help": "learning rate of the group that is k groups below the last one: "
            "--lr * F ** k, times the schedule"
        },
    )
    lr_per_group: Optional[str] = field(
        default=None,
        metadata={
            "help": "learning rates of all groups from bottom to top, separated by commas, at the "
            "point where the schedule reaches --lr; the first is that of the embeddings"
        },
    )
    freeze_all_but_last: Optional[int] = field(
        default=None,
        metadata={
            "help": "train only the last K layers, the final norm and an untied output projection; "
            "the embeddings (with a tied output projection) and the other layers stay as they are"
        },
    )
    unfreeze_schedule: Optional[str] = field(
        default=None,
        metadata={
            "help": "train only the last groups at first: START:GROUPS,... with numbers of updates "
            "(0:1,200:2,400:all) or of epochs (1e:1,2e:all), or every:100 or every:1e for one more "
            "group each time; the embeddings are the last group to be trained"
        },
    )
    warmup_ratio: Optional[float] = field(
        default=None,
        metadata={
            "help": "warm up the learning rate during this share of --max-update "
            "(instead of --warmup-updates)"
        },
    )


# a training is resumed only with the values of these options that it began with
FIXED_OPTIONS = (
    "finetune_groups",
    "lr_decay_per_group",
    "lr_per_group",
    "freeze_all_but_last",
    "unfreeze_schedule",
)


def flag(name: str) -> str:
    """Return the command-line form of an option's name."""
    return "--" + name.replace("_", "-")


def fixed_options(optimization: Any) -> Dict[str, Any]:
    """Return the fine-tuning options that are given in a config, or in that of a checkpoint.

    Args:
        optimization: the config ``cfg.optimization``, a dict, a namespace, or None.
    """
    found = {}
    for name in FIXED_OPTIONS:
        if isinstance(optimization, dict):
            value = optimization.get(name)
        else:
            value = getattr(optimization, name, None)
        if value is not None:
            found[name] = value
    return found


def add_options() -> None:
    """Add the options to fairseq's ``OptimizationConfig``; a second call changes nothing."""
    add_fields(OptimizationConfig, FinetuningConfig)
