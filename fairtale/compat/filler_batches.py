"""Count what is real in an update in which a worker has fewer batches than others."""

import functools
from typing import Any

import torch
from fairseq.trainer import Trainer


def cure_filler_batches() -> None:
    """Let a worker's filler batches count nothing, and its real batches count.

    At the end of an epoch some workers have a batch fewer than others and repeat one as a filler,
    whose gradient is multiplied by zero. With ``--update-freq`` above 1, fairseq then also sets the
    sample size of the worker's real batches in the same update to zero, so that the gradient is too
    large and the log lacks them. Here fillers come first in their update, and have size zero.
    Remove this work-around once ``Trainer.train_step`` adds up the sizes of real batches.
    """
    original = Trainer.train_step

    @functools.wraps(original)
    def train_step(self: Any, samples: Any, *args: Any, **kwargs: Any) -> Any:
        real = [sample for sample in samples if sample]
        if not real or len(real) == len(samples):
            return original(self, samples, *args, **kwargs)
        fillers = [sample for sample in samples if not sample]
        step = self.task.train_step

        def counting(*step_args: Any, ignore_grad: bool = False, **step_kwargs: Any) -> Any:
            loss, size, log = step(*step_args, ignore_grad=ignore_grad, **step_kwargs)
            if ignore_grad:
                size, log = _zero(size), {name: _zero(value) for name, value in log.items()}
            return loss, size, log

        self.task.train_step = counting
        try:
            return original(self, fillers + real, *args, **kwargs)
        finally:
            del self.task.train_step

    Trainer.train_step = train_step


def _zero(value: Any) -> Any:
    if torch.is_tensor(value):
        return torch.zeros_like(value)
    return type(value)(0) if isinstance(value, (int, float)) else value
