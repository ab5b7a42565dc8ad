"""``unlikelihood``: the smoothed loss, and a penalty on repeating oneself."""

import random
from dataclasses import dataclass, field

import torch
from fairseq.criterions import register_criterion
from fairseq.logging import metrics
from omegaconf import II

from fairtale.errors import UserError
from fairtale.modules.unlikelihood import earlier_tokens, repeated_ngram_tokens, unlikelihood

from .label_smoothed_kl import BITS, LabelSmoothedKLCriterion, LabelSmoothedKLCriterionConfig


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
    also where the whole line is learned. The sequence-level form (section
    5.2) takes the place of both in a share of the training updates: replies are written by
    ``task.write_replies`` and every token of an n-gram that its reply repeats is penalised.

    Raises:
        UserError: an option out of its range, a model that does not show its features, or a
            task that cannot write replies.
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
        unlikelihood_alpha: float = 1.0,
        unlikelihood_sequence_prob: float = 0.0,
        unlikelihood_ngram: int = 4,
        unlikelihood_length: int = 40,
        seed: int = 1,
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
        if unlikelihood_alpha < 0:
            raise UserError(f"--unlikelihood-alpha {unlikelihood_alpha}: must not be negative")
        if not 0 <= unlikelihood_sequence_prob <= 1:
            raise UserError(
                f"--unlikelihood-sequence-prob {unlikelihood_sequence_prob}: a probability, 0 to 1"
            )
        if unlikelihood_ngram < 1 or unlikelihood_length < 2:
            raise UserError(
                f"--unlikelihood-ngram {unlikelihood_ngram} must be at least 1, "
                f"--unlikelihood-length {unlikelihood_length} at least 2"
            )
        if unlikelihood_sequence_prob and not hasattr(task, "write_replies"):
            raise UserError("--unlikelihood-sequence-prob: only --task dialog_lm writes replies")
        self.alpha = unlikelihood_alpha
        self.sequence_prob = unlikelihood_sequence_prob
        self.ngram = unlikelihood_ngram
        self.length = unlikelihood_length
        self.seed = seed
        self._penalty = None

    def forward(self, model, sample, reduce=True):
        """As the smoothed loss; see there for what a batch may hold."""
        if not hasattr(model, "output_weight"):
            raise UserError(
                f"--criterion unlikelihood: {type(model).__name__} does not show its features; "
                "use it with gpt or unilm_seq2seq"
            )
        draw = random.Random(f"unlikelihood {self.seed} {sample.get('update_num')}").random()
        if self.training and draw < self.sequence_prob:
            return self._sequence_level(model, sample)
        self._penalty = None
        loss, sample_size, log = super().forward(model, sample, reduce)
        if self._penalty is not None:
            log["unlikelihood"] = self._penalty.detach().double()
        return loss, sample_size, log

    def _penalised(self, sums, features, weight, target, index, token_weight, sample):
        if self.alpha == 0 or not self.training:
            return sums
        owner = sample.get("sample_index")
        if owner is None:
            rows = torch.arange(sample["target"].size(0), device=target.device)
            owner = rows.unsqueeze(1).expand_as(sample["target"])
        owner = owner.flatten() if index is None else owner.flatten()[index]
        used = target
        if "response_mask" in sample:  # what the dialog says is no repetition of the reply
            reply = sample["response_mask"].flatten()
            reply = reply if index is None else reply[index]
            used = target.masked_fill(~reply, self.padding_idx)
        negatives = earlier_tokens(used, owner, self.padding_idx)
        negatives = negatives.masked_fill((used == self.padding_idx)[:, None], self.padding_idx)
        penalty = unlikelihood(features, weight, negatives, self.padding_idx, token_weight)
        self._penalty = penalty
        return sums._replace(loss=sums.loss + self.alpha * penalty)

    def _sequence_level(self, model, sample):
        """Penalise what the model repeats in replies of its own."""
        batch = self.task.write_replies(model, sample, self.length)
        chosen = batch["response_mask"].flatten()
        target = batch["target"].flatten()[chosen]
        owner = batch["sample_index"].flatten()[chosen]
        repeated = repeated_ngram_tokens(target, owner, self.ngram)
        negatives = target.masked_fill(~repeated, self.padding_idx).unsqueeze(1)
        features, _ = model(**batch["net_input"], features_only=True)
        penalty = unlikelihood(
            features.flatten(0, 1)[chosen], model.output_weight(), negatives, self.padding_idx
        )
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
    def reduce_metrics(cls, logging_outputs) -> None:
        super().reduce_metrics(logging_outputs)

        def total(key):
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
