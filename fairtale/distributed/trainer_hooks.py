"""Let fairseq's trainer train a sharded model (``--ddp-backend fsdp2``).

The methods of ``Trainer`` are wrapped. A training with another backend is unchanged.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from fairseq import utils
from fairseq.logging import metrics
from fairseq.optim import lr_scheduler
from fairseq.optim.dynamic_loss_scaler import DynamicLossScaler
from fairseq.trainer import Trainer

from ..compat.trainer_methods import Function, wrap_trainer
from ..errors import UserError
from ..options import add_step
from . import saving_hooks
from .peers import watch_peers
from .sharding_config import DEFAULT_STAGE, add_options, is_sharded
from .sharding_options import check_command, generates

# Importing torch's FSDP2 takes half a second, and every command imports this module, so the
# functions below import what uses it.
if TYPE_CHECKING:
    from .engine import ShardedModel, ShardSettings

logger = logging.getLogger(__name__)


def install() -> None:
    """Add sharded training to ``fairseq-train``; a second call does nothing.

    Call this before :func:`fairtale.optim.finetuning_hooks.install`, which divides the sharded
    parameters into groups.
    """
    add_options()
    add_step(check_command)
    wrappers = (
        ("__init__", _sharding_model),
        ("_build_optimizer", _optimizing_shards),
        ("train_step", _updating),
        ("_prepare_sample", _beginning_batches),
        ("set_num_updates", _unless_skipped),
        ("_reduce_and_log_stats", _unless_skipped),
        ("begin_epoch", _whole),
        ("begin_valid_epoch", _whole),
        ("state_dict", _gathering),
        ("save_checkpoint", _saving),
    )
    if not wrap_trainer("sharding", wrappers):
        return
    # fairseq's layers return transposed tensors, which nothing changes in place
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    saving_hooks.install()
    Trainer.use_distributed_wrapper = _property_of(
        "use_distributed_wrapper", lambda self: _sharding(self) is None
    )
    Trainer.always_call_state_dict_during_save_checkpoint = _property_of(
        "always_call_state_dict_during_save_checkpoint", lambda self: True
    )


def _sharding(trainer: Any) -> ShardedModel | None:
    sharding: ShardedModel | None = getattr(trainer, "_sharding", None)
    return sharding


def _property_of(name: str, value: Callable[[Any], bool]) -> Any:
    """Return a property of the trainer that has another value in sharded trainings."""
    original = getattr(Trainer, name).fget
    return property(lambda self: value(self) if is_sharded(self.cfg) else original(self))


# --------------------------------------------------------------------------------- set-up


def read_settings(cfg: Any) -> ShardSettings:
    """Return what a training's config asks for."""
    from .engine import ShardSettings

    training = cfg.distributed_training
    precision = "bf16" if cfg.common.bf16 else "fp16" if cfg.common.fp16 else "fp32"
    return ShardSettings(
        stage=training.shard_stage or DEFAULT_STAGE,
        precision=precision,
        offload=training.cpu_offload,
        accumulate_locally=training.accumulate_locally,
    )


@contextmanager
def _hidden_options(cfg: Any) -> Iterator[None]:
    """Hide the options from fairseq by which it would cast or refuse the model."""
    offload, cfg.distributed_training.cpu_offload = cfg.distributed_training.cpu_offload, False
    try:
        yield
    finally:
        cfg.distributed_training.cpu_offload = offload


def _sharding_model(original: Function) -> Function:
    def __init__(
        self: Any, cfg: Any, task: Any, model: Any, criterion: Any, quantizer: Any = None
    ) -> None:
        watch_peers()
        if not is_sharded(cfg):
            original(self, cfg, task, model, criterion, quantizer)
            return
        if utils.has_parameters(criterion):
            raise UserError(
                f"--criterion {criterion.__class__.__name__} with --ddp-backend fsdp2: it has "
                "parameters of its own, which would not be trained together; use legacy_ddp"
            )
        settings = read_settings(cfg)
        # fairseq would cast the model, and keep flat copies of its parameters
        cfg.common.bf16 = cfg.common.fp16 = False
        with _hidden_options(cfg):
            # use_distributed_wrapper is True now, so the whole model is not moved to the device
            original(self, cfg, task, model, criterion, quantizer)
        from .engine import ShardedModel
        from .process_group import mesh_of_processes

        self._sharding = ShardedModel(self._model, settings, mesh_of_processes(self.cuda))
        self._criterion = self._criterion.to(self._sharding.device)
        total = sum(p.numel() for p in self._sharding.parameters)
        logger.info(
            f"sharded training: stage {settings.stage}, {settings.precision}, "
            f"{dist.get_world_size()} processes, "
            f"{len(self._sharding.units) - 1} layers, {total:,} parameters"
            + (", in the memory of the CPU" if settings.offload else "")
        )
        if settings.stage == 3 and generates(cfg.task):
            logger.info(
                "the task generates in validation, for which each process gathers the whole model"
            )

    return __init__


