"""``l0_gated``: the translation loss, and what open gates cost."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Optional, Protocol, runtime_checkable

from fairseq.criterions import register_criterion
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask
from omegaconf import II
from torch import nn

from fairtale.errors import UserError
from fairtale.interfaces import Batch, HasGates
from fairtale.modules.gate_budget import expected_open
from fairtale.optim.training_hooks import install_update_hook
from fairtale.pruning.gate_history import GateHistory
from fairtale.pruning.gate_schedule import GateSchedule
from fairtale.pruning.parts import HEAD_TYPES, type_of, types_of

from .label_smoothed_kl import (
    BITS,
    LabelSmoothedKLCriterion,
    LabelSmoothedKLCriterionConfig,
    Loss,
    unwrapped,
)


@runtime_checkable
class _GatedModel(HasGates, Protocol):
    """A model with gates that knows the number of updates, as ``transformer_hcg`` does."""

    num_updates: int  # that were done when the current update began


@dataclass
class L0GatedCriterionConfig(LabelSmoothedKLCriterionConfig):
    l0_penalty: Optional[float] = field(
        default=None,
        metadata={
            "help": "lambda, in nats per token: it is multiplied by the mean P(open) of all heads "
            "of an attention type, summed over the gated types (0.05 to 0.5 are usual)"
        },
    )
    target_heads: Optional[int] = field(
        default=None,
        metadata={
            "help": "instead of --l0-penalty: learn which N heads stay open, of all gated types "
            "and layers together; heads that an earlier training has fixed open count"
        },
    )
    l0_warmup_updates: int = field(
        default=0,
        metadata={
            "help": "over the first N updates the penalty grows from 0, or the target comes down "
            "from all heads, linearly"
        },
    )
    gates_fix_update: int = field(
        default=-1,
        metadata={
            "help": "after N updates gates are fixed to open or closed, and training goes on to "
            "recover: the best --target-heads stay open, or, with --l0-penalty, those of P(open) "
            "of at least one half. 0: at once; -1: gates are learned to the end"
        },
    )
    max_update: int = II("optimization.max_update")
    save_dir: str = II("checkpoint.save_dir")
    tensorboard_logdir: Optional[str] = II("common.tensorboard_logdir")


@register_criterion("l0_gated", dataclass=L0GatedCriterionConfig)
class L0GatedCriterion(LabelSmoothedKLCriterion):
    """Smoothed cross-entropy plus a price of open heads, which are gates of ``transformer_hcg``.

    Source: Louizos et al. 2018, equation 12, on heads as in Voita et al. 2019, equation 11;
    with a target, see :func:`~fairtale.modules.gate_budget.hold_expected`.

    The log shows, in bits per token: ``loss``, which is minimised; ``translation_loss``, its
    first part, and ``gate_loss``, the second. In validation ``loss`` is the translation loss
    alone, so that it can be compared at all times. ``nll_loss`` and ``ppl`` are without
    smoothing, as always. ``expected_encoder`` is the sum of P(open), ``open_encoder`` the
    number of gates that are not 0 in evaluation; likewise decoder and cross.

    Gates that are fixed when training begins stay as they are, and cost nothing. A target counts
    them: the other gates are left as many as are missing.

    At each validation the gates go into the log, layer by layer, into ``gates.jsonl`` of the
    save dir, into a PNG under ``gates/`` there, and to TensorBoard.

    Raises:
        UserError: an option out of its range, a model without gates, or a number of heads
            that cannot be reached.
    """

    def __init__(self, cfg: L0GatedCriterionConfig, task: FairseqTask) -> None:
        super().__init__(cfg, task)
        self.schedule = GateSchedule(
            penalty=cfg.l0_penalty,
            target_heads=cfg.target_heads,
            warmup_updates=cfg.l0_warmup_updates,
            fix_update=cfg.gates_fix_update,
            max_update=cfg.max_update,
        )
        self._num_updates: int | None = None  # that are done; None before training begins
        self._history = GateHistory(cfg.save_dir, cfg.tensorboard_logdir)
        install_update_hook()

    def forward(self, model: nn.Module, sample: Batch, reduce: bool = True) -> Loss:
        """Compute the smoothed loss and the price of gates; see there for what a batch may hold.

        Raises:
            UserError: the model has no gates, or training cannot begin with those that it has.
        """
        gated = _gated(model)
        gates = gated.gates()
        if self.training:
            self._begin_training(gated)
        elif self._num_updates is not None:  # a validation between updates
            self._history.write(gates, self._num_updates)
        with self.schedule.competing(gates) if self.training else contextlib.nullcontext():
            loss, sample_size, log = super().forward(model, sample, reduce)
        expected = expected_open(gates)
        log["translation_loss"] = log["loss"]
        if self.training:
            # weighed like the mean loss, whatever that is a mean over
            price = self.schedule.price(gates, expected, gated.num_updates) * sample_size
            loss = loss + price
            log["gate_loss"] = price.detach().double()
            log["loss"] = log["loss"] + log["gate_loss"]
        log["gate_batches"] = 1
        for kind in types_of(gates):
            keys = [key for key in gates if type_of(key) == kind]
            log[f"expected_{kind}"] = sum(expected[key].detach() for key in keys)
            log[f"open_{kind}"] = sum(gates[key].value().count_nonzero() for key in keys)
        return loss, sample_size, log

    def _begin_training(self, gated: _GatedModel) -> None:
        if self._num_updates is not None:
            return
        gates = gated.gates()
        self.schedule.begin(gates, gated.num_updates)
        self._num_updates = gated.num_updates
        self._history.write(gates, gated.num_updates)

    def end_update(self, model: nn.Module, num_updates: int) -> None:
        """Let the schedule change the gates before anything is validated or saved.

        Args:
            model: the model, wrapped for data parallel training or not.
            num_updates: that are done.
        """
        self.schedule.end_update(_gated(model).gates(), num_updates)
        self._num_updates = num_updates

    @classmethod
    def reduce_metrics(cls, logging_outputs: Sequence[dict[str, Any]]) -> None:
        """Turn the sums of all workers into the logged means; counts of heads per batch."""
        super().reduce_metrics(logging_outputs)

        def total(key: str) -> Any:
            return sum(log.get(key, 0) for log in logging_outputs)

        size = total("sample_size")
        if size > 0:
            for name in ("translation_loss", "gate_loss"):
                if any(name in log for log in logging_outputs):
                    metrics.log_scalar(name, total(name) * BITS / size, size, round=3)
        batches = total("gate_batches")
        for kind in HEAD_TYPES:
            if batches > 0 and any(f"open_{kind}" in log for log in logging_outputs):
                for name in (f"expected_{kind}", f"open_{kind}"):
                    metrics.log_scalar(name, total(name) / batches, batches, round=2)


def _gated(model: nn.Module) -> _GatedModel:
    """Return the model inside the wrappers of data parallel training.

    Raises:
        UserError: it has no gates.
    """
    inner = unwrapped(model)
    if not isinstance(inner, _GatedModel) or not inner.gates():
        raise UserError(
            "--criterion l0_gated: the model has no gates; use --arch transformer_hcg with "
            "--gated-attention encoder (or decoder, cross)"
        )
    return inner
