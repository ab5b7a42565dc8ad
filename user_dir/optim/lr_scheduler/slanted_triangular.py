"""``slanted_triangular``: a short linear increase and a long linear decrease of the rate."""

import math
from dataclasses import dataclass, field
from typing import Any, List

from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer
from fairseq.optim.lr_scheduler import FairseqLRScheduler, register_lr_scheduler
from omegaconf import II

from fairtale.errors import UserError


@dataclass
class SlantedTriangularConfig(FairseqDataclass):
    """Options of ``slanted_triangular``."""

    cut_frac: float = field(
        default=0.1,
        metadata={"help": "share of all updates during which the learning rate increases"},
    )
    ratio: float = field(
        default=32.0,
        metadata={"help": "--lr divided by the lowest learning rate, at the start and at the end"},
    )
    total_num_update: int = field(
        default=0, metadata={"help": "number of updates of the schedule (default: --max-update)"}
    )
    max_update: int = II("optimization.max_update")
    lr: List[float] = II("optimization.lr")


@register_lr_scheduler("slanted_triangular", dataclass=SlantedTriangularConfig)
class SlantedTriangular(FairseqLRScheduler):
    """Slanted triangular learning rates.

    Source: Howard & Ruder 2018 (ULMFiT), equation 3. With T updates, cut = floor(T * cut_frac) and
    t finished updates, the rate is lr * (1 + p * (ratio - 1)) / ratio, where p = t / cut before the
    cut and 1 - (t - cut) / (cut * (1 / cut_frac - 1)) from there. After T updates the rate stays at
    lr / ratio.

    Raises:
        UserError: the number of updates is not known, or an option is out of its range.
    """

    def __init__(self, cfg: SlantedTriangularConfig, optimizer: FairseqOptimizer) -> None:
        super().__init__(cfg, optimizer)
        total = cfg.total_num_update or cfg.max_update
        if len(cfg.lr) > 1:
            raise UserError(f"--lr {cfg.lr}: slanted_triangular takes one learning rate")
        if not total or total < 0:
            raise UserError(
                "--lr-scheduler slanted_triangular needs the number of updates: give --max-update, "
                "or --total-num-update"
            )
        if not 0 < cfg.cut_frac < 1:
            raise UserError(f"--cut-frac {cfg.cut_frac:g}: must be between 0 and 1")
        if cfg.ratio < 1:
            raise UserError(f"--ratio {cfg.ratio:g}: must be at least 1")
        self.cut = math.floor(total * cfg.cut_frac)
        if self.cut < 1:
            raise UserError(
                f"--cut-frac {cfg.cut_frac:g} of {total} updates is less than one update: use a "
                "larger share"
            )
        self.max_lr = cfg.lr[0]
        self.step_update(0)

    def step_update(self, num_updates: int) -> float:
        """Set the learning rate of the next update."""
        if num_updates < self.cut:
            p = num_updates / self.cut
        else:
            p = 1 - (num_updates - self.cut) / (self.cut * (1 / self.cfg.cut_frac - 1))
        lr: float = self.max_lr * (1 + max(p, 0.0) * (self.cfg.ratio - 1)) / self.cfg.ratio
        self.optimizer.set_lr(lr)
        return lr

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state, because the rate depends only on the number of updates."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Ignore the state; see :meth:`state_dict`."""
