"""What is done to gates while a model is trained, and when: target, ramp, price, fixing."""

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
    """Close gates by a price or to a target, and fix them at an update.

    It depends on the gates and the number of updates done alone, so a resumed training goes on as
    if it had not been stopped, and all workers come to the same result.

    Args:
        penalty: price in nats per token of all heads of an attention type, at least 0; None for
            no price. Give a price or a target, not both.
        target_heads: how many heads stay open, those that are fixed open already included.
        warmup_updates: over so many updates the price grows from 0, or the target comes down
            from all heads, linearly; at least 0.
        fix_update: after so many updates gates are fixed; 0 at once, -1 never.
        max_update: where training ends, 0 if it is not known.

    Raises:
        UserError: an option out of its range, or a fixing that would come too early or too late.
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
                f"--gates-fix-update {fix_update}: training ends before, at --max-update "
                f"{max_update}"
            )
        if 0 < fix_update < warmup_updates:
            raise UserError(
                f"--gates-fix-update {fix_update}: gates would be fixed before "
                f"--l0-warmup-updates {warmup_updates} are over"
            )
        self.penalty = penalty or 0.0
        self.target = target_heads
        self.warmup_updates = warmup_updates
        self.fix_update = fix_update

    # ------------------------------------------------------------------ when it is called

    def begin(self, gates: Gates, num_updates: int) -> None:
        """Prepare gates before the first update of this process.

        Args:
            gates: all of the model, at least one; untouched ones become learned.
            num_updates: that are done already; not 0 where training goes on.

        Raises:
            UserError: there is nothing that gates are to be learned for, or a target that cannot
                be reached.
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
        """Fix gates when it is time, else let as many be expected open as the target says.

        Args:
            gates: all of the model.
            num_updates: that are done.
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
        """Return the price of open gates in nats per token; 0 with a target, which is held.

        Args:
            expected: number of heads that are expected open, of each attention.
            num_updates: that are done.
        """
        learned = _learned(gates)
        if not learned or self.target is not None:
            return next(iter(expected.values())).detach() * 0
        weight = ramp(0.0, self.penalty, num_updates, self.warmup_updates)
        return weight * mean_by_type(learned, dict(expected))

    def competing(self, gates: Gates) -> contextlib.AbstractContextManager[None]:
        """Return a context in which learned gates compete for the target's places, if any."""
        learned = _learned(gates)
        if self.target is None or not learned:
            return contextlib.nullcontext()
        return competing(learned)

    # ------------------------------------------------------------------------- details

    def _check_recovery(self, gates: Gates) -> None:
        num_open = _num_fixed_open(gates)
        if self.target not in (None, num_open):
            raise UserError(
                f"--target-heads {self.target}: the gates of this checkpoint are fixed "
                f"already, {num_open} open; leave the option out to train with these, or "
                "start from a checkpoint saved before"
            )
        logger.info("gates are fixed, %d of %d open: recovery tuning", num_open, _num_heads(gates))

    def _check_goal(self, gates: Gates, learned: Gates) -> None:
        fixed_open, num_learned = _num_fixed_open(gates), _num_heads(learned)
        most = fixed_open + num_learned
        if self.target is not None and not fixed_open <= self.target <= most:
            where = ", ".join(f"{key} {gate.num_heads}" for key, gate in learned.items())
            there = "the gated heads there are"
            if len(learned) < len(gates):
                there = f"{fixed_open} heads are fixed open already, {num_learned} can be learned"
            raise UserError(
                f"--target-heads {self.target}: must be {fixed_open} to {most}, {there} ({where}); "
                "--gated-attention says where heads have gates"
            )
        if self.penalty == 0 and self.target is None:
            raise UserError(
                "--criterion l0_gated: say what gates are learned for, by --l0-penalty or "
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
