"""Let a training go on with another learning-rate schedule than it began with."""

import functools
from collections.abc import Callable
from typing import Any

from fairseq.optim.lr_scheduler import FairseqLRScheduler
from fairseq.optim.lr_scheduler.reduce_lr_on_plateau import ReduceLROnPlateauLRSchedule


def cure_foreign_schedules() -> None:
    """Let schedules load a state that holds no best result of a validation.

    ``fixed``, fairseq's default, writes none, so that going on with another schedule ends in a
    KeyError. The others write None until the end of an epoch, so that ``reduce_lr_on_plateau``
    goes on to the end of an epoch and fails in comparing with it. Remove this work-around once
    each schedule loads only states of its own.
    """
    for schedule in (FairseqLRScheduler, ReduceLROnPlateauLRSchedule):
        schedule.load_state_dict = _if_there_is_a_best(schedule.load_state_dict)


def _if_there_is_a_best(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def load_state_dict(self: Any, state_dict: dict[str, Any]) -> None:
        if state_dict.get("best") is not None:
            original(self, state_dict)

    return load_state_dict
