"""Options of sharded training, added to fairseq's ``DistributedTrainingConfig``."""

from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.criterions import adaptive_loss
from fairseq.dataclass import FairseqDataclass, configs, constants
from fairseq.dataclass.configs import DistributedTrainingConfig

from ..options import add_fields

BACKEND = "fsdp2"  # the word behind --ddp-backend
STAGES = (1, 2, 3)
DEFAULT_STAGE = 2


@dataclass
class ShardingConfig(FairseqDataclass):
    """Options that are added to those of ``fairseq-train``."""

    shard_stage: Optional[int] = field(
        default=None,
        metadata={
            "help": "with --ddp-backend fsdp2, what the processes divide, as in DeepSpeed's "
            "ZeRO: 1 the fp32 parameters and the optimizer's state, 2 also gradients, 3 also the "
            "parameters that a layer computes with (default: 2)"
        },
    )
    accumulate_locally: bool = field(
        default=False,
        metadata={
            "help": "with --ddp-backend fsdp2 and --update-freq, add up whole gradients in each "
            "process and reduce them once per update instead of once per batch, which takes memory "
            "for all gradients; stage 1 always does so"
        },
    )
    save_sharded: bool = field(
        default=False,
        metadata={
            "help": "with --ddp-backend fsdp2, save checkpoints as folders in which each process "
            "writes its own shards (torch's distributed checkpoint), while the training goes on; "
            "fairtale consolidate makes an ordinary checkpoint of one"
        },
    )


def add_options() -> None:
    """Add the options and the backend to fairseq's config; a second call changes nothing."""
    if "shard_stage" in DistributedTrainingConfig.__dataclass_fields__:
        return
    add_fields(DistributedTrainingConfig, ShardingConfig)
    # the choices of --ddp-backend are the type of its field
    choices = constants.ChoiceEnum([*(c.value for c in constants.DDP_BACKEND_CHOICES), BACKEND])
    constants.DDP_BACKEND_CHOICES = configs.DDP_BACKEND_CHOICES = choices
    for config in (DistributedTrainingConfig, adaptive_loss.AdaptiveLossConfig):
        config.__dataclass_fields__["ddp_backend"].type = choices
        config.__annotations__["ddp_backend"] = choices


def is_sharded(cfg: Any) -> bool:
    """Return whether a training's config asks for sharding."""
    return str(cfg.distributed_training.ddp_backend) == BACKEND


def saves_shards(cfg: Any) -> bool:
    """Return whether a training's config asks for checkpoints of shards."""
    return is_sharded(cfg) and bool(cfg.distributed_training.save_sharded)
