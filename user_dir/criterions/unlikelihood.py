"""``unlikelihood``: the smoothed loss, and a penalty on what a model repeats."""

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
    unlikelihood_alpha: float = field(
        default=1.0, metadata={"help": "weight of the token-level penalty; 0 switches it off"}
    )
    unlikelihood_sequence_prob: float = field(
        default=0.0,
        metadata={
            "help": "share of updates that penalise repeated n-grams in replies the model "
            "writes itself, instead of the ordinary loss"
        },
    )
    unlikelihood_ngram: int = field(default=4, metadata={"help": "n of those n-grams"})
    unlikelihood_length: int = field(default=40, metadata={"help": "most tokens of such a reply"})
    seed: int = II("common.seed")


@register_criterion("unlikelihood", dataclass=UnlikelihoodCriterionConfig)
class UnlikelihoodCriterion(LabelSmoothedKLCriterion):
    """Smoothed loss plus alpha times the token-level unlikelihood of earlier tokens.

    Source: Welleck et al. 2020, equations 3 to 5. A token in the loss is penalised for the
    earlier tokens of the same text that are in the loss too; of a dialog, only the reply counts,
    also where the whole line is learned. The sequence-level form (section 5.2) takes the place
    of both in a share of the training updates: the task, which
    :class:`~fairtale.interfaces.WritesReplies`, writes replies by the model, and every token of
    an n-gram that its reply repeats is penalised.

    Raises:
        UserError: an option out of its range, a model that does not show its features, or a
            task that cannot write replies.
    """

    def __init__(self, cfg: UnlikelihoodCriterionConfig, task: FairseqTask) -> None:
        super().__init__(cfg, task)
        if cfg.unlikelihood_alpha < 0:
            raise UserError(f"--unlikelihood-alpha {cfg.unlikelihood_alpha}: must not be negative")
        if not 0 <= cfg.unlikelihood_sequence_prob <= 1:
            raise UserError(
                f"--unlikelihood-sequence-prob {cfg.unlikelihood_sequence_prob}: a probability, "
                "0 to 1"
            )
        if cfg.unlikelihood_ngram < 1 or cfg.unlikelihood_length < 2:
            raise UserError(
                f"--unlikelihood-ngram {cfg.unlikelihood_ngram} must be at least 1, "
                f"--unlikelihood-length {cfg.unlikelihood_length} at least 2"
            )
        if cfg.unlikelihood_sequence_prob and not isinstance(task, WritesReplies):
            raise UserError("--unlikelihood-sequence-prob: only --task dialog_lm writes replies")
        self.alpha = cfg.unlikelihood_alpha
        self.sequence_prob = cfg.unlikelihood_sequence_prob
        self.ngram = cfg.unlikelihood_ngram
        self.length = cfg.unlikelihood_length
        self.seed = cfg.seed
        self._penalty: Tensor | None = None

    def forward(self, model: nn.Module, sample: Batch, reduce: bool = True) -> Loss:
        """Compute the smoothed loss with its penalty; see there for what a batch may hold.

        Raises:
            UserError: the model does not show its features.
        """
        weight = shown_output_weight(model)
        if weight is None:
            raise UserError(
                f"--criterion unlikelihood: {type(unwrapped(model)).__name__} does not show its "
                "features; use it with gpt or unilm_seq2seq"
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
        if response_mask is not None:  # what the dialog says is no repetition of the reply
            used = used.masked_fill(~_chosen(response_mask, chosen), self.padding_idx)
        negatives = earlier_tokens(used, owner, self.padding_idx)
        negatives = negatives.masked_fill((used == self.padding_idx)[:, None], self.padding_idx)
        penalty = unlikelihood(features, weight, negatives, self.padding_idx, chosen.weight)
        self._penalty = penalty
        return sums._replace(loss=sums.loss + self.alpha * penalty)

    def _sequence_level(self, model: nn.Module, weight: Tensor, sample: Batch) -> Loss:
        """Penalise what the model repeats in replies of its own."""
        task: WritesReplies = self.task
        batch = task.write_replies(model, sample, self.length)
        targets = batch["target"]
        assert targets is not None  # the replies
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
            # nothing is predicted here: the ordinary means must not count these tokens
            "loss": penalty.detach().double() * 0,
            "nll_loss": penalty.detach().double() * 0,
            "ntokens": 0,
            "nsentences": sample.get("nsentences", 0),
            "sample_size": 0,
        }
        return penalty, count, log

    @classmethod
    def reduce_metrics(cls, logging_outputs: Sequence[dict[str, Any]]) -> None:
        """Turn the sums of all workers into the logged means, in bits per token."""
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
            if not total("sample_size"):  # it is all that this update minimised
                metrics.log_scalar("loss", value, count, round=3)
            value = total("sequence_repeated") * 100.0 / count
            metrics.log_scalar("sequence_repeated", value, count, round=1)


def _chosen(values: Tensor, chosen: ChosenTokens) -> Tensor:
    """Return the values [N] of the chosen tokens of ``values`` [B, T]."""
    values = values.flatten()
    return values if chosen.index is None else values[chosen.index]
