"""Let fairseq's trainer freeze, unfreeze and train groups of layers as the options say.

The optimizer gets all parameters that are trained at some time, each in its group, so that nothing
has to be added to it later. Freezing is only ``requires_grad``: a frozen parameter gets no
gradient, so the optimizer neither changes it nor keeps a state for it, and the backward pass ends
at the lowest trained layer.
"""

from __future__ import annotations

import functools
import logging
import os
from typing import Any

from fairseq import checkpoint_utils
from fairseq.distributed import DistributedTimeoutWrapper
from fairseq.logging import metrics

from ..compat import read_checkpoint
from ..compat.trainer_methods import Function, wrap_trainer
from ..errors import UserError
from ..options import add_step
from .finetuning_config import FIXED_OPTIONS, add_options, fixed_options, flag
from .finetuning_options import check_command
from .parameter_groups import FinetuningPlan, plan_finetuning

logger = logging.getLogger(__name__)


def install() -> None:
    """Add the options of fine-tuning to ``fairseq-train``; a second call does nothing."""
    add_options()
    add_step(check_command)
    wrappers = (
        ("__init__", _planning),
        ("_build_optimizer", _dividing),
        ("load_checkpoint", _refusing_other_groups),
        ("begin_epoch", _following_epochs),
        ("train_step", _unfreezing),
        ("lr_step_update", _logging_rates),
    )
    if wrap_trainer("finetuning", wrappers):
        checkpoint_utils.load_checkpoint = _checking_length(checkpoint_utils.load_checkpoint)


def _planning(original: Function) -> Function:
    def __init__(self: Any, cfg: Any, *args: Any, **kwargs: Any) -> None:
        original(self, cfg, *args, **kwargs)
        cfg = self.cfg
        plan = plan_finetuning(self._model, self._criterion, cfg.optimization)
        self._finetuning_plan, self._finetuning_epoch = plan, 1
        if plan is None:
            return
        # one flat tensor of all parameters could not have groups
        cfg.common.fp16_no_flatten_grads = True
        self._finetuning_trained = None
        _freeze(self, plan)
        for line in ["fine-tuning in groups:", *plan.table(float(cfg.optimization.lr[0]))]:
            logger.info(line)

    return __init__


def _plan(trainer: Any) -> FinetuningPlan | None:
    plan: FinetuningPlan | None = getattr(trainer, "_finetuning_plan", None)
    return plan


def _freeze(trainer: Any, plan: FinetuningPlan) -> None:
    """Let the groups require gradients that are trained now, and no others."""
    trained = plan.trained(trainer.get_num_updates(), trainer._finetuning_epoch)
    if trained == trainer._finetuning_trained:
        return
    for group, is_trained in zip(plan.groups, trained):
        for parameter in group.parameters:
            parameter.requires_grad = is_trained
    if trainer._finetuning_trained is not None:
        names = [group.name for group, is_trained in zip(plan.groups, trained) if is_trained]
        logger.info(f"training now: {', '.join(names)} @ {trainer.get_num_updates()} updates")
        # torch's DDP registers the parameters that require gradients when it is built
        if isinstance(trainer._wrapped_model, DistributedTimeoutWrapper):
            # the thread of --heartbeat-timeout would end the process
            trainer._wrapped_model._terminated = True
        trainer._wrapped_model = None
    trainer._finetuning_trained = trained


def _dividing(original: Function) -> Function:
    def _build_optimizer(self: Any) -> None:
        plan = _plan(self)
        if plan is None:
            original(self)
            return
        assert self.model is not None  # DDP is built now, with the frozen parameters
        for group in plan.groups:
            for parameter in group.parameters:
                parameter.requires_grad = True
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        parameters += [p for p in self.criterion.parameters() if p.requires_grad]
        original(self)
        copies = dict(zip(map(id, parameters), self.optimizer.params, strict=True))
        _divide_optimizer(self.optimizer, plan, copies)
        for group, is_trained in zip(plan.groups, self._finetuning_trained):
            for parameter in group.parameters:
                parameter.requires_grad = is_trained
                copy = copies[id(parameter)]
                if not is_trained:
                    # the fp32 copy of a frozen parameter would be decayed with its gradient of zero
                    copy.grad = None

    return _build_optimizer