def _optimizing_shards(original: Function) -> Function:
    def _build_optimizer(self: Any) -> None:
        sharding = _sharding(self)
        if sharding is None:
            original(self)
            if self.cfg.common.fp16 and hasattr(self.optimizer, "scaler"):
                from .overflow import log_overflows

                log_overflows(self.optimizer.scaler, self._model, self.is_data_parallel_master)
            return
        scaler = _loss_scaler(self.cfg, dist.get_world_size())
        if sharding.settings.precision != "fp16":
            scaler = None
        from .optimizer import build_optimizer

        self._optimizer = build_optimizer(self.cfg.optimizer, sharding, scaler)
        self._lr_scheduler = lr_scheduler.build_lr_scheduler(self.cfg.lr_scheduler, self.optimizer)
        self._lr_scheduler.step_update(0)

    return _build_optimizer


def _loss_scaler(cfg: Any, num_processes: int) -> DynamicLossScaler:
    """Return the loss scaler that fairseq's ``FP16Optimizer`` would have."""
    window, common = cfg.common.fp16_scale_window, cfg.common
    if window is None:
        window = int(2**14 / num_processes / cfg.optimization.update_freq[0])
    return DynamicLossScaler(
        init_scale=common.fp16_init_scale,
        scale_window=window,
        tolerance=common.fp16_scale_tolerance,
        threshold=common.threshold_loss_scale,
        min_loss_scale=common.min_loss_scale,
    )


# -------------------------------------------------------------------------------- updates


def _updating(original: Function) -> Function:
    def train_step(self: Any, samples: Any, raise_oom: bool = False) -> Any:
        sharding = _sharding(self)
        if sharding is None:
            return original(self, samples, raise_oom)
        sharding.begin_update()
        # after an error in a single process the others would wait for it
        log_output = original(self, samples, raise_oom=True)
        if self.optimizer.scaler is not None:
            if self.optimizer.overflowed:
                _log_overflowed_module(self, sharding, samples)
            with metrics.aggregate("train"):
                metrics.log_scalar(
                    "loss_scale", self.optimizer.scaler.loss_scale, priority=700, round=4, weight=0
                )
        return log_output

    return train_step


def _log_overflowed_module(trainer: Any, sharding: ShardedModel, samples: Any) -> None:
    """Log the module in which the forward pass overflowed, if it did."""
    from .overflow import overflowed_module

    losses = trainer.optimizer.losses
    wrong = sum((~loss.isfinite()).any().float() for loss in losses)
    if not sharding.sum_of_processes(wrong):
        return
    trainer._set_seed()

    def run() -> None:
        for sample in samples:
            prepared, _ = trainer._prepare_sample(sample)
            trainer.criterion(trainer.model, prepared)

    name = overflowed_module(trainer.model, run)
    sharding.divide()
    names: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(names, name)
    found = list(dict.fromkeys(name for name in names if name))
    log = logger.warning if sharding.keeps_state else logger.debug
    log(f"the forward pass overflowed in {', '.join(found) or 'the loss'}")


def _beginning_batches(original: Function) -> Function:
    def _prepare_sample(self: Any, *args: Any, **kwargs: Any) -> Any:
        sharding = _sharding(self)
        if sharding is not None and not sharding.is_whole:
            writes_replies = getattr(self.cfg.criterion, "unlikelihood_sequence_prob", 0)
            sharding.begin_batch(all_layers=bool(writes_replies))
        return original(self, *args, **kwargs)

    return _prepare_sample


def _unless_skipped(original: Function) -> Function:
    """Neither count nor log an update whose gradients overflowed."""

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(self._optimizer, "overflowed", False):
            return None
        return original(self, *args, **kwargs)

    return method


def _whole(original: Function) -> Function:
    """Let tasks generate on a single process, from here to the next update.

    In stages 1 and 2, a validation also gathers the parameters once instead of for each batch.
    """

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        sharding = _sharding(self)
        gathers = sharding is not None and sharding.settings.stage < 3 or generates(self.cfg.task)
        if sharding is not None and gathers:
            assert self.optimizer is not None  # is built now, from the shards
            sharding.make_whole()
        return original(self, *args, **kwargs)

    return method


# ---------------------------------------------------------------------------- checkpoints


def _gathering(original: Function) -> Function:
    def state_dict(self: Any) -> Any:
        sharding = _sharding(self)
        if sharding is None:
            return original(self)
        sharding.divide()
        common, precision = self.cfg.common, sharding.settings.precision
        common.bf16, common.fp16 = precision == "bf16", precision == "fp16"
        try:
            state = original(self)  # its config becomes plain dicts in the state
        finally:
            common.bf16 = common.fp16 = False
        return state

    return state_dict


def _saving(original: Function) -> Function:
    """Save a ``crash.pt`` only if all processes have failed together."""

    def save_checkpoint(self: Any, filename: str, extra_state: dict[str, Any]) -> Any:
        if _sharding(self) is not None and os.path.basename(filename) == "crash.pt":
            if not isinstance(sys.exc_info()[1], FloatingPointError):
                return None  # the others would not take part in gathering
            if not self.should_save_checkpoint_on_current_rank:
                self.state_dict()
                return None
        return original(self, filename, extra_state)

    return save_checkpoint
