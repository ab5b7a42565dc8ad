"""Schedule the gates during training: penalty or target, warm-up, and fixing."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import UserError
from ..modules.gate_budget import competing, hold_expected, mean_by_type, ramp
from ..modules.hard_concrete import HardConcreteGate
from .selection import keep_above, keep_best

logger = logging.getLogger(__name__)

Gates = Mapping[str, HardConcreteGate]  # keyed by attention, as "encoder.0"


class GateSchedule:
    """Close gates by a penalty or to a target number, and fix them at a given update.

    The schedule depends only on the gates and the number of finished updates. A resumed training
    therefore continues as if it had not been interrupted, and all workers get the same result.

    Args:
        penalty: penalty on open heads, in nats per token if all heads of one attention type are
            open; at least 0. None for no penalty. Give a penalty or a target, not both.
        target_heads: number of heads that stay open, including those that are already fixed open.
        warmup_updates: number of updates, at least 0, over which the penalty grows linearly from
            0, or the target decreases linearly from all heads.
        fix_update: number of updates after which gates are fixed; 0 for at once, -1 for never.
        max_update: last update of the training; 0 if it is unknown.

    Raises:
        UserError: an option is out of range, or gates would be fixed too early or too late.
    """

    def __init__(
        self,
        penalty: float | None = None,
        target_heads: int | None = None,
        warmup_updates: int = 0,
        fix_update: int = -1,
        max_update: int = 0,
    ) -> None:
        if penalty is not None and target_heads is not None:
            raise UserError(
                f"--l0-penalty {penalty} and --target-heads {target_heads}: give one of them"
            )
        if penalty is not None and penalty < 0:
            raise UserError(f"--l0-penalty {penalty}: must not be negative; 0.1 is usual")
        if warmup_updates < 0:
            raise UserError(f"--l0-warmup-updates {warmup_updates}: must not be negative")
        if 0 < max_update < fix_update:
            raise UserError(
                f"--gates-fix-update {fix_update}: must be at most --max-update {max_update}"
            )
        if 0 < fix_update < warmup_updates:
            raise UserError(
                f"--gates-fix-update {fix_update}: must be at least --l0-warmup-updates "
                f"{warmup_updates}, or 0 to fix the gates at once"
            )
        self.penalty = penalty or 0.0
        self.has_goal = penalty is not None or target_heads is not None
        self.target = target_heads
        self.warmup_updates = warmup_updates
        self.fix_update = fix_update

    # ------------------------------------------------------------------ steps of the schedule

    def begin(self, gates: Gates, num_updates: int) -> None:
        """Prepare the gates before the first update of this process.

        Args:
            gates: all gates of the model, at least one; untouched gates become learned.
            num_updates: number of finished updates; not 0 in a resumed training.

        Raises:
            UserError: neither a penalty nor a target is given, or the target cannot be reached.
        """
        learned = _learned(gates)
        if not learned:
            self._check_recovery(gates)
            return
        self._check_goal(gates, learned)
        for gate in learned.values():
            if gate.state == "untouched":
                gate.learn()
        self.end_update(gates, num_updates)

    def end_update(self, gates: Gates, num_updates: int) -> None:
        """Fix the gates at ``fix_update``; before, set the expected number of open gates.

        Args:
            gates: all gates of the model.
            num_updates: number of finished updates.
        """
        learned = _learned(gates)
        if not learned:
            return
        if 0 <= self.fix_update <= num_updates:
            self._fix(gates, learned, num_updates)
        elif self.target is not None:
            rest = self.target - _num_fixed_open(gates)
            target = ramp(_num_heads(learned), rest, num_updates, self.warmup_updates)
            hold_expected(learned, target)

    # ------------------------------------------------------------------ part of the loss

    def price(self, gates: Gates, expected: Mapping[str, Tensor], num_updates: int) -> Tensor:
        """Return the penalty on open gates in nats per token; 0 with a target.

        Args:
            gates: all gates of the model.
            expected: expected number of open heads of each attention.
            num_updates: number of finished updates.
        """
        learned = _learned(gates)
        if not learned or self.target is not None:
            return next(iter(expected.values())).detach() * 0
        weight = ramp(0.0, self.penalty, num_updates, self.warmup_updates)
        return weight * mean_by_type(learned, dict(expected))

    def competing(self, gates: Gates) -> contextlib.AbstractContextManager[None]:
        """Return a context in which the gradients of learned gates keep the number of the target.

        Without a target, the context does nothing. See
        :func:`fairtale.modules.gate_budget.competing`.
        """
        learned = _learned(gates)
        if self.target is None or not learned:
            return contextlib.nullcontext()
        return competing(learned)

    # ------------------------------------------------------------------------- details

    def _check_recovery(self, gates: Gates) -> None:
        num_open = _num_fixed_open(gates)
        if self.target not in (None, num_open):
            raise UserError(
                f"--target-heads {self.target}: the gates of this checkpoint are already fixed, "
                f"{num_open} open; leave the option out to train with these gates, or start from "
                "an earlier checkpoint"
            )
        logger.info("gates are fixed, %d of %d open: recovery tuning", num_open, _num_heads(gates))

    def _check_goal(self, gates: Gates, learned: Gates) -> None:
        fixed_open, num_learned = _num_fixed_open(gates), _num_heads(learned)
        most = fixed_open + num_learned
        if self.target is not None and not fixed_open <= self.target <= most:
            where = ", ".join(f"{key} {gate.num_heads}" for key, gate in learned.items())
            there = "the number of gated heads"
            if len(learned) < len(gates):
                there = f"as {fixed_open} heads are fixed open and {num_learned} can be learned"
            raise UserError(
                f"--target-heads {self.target}: must be {fixed_open} to {most}, {there} ({where}); "
                "--gated-attention selects the attentions with gates"
            )
        if not self.has_goal:
            raise UserError(
                "--criterion l0_gated: give a goal for learning the gates, --l0-penalty or "
                "--target-heads"
            )

    def _fix(self, gates: Gates, learned: Gates, num_updates: int) -> None:
        kept = _fixed_open(gates)
        if self.target is None:
            scores = {key: gate.open_probability().detach() for key, gate in learned.items()}
            kept |= keep_above(scores, 0.5)
        else:
            scores = {key: gate.log_alpha.detach() for key, gate in learned.items()}
            kept |= keep_best(scores, self.target - sum(map(len, kept.values())))
        for key, gate in learned.items():
            mask = torch.zeros(gate.num_heads, dtype=torch.bool)
            mask[kept[key]] = True
            gate.fix(mask)
        logger.info(
            "gates are fixed at %d updates, %d of %d open: %s",
            num_updates,
            sum(map(len, kept.values())),
            _num_heads(gates),
            {key: kept[key] for key in gates},
        )


def _num_heads(gates: Gates) -> int:
    return sum(gate.num_heads for gate in gates.values())


def _learned(gates: Gates) -> dict[str, HardConcreteGate]:
    """Return the gates that are not fixed."""
    return {key: gate for key, gate in gates.items() if not gate.is_fixed}


def _fixed_open(gates: Gates) -> dict[str, list[int]]:
    """Return the open heads of the gates that are fixed."""
    return keep_above({key: g.value() for key, g in gates.items() if g.is_fixed}, 0.5)


def _num_fixed_open(gates: Gates) -> int:
    return sum(map(len, _fixed_open(gates).values()))
