"""``reduce_lr_on_validation``: a plateau schedule that is updated by every validation."""

import math
from dataclasses import dataclass, field
from typing import Any, List, Optional

from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer
from fairseq.optim.lr_scheduler import FairseqLRScheduler, register_lr_scheduler
from omegaconf import II

from fairtale.errors import UserError
from fairtale.optim.training_hooks import install_validation_hook


@dataclass
class ReduceLROnValidationConfig(FairseqDataclass):
    """Options of ``reduce_lr_on_validation``."""

    lr_shrink: float = field(
        default=0.1, metadata={"help": "factor of each reduction: lr_new = lr * lr_shrink"}
    )
    lr_patience: int = field(
        default=1,
        metadata={"help": "number of successive validations without improvement per reduction"},
    )
    lr_threshold: float = field(
        default=1e-4,
        metadata={"help": "relative change of the best value that counts as an improvement"},
    )
    warmup_updates: int = field(
        default=0, metadata={"help": "increase the learning rate linearly over the first N updates"}
    )
    warmup_init_lr: float = field(
        default=0.0, metadata={"help": "learning rate at the start of the warm-up"}
    )
    maximize_best_checkpoint_metric: bool = II("checkpoint.maximize_best_checkpoint_metric")
    lr: List[float] = II("optimization.lr")


@register_lr_scheduler("reduce_lr_on_validation", dataclass=ReduceLROnValidationConfig)
class ReduceLROnValidation(FairseqLRScheduler):
    """Reduce the learning rate after ``lr_patience`` validations without improvement.

    fairseq's ``reduce_lr_on_plateau`` uses only the last validation of each epoch, and a resumed
    training restarts its count of validations. This schedule is updated by every validation
    (``--validate-interval-updates``), and its whole state is saved.

    Raises:
        UserError: several learning rates are given, the factor is outside (0, 1), or the patience
            is below 1.
    """

    def __init__(self, cfg: ReduceLROnValidationConfig, optimizer: FairseqOptimizer) -> None:
        super().__init__(cfg, optimizer)
        if len(cfg.lr) > 1:
            raise UserError(f"--lr {cfg.lr}: reduce_lr_on_validation takes one learning rate")
        if not 0 < cfg.lr_shrink < 1:
            raise UserError(f"--lr-shrink {cfg.lr_shrink}: must lie between 0 and 1")
        if cfg.lr_patience < 1:
            raise UserError(f"--lr-patience {cfg.lr_patience}: must be at least 1")
        install_validation_hook()
        self.base_lr = cfg.lr[0]
        self.best: Optional[float] = None
        self.waited = 0  # validations since the best one
        self.scale = 1.0
        self.num_updates = 0
        self.step_update(0)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for resuming a training, as plain numbers."""
        return {"best": self.best, "waited": self.waited, "scale": self.scale}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; another schedule of fairseq has only the best value, or none.

        A training that goes on with this schedule after another one begins with its own rate.
        """
        self.best = state_dict.get("best")
        self.waited = state_dict.get("waited", 0)
        self.scale = state_dict.get("scale", 1.0)

    def step_validation(self, value: float) -> None:
        """Update the schedule from a validation result (fairseq's best-checkpoint metric)."""
        value = float(value)
        # ignore NaN, because no later value would be better than it
        if not math.isnan(value) and self._is_gain(value):
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited >= self.cfg.lr_patience:
            self.scale *= self.cfg.lr_shrink
            self.waited = 0
            # set the rate at once, so that a training resumed from here starts with it
            self.step_update(self.num_updates)

    def _is_gain(self, value: float) -> bool:
        """Return whether ``value`` is better than the best one by more than the threshold."""
        if self.best is None:
            return True
        sign = -1.0 if self.cfg.maximize_best_checkpoint_metric else 1.0
        return sign * value < sign * self.best - self.cfg.lr_threshold * abs(self.best)

    def step(self, epoch: int, val_loss: Optional[float] = None) -> float:
        """Keep the learning rate at the end of an epoch; only validations change it."""
        super().step(epoch, None)
        return self._current_lr()

    def step_update(self, num_updates: int) -> float:
        """Set the learning rate of the next update."""
        self.num_updates = num_updates
        lr = self.base_lr * self.scale
        if num_updates < self.cfg.warmup_updates:
            start = self.cfg.warmup_init_lr
            lr = start + (lr - start) * num_updates / self.cfg.warmup_updates
        self.optimizer.set_lr(lr)
        return self._current_lr()

    def _current_lr(self) -> float:
        lr: float = self.optimizer.get_lr()
        return lr