def _divide_optimizer(optimizer: Any, plan: FinetuningPlan, copies: dict[int, Any]) -> None:
    """Replace an optimizer's only group of parameters by the groups of the plan.

    Args:
        optimizer: fairseq's optimizer, perhaps with a wrapper for fp16 or bf16.
        plan: the groups.
        copies: what the optimizer changes, by the id of the model's parameter: the parameter
            itself, or its copy in fp32.
    """
    inner = getattr(optimizer, "fp32_optimizer", getattr(optimizer, "wrapped_optimizer", optimizer))
    (whole,) = inner.optimizer.param_groups
    lr = inner.get_lr()
    inner.optimizer.param_groups[:] = [
        {**whole, "params": [copies[id(p)] for p in group.parameters]} for group in plan.groups
    ]

    def set_lr(lr: float) -> None:
        inner.scheduled_lr = lr
        for own, group in zip(plan.groups, inner.param_groups, strict=True):
            group["lr"] = lr * own.factor

    inner.set_lr = set_lr
    inner.get_lr = lambda: inner.scheduled_lr
    set_lr(lr)


def _unfreezing(original: Function) -> Function:
    def train_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        plan = _plan(self)
        if plan is not None:
            _freeze(self, plan)
        return original(self, *args, **kwargs)

    return train_step


def _following_epochs(original: Function) -> Function:
    def begin_epoch(self: Any, epoch: int) -> None:
        self._finetuning_epoch = epoch
        original(self, epoch)

    return begin_epoch


def _logging_rates(original: Function) -> Function:
    def lr_step_update(self: Any) -> Any:
        new_lr = original(self)
        plan = _plan(self)
        if plan is not None:
            trained = plan.trained(self.get_num_updates(), self._finetuning_epoch)
            for number, settings in enumerate(self.optimizer.param_groups):
                rate = settings["lr"] if trained[number] else 0.0
                name = f"lr_{plan.groups[number].name}"
                metrics.log_scalar(name, rate, weight=0, priority=301 + number)
        return new_lr

    return lr_step_update


def _refusing_other_groups(original: Function) -> Function:
    def load_checkpoint(
        self: Any, filename: str, reset_optimizer: bool = False, *args: Any, **kwargs: Any
    ) -> Any:
        if not reset_optimizer and os.path.isfile(filename):
            check_resumed(filename, self.cfg.optimization)
        return original(self, filename, reset_optimizer, *args, **kwargs)

    return load_checkpoint


def check_resumed(filename: str, optimization: Any) -> None:
    """Refuse to resume a training with other groups, rates or freezing than it began with.

    Args:
        filename: checkpoint of the training.
        optimization: config of this training.

    Raises:
        UserError: an option differs; the message names it.
    """
    saved = read_checkpoint(filename).get("cfg") or {}
    before, now = fixed_options(saved.get("optimization")), fixed_options(optimization)

    def said(name: str, options: dict[str, Any]) -> str:
        return f"{flag(name)} {options[name]}" if name in options else f"no {flag(name)}"

    differing = [name for name in FIXED_OPTIONS if before.get(name) != now.get(name)]
    if differing:
        changes = "; ".join(f"{said(n, before)}, now {said(n, now)}" for n in differing)
        raise UserError(
            f"{filename} belongs to a training with {changes}: resume it with the same options, or "
            "start a new one from its weights (--finetune-from-model, with another --save-dir)"
        )


def _checking_length(original: Function) -> Function:
    @functools.wraps(original)
    def load_checkpoint(cfg: Any, trainer: Any, **kwargs: Any) -> Any:
        extra_state, epoch_itr = original(cfg, trainer, **kwargs)
        plan = _plan(trainer)
        optimization = trainer.cfg.optimization
        # with different numbers of batches an update, an epoch has no fixed number of updates
        fixed = len(set(optimization.update_freq)) == 1
        if plan is not None and plan.schedule is not None and fixed:
            epoch_updates = -(-len(epoch_itr) // optimization.update_freq[0])
            limits = optimization.max_update or 0, optimization.max_epoch or 0
            plan.schedule.check_end(plan.schedule_text, *limits, epoch_updates)
        return extra_state, epoch_itr

    return load_checkpoint
