"""Label smoothing as a divergence, on chunks of the vocabulary projection."""

import logging
import math
from dataclasses import dataclass, field

import torch
from fairseq import utils
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.logging import metrics
from fairseq.models import BaseFairseqModel, FairseqDecoder, FairseqLanguageModel
from fairseq.models.transformer import TransformerDecoderBase, TransformerModelBase
from omegaconf import II
from torch import Tensor, nn

from fairtale.errors import UserError
from fairtale.modules.chunked_loss import (
    LossSums,
    chunked_cross_entropy,
    smoothed_target_entropy,
    whole_cross_entropy,
)

logger = logging.getLogger(__name__)

LOSS_AVERAGES = ["tokens", "samples"]
BITS = 1 / math.log(2)  # in a nat


@dataclass
class LabelSmoothedKLCriterionConfig(FairseqDataclass):
    label_smoothing: float = field(
        default=0.0,
        metadata={
            "help": "probability that the smoothed target takes from the right symbol and "
            "spreads evenly over the others, padding excluded; in [0, 1)"
        },
    )
    use_kl: bool = field(
        default=False,
        metadata={
            "help": "minimise KL(q || p), which is zero at the optimum, instead of the "
            "cross-entropy H(q, p); same gradient"
        },
    )
    report_accuracy: bool = field(
        default=False,
        metadata={"help": "log the percentage of tokens whose symbol is the model's first choice"},
    )
    report_kl: bool = field(default=False, metadata={"help": "log KL(q || p) in bits per token"})
    loss_average: ChoiceEnum(LOSS_AVERAGES) = field(
        default="tokens",
        metadata={
            "help": "what the loss is a mean over: tokens, or samples (the mean over samples "
            "of each sample's mean token loss, so that short and long ones weigh the same)"
        },
    )
    loss_chunk_mib: int = field(
        default=0,
        metadata={
            "help": "most MiB of fp32 logits held at a time, but at least 128 tokens; "
            "0 chooses by the device"
        },
    )
    sentence_avg: bool = II("optimization.sentence_avg")


def _stock_projection(model: nn.Module) -> Tensor | None:
    """Return the output embedding [V, C] of fairseq's own transformers, else None.

    Only if logits are exactly ``features @ weight.T``, that is, if no class between here
    and fairseq's overrides how features become probabilities.
    """
    inner = model
    while not isinstance(inner, BaseFairseqModel):
        if not hasattr(inner, "module"):
            return None
        inner = inner.module
    cls, decoder = type(inner), getattr(inner, "decoder", None)
    if not isinstance(decoder, TransformerDecoderBase):
        return None
    projection = decoder.output_projection  # None with an adaptive softmax
    stock = (
        cls.forward in (TransformerModelBase.forward, FairseqLanguageModel.forward)
        and cls.get_normalized_probs
        in (TransformerModelBase.get_normalized_probs, BaseFairseqModel.get_normalized_probs)
        and type(decoder).forward is TransformerDecoderBase.forward
        and type(decoder).output_layer is TransformerDecoderBase.output_layer
        and type(decoder).get_normalized_probs is FairseqDecoder.get_normalized_probs
        and type(projection) is nn.Linear
        and projection.bias is None
    )
    # --find-unused-parameters: DDP would take a weight that its forward did not use for unused
    tied = stock and projection.weight is decoder.embed_tokens.weight
    if not stock or (getattr(model, "find_unused_parameters", False) and not tied):
        return None
    return projection.weight


