"""``l0_gated``: the translation loss with a penalty on open gates."""

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
    """A model with gates and the number of updates, such as ``transformer_hcg``."""

    num_updates: int  # number of updates that were finished when the current update began


@dataclass
class L0GatedCriterionConfig(LabelSmoothedKLCriterionConfig):
    """Options of ``l0_gated``."""

    l0_penalty: Optional[float] = field(
        default=None,
        metadata={
            "help": "penalty on open heads, in nats per token: factor of the mean P(open) of the "
            "heads of each gated attention type, summed over the types (0.05 to 0.5 are usual)"
        },
    )
    target_heads: Optional[int] = field(
        default=None,
        metadata={
            "help": "instead of --l0-penalty: number of heads that stay open, in all gated "
            "attention types and layers together, including heads that are already fixed open"
        },
    )
    l0_warmup_updates: int = field(
        default=0,
        metadata={
            "help": "number of first updates over which the penalty grows linearly from 0, or the "
            "target decreases linearly from all heads"
        },
    )
    gates_fix_update: int = field(
        default=-1,
        metadata={
            "help": "fix gates to open or closed after N updates, and continue training to "
            "recover: the best --target-heads stay open or, with --l0-penalty, those with "
            "P(open) of at least 0.5 (0: fix at once; -1: learn to the end)"
        },
    )
    max_update: int = II("optimization.max_update")
    save_dir: str = II("checkpoint.save_dir")
    tensorboard_logdir: Optional[str] = II("common.tensorboard_logdir")


@register_criterion("l0_gated", dataclass=L0GatedCriterionConfig)
class L0GatedCriterion(LabelSmoothedKLCriterion):
    """Smoothed cross-entropy plus a penalty on the open heads of ``transformer_hcg``.

    Source: Louizos et al. 2018, equation 12, applied to heads as in Voita et al. 2019, equation 11.
    With a target, see :func:`~fairtale.modules.gate_budget.hold_expected`.

    The log contains, in bits per token, ``loss``, which is minimised, and its two terms
    ``translation_loss`` and ``gate_loss``. In validation, ``loss`` is the translation loss alone,
    so that it is comparable throughout the training. ``nll_loss`` and ``ppl`` are without
    smoothing. ``expected_encoder`` is the sum of P(open) of the encoder's gates, and
    ``open_encoder`` is the number of its gates that are not 0 in evaluation; likewise for
    ``decoder`` and ``cross``.

    Gates that are fixed when training begins do not change and have no penalty. The target includes
    those of them that are open.

    At each validation, the gates are written to the log, to ``gates.jsonl`` and to a PNG file in
    ``gates/``, both in the save dir, and to TensorBoard.

    Raises:
        UserError: an option is out of range, the model has no gates, or the target cannot be
            reached.
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
        self._num_updates: int | None = None  # finished updates; None before training begins
        self._history = GateHistory(cfg.save_dir, cfg.tensorboard_logdir)
        install_update_hook()

    def forward(self, model: nn.Module, sample: Batch, reduce: bool = True) -> Loss:
        """Compute the loss of a batch, with the penalty on open gates in training.

        See :meth:`.LabelSmoothedKLCriterion.forward` for the arguments and the result.

        Raises:
            UserError: the model has no gates, or training cannot begin with its gates.
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
            # scale the penalty like the loss, which is later divided by sample_size
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
        """Update the gates by the schedule, before validation and saving.

        Args:
            model: the model, wrapped for data-parallel training or not.
            num_updates: number of finished updates.
        """
        self.schedule.end_update(_gated(model).gates(), num_updates)
        self._num_updates = num_updates

    @classmethod
    def reduce_metrics(cls, logging_outputs: Sequence[dict[str, Any]]) -> None:
        """Log means from the sums of all workers; numbers of heads are means over batches."""
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
    """Return the model inside the wrappers for data-parallel training.

    Raises:
        UserError: the model has no gates.
    """
    inner = unwrapped(model)
    if not isinstance(inner, _GatedModel) or not inner.gates():
        raise UserError(
            "--criterion l0_gated: the model has no gates; use --arch transformer_hcg with "
            "--gated-attention encoder (or decoder, cross)"
        )
    return inner
