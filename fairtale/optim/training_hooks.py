"""Add hooks to fairseq's training loop, at the end of each update and after each validation.

A criterion or schedule that needs a hook installs it when it is built. Each hook replaces one
function of fairseq; installing it again does nothing.
"""

from __future__ import annotations

import functools
from typing import Any

from fairseq.trainer import Trainer

from ..compat.early_stopping import modules_of_fairseq_train
from ..errors import UserError
from ..interfaces import FollowsUpdates, StepsOnValidation


def install_update_hook() -> None:
    """Call ``end_update`` of the criterion after each update.

    Only criterions that are :class:`~fairtale.interfaces.FollowsUpdates` are called. fairseq has no
    such call. The beginning of the next update would be too late, because validation and saving
    come before it, and because no update follows the last one.

    ``end_update`` is called once per update, independently of ``--update-freq``, on every worker
    and with any task, after the optimizer's step and before validation and saving. It is not called
    for a step that is skipped because gradients overflowed in fp16 or memory ran out.
    """
    original = Trainer.train_step
    if getattr(original, "ends_updates", False):
        return

    @functools.wraps(original)
    def train_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        updates_before = self.get_num_updates()
        log_output = original(self, *args, **kwargs)
        num_updates, criterion = self.get_num_updates(), self.get_criterion()
        # with --amp, a step that overflowed calls itself again; the inner call has then already
        # ended the update
        ended = getattr(self, "last_ended_update", None) == num_updates
        if num_updates > updates_before and not ended and isinstance(criterion, FollowsUpdates):
            self.last_ended_update = num_updates
            criterion.end_update(self.get_model(), num_updates)
        return log_output

    train_step.ends_updates = True  # type: ignore[attr-defined]  # a mark on the function
    Trainer.train_step = train_step


def install_validation_hook() -> None:
    """Call ``step_validation`` of the learning-rate schedule after each validation.

    fairseq passes a validation result to the schedule only once per epoch, so a schedule ignores
    the other validations of ``--validate-interval-updates``. With this hook, a schedule that is
    :class:`~fairtale.interfaces.StepsOnValidation` gets the loss of the first subset after every
    validation.

    Raises:
        UserError: the process is not ``fairseq-train``, so the hook would never be called.
    """
    modules = modules_of_fairseq_train()
    if not modules:
        raise UserError(
            "this learning-rate schedule is updated by validations, so it works only in "
            "fairseq-train"
        )
    for module in modules:
        if not getattr(module.validate, "updates_schedule", False):
            module.validate = _updating_the_schedule(module.validate)  # type: ignore[attr-defined]


def _updating_the_schedule(original: Any) -> Any:
    @functools.wraps(original)
    def validate(cfg: Any, trainer: Any, *args: Any, **kwargs: Any) -> Any:
        losses = original(cfg, trainer, *args, **kwargs)
        schedule = trainer.lr_scheduler
        if isinstance(schedule, StepsOnValidation) and losses and losses[0] is not None:
            schedule.step_validation(losses[0])
        return losses

    validate.updates_schedule = True  # type: ignore[attr-defined]  # a mark on the function
    return validate