@register_criterion("label_smoothed_kl", dataclass=LabelSmoothedKLCriterionConfig)
class LabelSmoothedKLCriterion(FairseqCriterion):
    """Cross-entropy H(q, p), or KL(q || p), of the smoothed target q and the model p.

    With V' symbols besides padding, q is 1 - eps on the target, eps / (V' - 1) on every
    other one and 0 on padding. Source: Szegedy et al. 2016, section 7; fairseq's
    ``label_smoothed_cross_entropy`` counts padding and spreads eps over all V - 1 others,
    so the two agree at eps = 0.

    Units: ``forward`` returns a sum in nats. The log shows bits: ``loss`` is what is
    minimised, a mean over tokens or samples; ``nll_loss``, ``ppl``, ``kl`` and ``accuracy``
    are unsmoothed (``kl`` excepted) and per token, whatever ``--loss-average`` says;
    ``bpb`` is bits per byte of the target text.

    The model is called with ``features_only=True`` and asked for ``output_weight()`` [V, C];
    fairseq's own transformers are known; any other model computes whole log-probabilities.
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
    ):
        super().__init__(task)
        if not 0.0 <= label_smoothing < 1.0:
            raise UserError(
                f"--label-smoothing {label_smoothing}: must be at least 0 and less than 1; "
                f"0.1 is usual, 0 switches it off"
            )
        if str(loss_average) not in LOSS_AVERAGES:
            raise UserError(
                f"--loss-average {loss_average}: must be one of {', '.join(LOSS_AVERAGES)}"
            )
        if loss_chunk_mib < 0:
            raise UserError(
                f"--loss-chunk-mib {loss_chunk_mib}: must be at least 1, or 0 to let the "
                f"device decide"
            )
        if sentence_avg:
            raise UserError(
                "--sentence-avg with --criterion label_smoothed_kl: it would divide sums over "
                "tokens by sentences; use --loss-average samples instead"
            )
        self.eps = label_smoothing
        self.use_kl = use_kl
        self.report_accuracy = report_accuracy
        self.report_kl = report_kl
        self.by_samples = str(loss_average) == "samples"
        self.chunk_mib = loss_chunk_mib
        self.smoothing_padding = self.padding_idx if self.padding_idx >= 0 else None
        self._told = False

    def forward(self, model, sample, reduce=True):
        """Compute the loss of a batch.

        Args:
            model: a fairseq model, wrapped for data parallel training or not.
            sample: fairseq's batch. Also read, where present: ``loss_mask`` bool [B, T],
                True = in the loss; ``sample_index`` int64 [B, T] in 0 .. B * T - 1, which
                sample a token is of (else its row); ``nbytes``, UTF-8 bytes of the target
                text; ``padded_tokens``, size of the padded batch; ``real_tokens`` in it, if
                those are more than ``ntokens``.

        Returns:
            The loss (a sum in nats, fp32), the number to divide it by, and sums to log.
        """
        if not reduce:
            raise ValueError("reduce=False: this criterion keeps no losses of single tokens")
        sums, num_symbols, num_tokens, sample_size = self._compute(model, sample)
        entropy = smoothed_target_entropy(
            self.eps, num_symbols - (self.smoothing_padding is not None)
        )[2]
        # the weights of the tokens sum to the sample size, in both averages
        loss = sums.loss - entropy * sample_size if self.use_kl else sums.loss
        log = {
            "loss": loss.detach().double(),
            "nll_loss": sums.nll,
            "ntokens": num_tokens,
            "nsentences": sample.get("nsentences", sample["target"].size(0)),
            "sample_size": sample_size,
        }
        if self.report_kl:
            log["kl"] = sums.cross_entropy - entropy * num_tokens
        if self.report_accuracy:
            log["n_correct"] = sums.num_correct
        if "nbytes" in sample:
            log["nbytes"] = sample["nbytes"]
        if "padded_tokens" in sample:
            log["real_tokens"] = sample.get("real_tokens", sample["ntokens"])
            log["padded_tokens"] = sample["padded_tokens"]
        return loss, sample_size, log

    def _compute(self, model, sample) -> tuple[LossSums, int, int, "int | Tensor"]:
        """Return the sums, V, the tokens in the loss, and the sample size."""
        options = dict(
            eps=self.eps, padding_idx=self.smoothing_padding, count_correct=self.report_accuracy
        )
        weight = model.output_weight() if hasattr(model, "output_weight") else None
        weight = _stock_projection(model) if weight is None else weight
        if weight is not None:
            # chosen before the model runs: counting them waits for the device
            target = model.get_targets(sample, None)
            index, target, token_weight, sample_size = self._choose(target, sample)
            features, _ = model(**sample["net_input"], features_only=True)
            features = _rows(features, index)
            sums = chunked_cross_entropy(
                features, weight, target, token_weight, chunk_mib=self.chunk_mib, **options
            )
            sums = self._penalised(sums, features, weight, target, index, token_weight, sample)
            return sums, weight.size(0), target.numel(), sample_size
        if not self._told:
            logger.info(
                "%s has no output_weight(): the loss uses whole log-probabilities", type(model)
            )
            self._told = True
        net_output = model(**sample["net_input"])
        lprobs = model.get_normalized_probs(net_output, log_probs=True)
        target = model.get_targets(sample, net_output)
        index, target, token_weight, sample_size = self._choose(target, sample)
        lprobs = _rows(lprobs, index)
        sums = whole_cross_entropy(lprobs, target, token_weight, **options)
        return sums, lprobs.size(1), target.numel(), sample_size

    def _penalised(self, sums, features, weight, target, index, token_weight, sample) -> LossSums:
        """Hook: add to the loss what a criterion built on this one adds."""
        return sums

    def _choose(self, target: Tensor, sample):
        """Find the tokens in the loss and their weights.

        Args:
            target: int64 [B, T].

        Returns:
            Their places in the flattened batch [N], or None for all; their targets [N];
            their weights [N], or None for 1; the sample size.
        """
        chosen = target.ne(self.padding_idx)
        if "loss_mask" in sample:
            chosen = chosen & sample["loss_mask"]
        index = chosen.flatten().nonzero().squeeze(1)
        if index.numel() == target.numel():
            index = None
        targets = _rows(target.unsqueeze(-1), index).squeeze(1)
        if not self.by_samples:
            return index, targets, None, targets.numel()
        owner = sample.get("sample_index")
        if owner is None:
            owner = torch.arange(target.size(0), device=target.device)
            owner = owner.unsqueeze(1).expand_as(target)
        owner = _rows(owner.unsqueeze(-1), index).squeeze(1)
        lengths = torch.zeros(target.numel(), device=target.device)
        lengths.index_add_(0, owner, torch.ones_like(owner, dtype=lengths.dtype))
        return index, targets, lengths[owner].reciprocal(), lengths.count_nonzero()

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        """Turn the sums of all workers into the logged means."""

        def total(key):
            return sum(log.get(key, 0) for log in logging_outputs)

        def mean(name, key, count, factor=BITS, digits=3):
            metrics.log_scalar(name, total(key) * factor / count, count, round=digits)

        tokens, sample_size = total("ntokens"), total("sample_size")
        if tokens > 0:
            mean("loss", "loss", sample_size)
            mean("nll_loss", "nll_loss", tokens)
            metrics.log_derived("ppl", lambda meters: utils.get_perplexity(meters["nll_loss"].avg))
            if any("kl" in log for log in logging_outputs):
                mean("kl", "kl", tokens)
            if any("n_correct" in log for log in logging_outputs):
                mean("accuracy", "n_correct", tokens, factor=100)
            if total("nbytes") > 0:
                mean("bpb", "nll_loss", total("nbytes"), digits=4)
        if total("padded_tokens") > 0:
            mean("fullness", "real_tokens", total("padded_tokens"), factor=100, digits=1)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True


def _rows(x: Tensor, index: Tensor | None) -> Tensor:
    """Flatten [B, T, C] to [B * T, C] and keep the rows ``index`` [N], or all."""
    x = x.flatten(0, 1)
    return x if index is None else x.index_select(0, index)
