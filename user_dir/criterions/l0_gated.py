"""``l0_gated``: the translation loss, and what open gates cost."""

import contextlib
import logging
from dataclasses import dataclass, field
from typing import Optional

import torch
from fairseq.criterions import register_criterion
from fairseq.logging import metrics
from omegaconf import II

from fairtale.errors import UserError
from fairtale.modules.gate_budget import competing, expected_open, hold_expected, mean_by_type, ramp
from fairtale.pruning.gate_log import GateHistory
from fairtale.pruning.parts import HEAD_TYPES, type_of
from fairtale.pruning.selection import keep_above, keep_best

from .label_smoothed_kl import BITS, LabelSmoothedKLCriterion, LabelSmoothedKLCriterionConfig

logger = logging.getLogger(__name__)


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

    def __init__(
        self,
        task,
        label_smoothing: float = 0.0,
        use_kl: bool = False,
        report_accuracy: bool = False,
        report_kl: bool = False,
        loss_average: str = "tokens",
        loss_chunk_mib: int = 0,
        sentence_avg: bool = False,
        l0_penalty: Optional[float] = None,
        target_heads: Optional[int] = None,
        l0_warmup_updates: int = 0,
        gates_fix_update: int = -1,
        max_update: int = 0,
        save_dir: str = "checkpoints",
        tensorboard_logdir: Optional[str] = None,
    ):
        super().__init__(
            task,
            label_smoothing,
            use_kl,
            report_accuracy,
            report_kl,
            loss_average,
            loss_chunk_mib,
            sentence_avg,
        )
        if l0_penalty is not None and target_heads is not None:
            raise UserError(
                f"--l0-penalty {l0_penalty} and --target-heads {target_heads}: give one of them"
            )
        if l0_penalty is not None and l0_penalty < 0:
            raise UserError(f"--l0-penalty {l0_penalty}: must not be negative; 0.1 is usual")
        if l0_warmup_updates < 0:
            raise UserError(f"--l0-warmup-updates {l0_warmup_updates}: must not be negative")
        if 0 < max_update < gates_fix_update:
            raise UserError(
                f"--gates-fix-update {gates_fix_update}: training ends before, at --max-update "
                f"{max_update}"
            )
        if 0 < gates_fix_update < l0_warmup_updates:
            raise UserError(
                f"--gates-fix-update {gates_fix_update}: gates would be fixed before "
                f"--l0-warmup-updates {l0_warmup_updates} are over"
            )
        self.penalty = l0_penalty or 0.0
        self.target = target_heads
        self.warmup_updates = l0_warmup_updates
        self.fix_update = gates_fix_update
        self._update = None  # of the last training batch
        self._history = GateHistory(save_dir, tensorboard_logdir)

    # -------------------------------------------------------------------- the loss

    def forward(self, model, sample, reduce=True):
        """As the smoothed loss; see there for what a batch may hold."""
        gates = self._gates(model)
        if self.training and model.num_updates != self._update:
            self._begin_update(model, gates)
        elif not self.training and self._update is not None:
            self._begin_validation(gates)
        held = _learned(gates) if self.training and self.target is not None else {}
        with competing(held) if held else contextlib.nullcontext():
            loss, sample_size, log = super().forward(model, sample, reduce)
        expected = expected_open(gates)
        log["translation_loss"] = log["loss"]
        if self.training:
            # drawn at the same rate as the mean loss, whatever that is a mean over
            price = self._price(model, gates, expected) * sample_size
            loss = loss + price
            log["gate_loss"] = price.detach().double()
            log["loss"] = log["loss"] + log["gate_loss"]
        log["gate_batches"] = 1
        for kind in dict.fromkeys(map(type_of, gates)):
            keys = [key for key in gates if type_of(key) == kind]
            log[f"expected_{kind}"] = sum(expected[key].detach() for key in keys)
            log[f"open_{kind}"] = sum(gates[key].value().count_nonzero() for key in keys)
        return loss, sample_size, log

    def _price(self, model, gates, expected):
        """Nats per token."""
        learned = _learned(gates)
        if not learned or self.target is not None:  # a target is held, not paid for
            return next(iter(expected.values())).detach() * 0
        weight = ramp(0.0, self.penalty, model.num_updates, self.warmup_updates)
        return weight * mean_by_type(learned, expected)

    def _hold_target(self, gates, update):
        """Let as many heads be expected open as the ramp says, fixed ones included."""
        learned = _learned(gates)
        if self.target is not None and learned:
            rest = self.target - sum(map(len, _open_if_fixed(gates).values()))
            hold_expected(learned, ramp(_num_heads(learned), rest, update, self.warmup_updates))

    # ------------------------------------------------------------------- the gates

    def _gates(self, model):
        gates = model.gates() if hasattr(model, "gates") else {}
        if not gates:
            raise UserError(
                "--criterion l0_gated: the model has no gates; use --arch transformer_hcg with "
                "--gated-attention encoder (or decoder, cross)"
            )
        return gates

    def _begin_update(self, model, gates):
        """What is done once in an update, by all workers alike."""
        if self._update is None:
            self._begin_training(model, gates)
            self._fix_when_due(gates, model.num_updates)  # later, where an update ends
            self._hold_target(gates, model.num_updates)
            self._history.write(gates, model.num_updates)
        self._update = model.num_updates

    def _begin_training(self, model, gates):
        learned = _learned(gates)
        fixed_open = sum(len(heads) for heads in _open_if_fixed(gates).values())
        if not learned:
            if self.target not in (None, fixed_open):
                raise UserError(
                    f"--target-heads {self.target}: the gates of this checkpoint are fixed "
                    f"already, {fixed_open} open; leave the option out to train with these, or "
                    "start from a checkpoint saved before"
                )
            heads = _num_heads(gates)
            logger.info("gates are fixed, %d of %d open: recovery tuning", fixed_open, heads)
            return
        most = fixed_open + _num_heads(learned)
        if self.target is not None and not fixed_open <= self.target <= most:
            where = ", ".join(f"{key} {gate.num_heads}" for key, gate in learned.items())
            there = "the gated heads there are"
            if len(learned) < len(gates):
                num_learned = most - fixed_open
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
        for gate in learned.values():
            if gate.state == "untouched":
                gate.learn()
        self._follow_updates()

    def _follow_updates(self):
        """Fix gates when an update has ended, of which fairseq tells nobody but the task.

        At the beginning of the next update it would be too late for what is saved before, and
        after the last update there is no next one.
        """
        task = self.task

        def optimizer_step(optimizer, model, update_num):
            type(task).optimizer_step(task, optimizer, model=model, update_num=update_num)
            gates = self._gates(model)
            self._fix_when_due(gates, update_num + 1)
            self._hold_target(gates, update_num + 1)

        task.optimizer_step = optimizer_step

    def _fix_when_due(self, gates, update):
        learned = _learned(gates)
        if not learned or not 0 <= self.fix_update <= update:
            return
        kept = _open_if_fixed(gates)
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
            update,
            sum(map(len, kept.values())),
            _num_heads(gates),
            {key: kept[key] for key in gates},
        )

    def _begin_validation(self, gates):
        update = self._update + 1  # the model is told of an update when it begins
        self._history.write(gates, update)

    # --------------------------------------------------------------------- the log

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        super().reduce_metrics(logging_outputs)

        def total(key):
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


def _num_heads(gates):
    return sum(gate.num_heads for gate in gates.values())


def _learned(gates):
    """The gates that are not fixed."""
    return {key: gate for key, gate in gates.items() if not gate.is_fixed}


def _open_if_fixed(gates):
    """The open heads of the gates that are fixed."""
    return keep_above({key: g.value() for key, g in gates.items() if g.is_fixed}, 0.5)
