"""``unlikelihood``: the label-smoothed loss with a penalty on repetitions."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from fairseq.criterions import register_criterion
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask
from omegaconf import II
from torch import Tensor, nn

from fairtale.errors import UserError
from fairtale.interfaces import Batch, DialogBatch, WritesReplies
from fairtale.modules.chunked_loss import LossSums
from fairtale.modules.unlikelihood import earlier_tokens, repeated_ngram_tokens, unlikelihood

from .label_smoothed_kl import (
    BITS,
    ChosenTokens,
    LabelSmoothedKLCriterion,
    LabelSmoothedKLCriterionConfig,
    Loss,
    owners,
    shown_output_weight,
    unwrapped,
)


@dataclass
class UnlikelihoodCriterionConfig(LabelSmoothedKLCriterionConfig):
    """Options of ``unlikelihood``."""

    unlikelihood_alpha: float = field(
        default=1.0, metadata={"help": "weight of the token-level penalty; 0 switches it off"}
    )
    unlikelihood_sequence_prob: float = field(
        default=0.0,
        metadata={
            "help": "share of updates that penalise repeated n-grams in generated replies, "
            "instead of minimising the ordinary loss"
        },
    )
    unlikelihood_ngram: int = field(
        default=4, metadata={"help": "size of the n-grams of --unlikelihood-sequence-prob"}
    )
    unlikelihood_length: int = field(
        default=40,
        metadata={"help": "maximum length of the replies of --unlikelihood-sequence-prob"},
    )
    seed: int = II("common.seed")


@register_criterion("unlikelihood", dataclass=UnlikelihoodCriterionConfig)
class UnlikelihoodCriterion(LabelSmoothedKLCriterion):
    """Smoothed loss plus alpha times the token-level unlikelihood of earlier tokens.

    Source: Welleck et al. 2020, equations 3 to 5. For each token in the loss, the negative
    candidates are the earlier tokens of the same text that are in the loss too. In a dialog, only
    the tokens of the reply are used, even if the loss includes the whole line. In a share of the
    training updates, the sequence-level form (section 5.2) replaces the loss and the penalty: the
    task, which must be :class:`~fairtale.interfaces.WritesReplies`, generates replies with the
    model, and every token of a repeated n-gram in a reply is penalised.

    Raises:
        UserError: an option is out of range, or the task cannot generate replies.
    """

    def __init__(self, cfg: UnlikelihoodCriterionConfig, task: FairseqTask) -> None:
        super().__init__(cfg, task)
        if cfg.unlikelihood_alpha < 0:
            raise UserError(f"--unlikelihood-alpha {cfg.unlikelihood_alpha}: must not be negative")
        if not 0 <= cfg.unlikelihood_sequence_prob <= 1:
            raise UserError(
                f"--unlikelihood-sequence-prob {cfg.unlikelihood_sequence_prob}: must be a "
                "probability, 0 to 1"
            )
        if cfg.unlikelihood_ngram < 1 or cfg.unlikelihood_length < 2:
            raise UserError(
                f"--unlikelihood-ngram {cfg.unlikelihood_ngram} must be at least 1, "
                f"--unlikelihood-length {cfg.unlikelihood_length} at least 2"
            )
        if cfg.unlikelihood_sequence_prob and not isinstance(task, WritesReplies):
            raise UserError("--unlikelihood-sequence-prob: works only with --task dialog_lm")
        self.alpha = cfg.unlikelihood_alpha
        self.sequence_prob = cfg.unlikelihood_sequence_prob
        self.ngram = cfg.unlikelihood_ngram
        self.length = cfg.unlikelihood_length
        self.seed = cfg.seed
        self._penalty: Tensor | None = None

    def forward(self, model: nn.Module, sample: Batch, reduce: bool = True) -> Loss:
        """Compute the loss of a batch with its penalty.

        See :meth:`.LabelSmoothedKLCriterion.forward` for the arguments and the result.

        Raises:
            UserError: the model has no ``output_weight()``.
        """
        weight = shown_output_weight(model)
        if weight is None:
            raise UserError(
                f"--criterion unlikelihood: {type(unwrapped(model)).__name__} has no "
                "output_weight(); use --arch gpt or unilm_seq2seq"
            )
        draw = random.Random(f"unlikelihood {self.seed} {sample.get('update_num')}").random()
        if self.training and draw < self.sequence_prob:
            return self._sequence_level(model, weight, sample)
        self._penalty = None
        loss, sample_size, log = super().forward(model, sample, reduce)
        if self._penalty is not None:
            log["unlikelihood"] = self._penalty.detach().double()
        return loss, sample_size, log

    def _penalised(
        self, sums: LossSums, features: Tensor, weight: Tensor, chosen: ChosenTokens, sample: Batch
    ) -> LossSums:
        if self.alpha == 0 or not self.training:
            return sums
        target, used = sample["target"], chosen.target
        assert target is not None  # only prompts have none
        owner = _chosen(owners(target, sample), chosen)
        response_mask = cast(DialogBatch, sample).get("response_mask")
        if response_mask is not None:  # tokens of the prefix are not candidates
            used = used.masked_fill(~_chosen(response_mask, chosen), self.padding_idx)
        negatives = earlier_tokens(used, owner, self.padding_idx)
        negatives = negatives.masked_fill((used == self.padding_idx)[:, None], self.padding_idx)
        penalty = unlikelihood(features, weight, negatives, self.padding_idx, chosen.weight)
        self._penalty = penalty
        return sums._replace(loss=sums.loss + self.alpha * penalty)

    def _sequence_level(self, model: nn.Module, weight: Tensor, sample: Batch) -> Loss:
        """Compute the penalty on repeated n-grams in replies that the model generates."""
        task: WritesReplies = self.task
        batch = task.write_replies(model, sample, self.length)
        targets = batch["target"]
        assert targets is not None  # a batch of replies has targets
        chosen = batch["response_mask"].flatten()
        target = targets.flatten()[chosen]
        owner = batch["sample_index"].flatten()[chosen]
        repeated = repeated_ngram_tokens(target, owner, self.ngram)
        negatives = target.masked_fill(~repeated, self.padding_idx).unsqueeze(1)
        features, _ = model(**batch["net_input"], features_only=True)
        penalty = unlikelihood(features.flatten(0, 1)[chosen], weight, negatives, self.padding_idx)
        count = target.numel()
        log = {
            "sequence_unlikelihood": penalty.detach().double(),
            "sequence_tokens": count,
            "sequence_repeated": repeated.sum(),
            # exclude these tokens from the ordinary means, because their likelihood is not measured
            "loss": penalty.detach().double() * 0,
            "nll_loss": penalty.detach().double() * 0,
            "ntokens": 0,
            "nsentences": sample.get("nsentences", 0),
            "sample_size": 0,
        }
        return penalty, count, log

    @classmethod
    def reduce_metrics(cls, logging_outputs: Sequence[dict[str, Any]]) -> None:
        """Log means from the sums of all workers, in bits per token."""
        super().reduce_metrics(logging_outputs)

        def total(key: str) -> Any:
            return sum(log.get(key, 0) for log in logging_outputs)

        if any("unlikelihood" in log for log in logging_outputs) and total("ntokens"):
            value = total("unlikelihood") * BITS / total("ntokens")
            metrics.log_scalar("unlikelihood", value, total("ntokens"), round=3)
        count = total("sequence_tokens")
        if count:
            value = total("sequence_unlikelihood") * BITS / count
            metrics.log_scalar("sequence_unlikelihood", value, count, round=3)
            if not total("sample_size"):  # the update minimised only the sequence-level penalty
                metrics.log_scalar("loss", value, count, round=3)
            value = total("sequence_repeated") * 100.0 / count
            metrics.log_scalar("sequence_repeated", value, count, round=1)


def _chosen(values: Tensor, chosen: ChosenTokens) -> Tensor:
    """Return the entries [N] of ``values`` [B, T] for the chosen tokens."""
    values = values.flatten()
    return values if chosen.index is None else values[chosen.index]
