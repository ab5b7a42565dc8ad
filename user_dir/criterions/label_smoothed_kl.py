"""``label_smoothed_kl``: label-smoothed cross-entropy or KL divergence, computed in chunks."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from fairseq import utils
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.logging import metrics
from fairseq.models import BaseFairseqModel, FairseqDecoder, FairseqLanguageModel
from fairseq.models.transformer import TransformerDecoderBase, TransformerModelBase
from fairseq.tasks import FairseqTask
from omegaconf import II
from torch import Tensor, nn

from fairtale.errors import UserError
from fairtale.interfaces import Batch, ShowsOutputWeight
from fairtale.modules.chunked_loss import (
    LossSums,
    chunked_cross_entropy,
    projected_padding,
    smoothed_target_entropy,
    whole_cross_entropy,
)

logger = logging.getLogger(__name__)

LOSS_AVERAGES = ["tokens", "samples"]
BITS = 1 / math.log(2)  # bits per nat
Loss = tuple[Tensor, "int | Tensor", dict[str, Any]]  # the sum, the sample size, sums to log


@dataclass
class LabelSmoothedKLCriterionConfig(FairseqDataclass):
    """Options of ``label_smoothed_kl``."""

    label_smoothing: float = field(
        default=0.0,
        metadata={
            "help": "probability that is moved from the target and spread evenly over all other "
            "symbols except padding, in [0, 1)"
        },
    )
    use_kl: bool = field(
        default=False,
        metadata={
            "help": "minimise KL(q || p), which is 0 at the optimum, instead of the "
            "cross-entropy H(q, p); the gradient is the same"
        },
    )
    report_accuracy: bool = field(
        default=False,
        metadata={"help": "log the percentage of tokens that the model predicts correctly"},
    )
    report_kl: bool = field(default=False, metadata={"help": "log KL(q || p) in bits per token"})
    # fairseq takes the choices of an option from this annotation, which is not a valid type
    loss_average: ChoiceEnum(LOSS_AVERAGES) = field(  # type: ignore[valid-type]
        default="tokens",
        metadata={
            "help": "average the loss over tokens, or over samples (the mean over samples of the "
            "mean loss of their tokens, so that short and long samples have the same weight)"
        },
    )
    loss_chunk_mib: int = field(
        default=0,
        metadata={
            "help": "maximum MiB of fp32 logits in memory, but at least those of 128 tokens "
            "(0: choose by the device)"
        },
    )
    sentence_avg: bool = II("optimization.sentence_avg")


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside the wrappers for data-parallel training, if there are any."""
    while not isinstance(model, BaseFairseqModel) and hasattr(model, "module"):
        model = cast(nn.Module, model.module)
    return model


def shown_output_weight(model: nn.Module) -> Tensor | None:
    """Return the output embedding [V, C] of a model with ``output_weight()``, else None.

    Args:
        model: the model, wrapped for data-parallel training or not.
    """
    inner = unwrapped(model)
    return inner.output_weight() if isinstance(inner, ShowsOutputWeight) else None


def _stock_projection(model: nn.Module) -> Tensor | None:
    """Return the output embedding [V, C] of fairseq's own transformers, else None.

    The embedding is returned only if logits are exactly ``features @ weight.T``, that is, if no
    subclass overrides the computation of probabilities from features.
    """
    inner = unwrapped(model)
    cls: Any = type(inner)
    decoder = getattr(inner, "decoder", None)
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
    # with --find-unused-parameters, DDP treats a weight as unused if forward does not use it
    tied = stock and projection.weight is decoder.embed_tokens.weight
    if not stock or (getattr(model, "find_unused_parameters", False) and not tied):
        return None
    return projection.weight


@dataclass(frozen=True)
class ChosenTokens:
    """The N tokens of a batch that are in the loss."""

    index: Tensor | None  # int64 [N], indices in the flattened batch [B * T]; None for all
    target: Tensor  # int64 [N]
    weight: Tensor | None  # fp32 [N]; None for 1
    sample_size: "int | Tensor"  # divisor of the loss


def owners(target: Tensor, sample: Batch) -> Tensor:
    """Return the index of the sample that each token of ``target`` belongs to, int64 [B, T]."""
    owner = sample.get("sample_index")
    if owner is None:
        owner = torch.arange(target.size(0), device=target.device)
        owner = owner.unsqueeze(1).expand_as(target)
    return owner


def _check_options(cfg: LabelSmoothedKLCriterionConfig) -> None:
    if not 0.0 <= cfg.label_smoothing < 1.0:
        raise UserError(
            f"--label-smoothing {cfg.label_smoothing}: must be at least 0 and less than 1; "
            f"0.1 is usual, 0 switches smoothing off"
        )
    if str(cfg.loss_average) not in LOSS_AVERAGES:
        raise UserError(
            f"--loss-average {cfg.loss_average}: must be one of {', '.join(LOSS_AVERAGES)}"
        )
    if cfg.loss_chunk_mib < 0:
        raise UserError(
            f"--loss-chunk-mib {cfg.loss_chunk_mib}: must be at least 1, or 0 to choose a value "
            f"for the device"
        )
    if cfg.sentence_avg:
        raise UserError(
            "--sentence-avg with --criterion label_smoothed_kl: it would divide a sum over "
            "tokens by the number of sentences; use --loss-average samples instead"
        )


@register_criterion("label_smoothed_kl", dataclass=LabelSmoothedKLCriterionConfig)
class LabelSmoothedKLCriterion(FairseqCriterion):
    """Cross-entropy H(q, p), or KL(q || p), of the smoothed target q and the model's p.

    With V' symbols other than padding, q is 1 - eps on the target, eps / (V' - 1) on every other
    symbol and 0 on padding. Source: Szegedy et al. 2016, section 7. fairseq's
    ``label_smoothed_cross_entropy`` includes padding and spreads eps over all V - 1 other symbols,
    so the two criterions are equal for eps = 0.

    Units: ``forward`` returns a sum in nats, and the log contains bits. ``loss`` is the minimised
    value, a mean over tokens or samples. ``nll_loss``, ``ppl``, ``kl`` and ``accuracy`` are means
    over tokens independently of ``--loss-average``, and all but ``kl`` are without smoothing.
    ``bpb`` is bits per byte of the target text.

    A model with ``output_weight()`` [V, C] is called with ``features_only=True``, and so are
    fairseq's own transformers. For any other model, the loss uses whole log-probabilities.

    Raises:
        UserError: an option is out of range.
    """

    def __init__(self, cfg: LabelSmoothedKLCriterionConfig, task: FairseqTask) -> None:
        super().__init__(task)
        _check_options(cfg)
        self.eps = cfg.label_smoothing
        self.use_kl = cfg.use_kl
        self.report_accuracy = cfg.report_accuracy
        self.report_kl = cfg.report_kl
        self.by_samples = str(cfg.loss_average) == "samples"
        self.chunk_mib = cfg.loss_chunk_mib
        self.smoothing_padding = self.padding_idx if self.padding_idx >= 0 else None
        self._said_whole = False  # whether the use of whole log-probabilities was logged

    def forward(self, model: nn.Module, sample: Batch, reduce: bool = True) -> Loss:
        """Compute the loss of a batch.

        Args:
            model: a fairseq model, wrapped for data-parallel training or not.
            sample: fairseq's batch. The optional keys ``loss_mask``, ``sample_index``, ``nbytes``,
                ``nwords``, ``padded_tokens`` and ``real_tokens`` are used as well.
            reduce: must be True.

        Returns:
            The loss (a sum in nats, fp32), the divisor of the loss, and sums to log.
        """
        if not reduce:
            raise ValueError("reduce=False: this criterion does not return losses of single tokens")
        sums, num_symbols, num_tokens, sample_size = self._compute(model, sample)
        padding = projected_padding(self.smoothing_padding, num_symbols)
        entropy = smoothed_target_entropy(self.eps, num_symbols - (padding is not None))[2]
        # for both kinds of average, the weights of the tokens sum to the sample size
        loss = sums.loss - entropy * sample_size if self.use_kl else sums.loss
        target = sample["target"]
        assert target is not None  # only prompts have none
        log = {
            "loss": loss.detach().double(),
            "nll_loss": sums.nll,
            "ntokens": num_tokens,
            "nsentences": sample.get("nsentences", target.size(0)),
            "sample_size": sample_size,
        }
        if self.report_kl:
            log["kl"] = sums.cross_entropy - entropy * num_tokens
        if self.report_accuracy:
            log["n_correct"] = sums.num_correct
        if "nbytes" in sample:
            log["nbytes"] = sample["nbytes"]
        if "nwords" in sample:
            log["nwords"] = sample["nwords"]
        if "padded_tokens" in sample:
            log["real_tokens"] = sample.get("real_tokens", sample["ntokens"])
            log["padded_tokens"] = sample["padded_tokens"]
        return loss, sample_size, log

    def _compute(
        self, model: nn.Module, sample: Batch
    ) -> tuple[LossSums, int, int, "int | Tensor"]:
        """Return the sums, V, the number of tokens in the loss, and the sample size."""
        weight = shown_output_weight(model)
        weight = _stock_projection(model) if weight is None else weight
        if weight is None:
            return self._compute_whole(model, sample)
        # choose the tokens before the model runs, because counting them waits for the device
        chosen = self._choose(self._targets(model, sample, None), sample)
        features, _ = model(**sample["net_input"], features_only=True)
        features = _rows(features, chosen.index)
        sums = chunked_cross_entropy(
            features,
            weight,
            chosen.target,
            chosen.weight,
            eps=self.eps,
            padding_idx=self.smoothing_padding,
            chunk_mib=self.chunk_mib,
            count_correct=self.report_accuracy,
        )
        sums = self._penalised(sums, features, weight, chosen, sample)
        return sums, weight.size(0), chosen.target.numel(), chosen.sample_size

    def _compute_whole(
        self, model: nn.Module, sample: Batch
    ) -> tuple[LossSums, int, int, "int | Tensor"]:
        """Compute the result of :meth:`_compute` from the model's log-probabilities [B, T, V]."""
        if not self._said_whole:
            logger.info(
                "%s has no output_weight(): the loss uses whole log-probabilities", type(model)
            )
            self._said_whole = True
        net_output = model(**sample["net_input"])
        lprobs = cast(Any, model).get_normalized_probs(net_output, log_probs=True)
        chosen = self._choose(self._targets(model, sample, net_output), sample)
        lprobs = _rows(lprobs, chosen.index)
        sums = whole_cross_entropy(
            lprobs,
            chosen.target,
            chosen.weight,
            eps=self.eps,
            padding_idx=self.smoothing_padding,
            count_correct=self.report_accuracy,
        )
        return sums, lprobs.size(1), chosen.target.numel(), chosen.sample_size

    @staticmethod
    def _targets(model: nn.Module, sample: Batch, net_output: Any) -> Tensor:
        """Return the targets of the batch, int64 [B, T]."""
        targets: Tensor = cast(Any, model).get_targets(sample, net_output)
        return targets

    def _penalised(
        self, sums: LossSums, features: Tensor, weight: Tensor, chosen: ChosenTokens, sample: Batch
    ) -> LossSums:
        """Add a penalty to the loss; derived criterions override this method.

        Args:
            sums: sums of the batch.
            features: features of the chosen tokens [N, C].
            weight: output embedding [V, C].
            chosen: the chosen tokens.
            sample: the batch.
        """
        return sums

    def _choose(self, target: Tensor, sample: Batch) -> ChosenTokens:
        """Choose the tokens in the loss, and compute their weights.

        Args:
            target: int64 [B, T].
            sample: the batch.
        """
        counts = target.ne(self.padding_idx)
        if "loss_mask" in sample:
            counts = counts & sample["loss_mask"]
        index: Tensor | None = counts.flatten().nonzero().squeeze(1)
        if index is not None and index.numel() == target.numel():
            index = None
        targets = _rows(target.unsqueeze(-1), index).squeeze(1)
        if not self.by_samples:
            return ChosenTokens(index, targets, None, targets.numel())
        owner = _rows(owners(target, sample).unsqueeze(-1), index).squeeze(1)
        lengths = torch.zeros(target.numel(), device=target.device)
        lengths.index_add_(0, owner, torch.ones_like(owner, dtype=lengths.dtype))
        return ChosenTokens(index, targets, lengths[owner].reciprocal(), lengths.count_nonzero())

    @classmethod
    def reduce_metrics(cls, logging_outputs: Sequence[dict[str, Any]]) -> None:
        """Log means from the sums of all workers."""

        def total(key: str) -> Any:
            return sum(log.get(key, 0) for log in logging_outputs)

        def mean(name: str, key: str, count: Any, factor: float = BITS, digits: int = 3) -> None:
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
            if total("nwords") > 0:
                mean("nll_word", "nll_loss", total("nwords"))
                metrics.log_derived(
                    "ppl_word", lambda meters: utils.get_perplexity(meters["nll_word"].avg)
                )
        if total("padded_tokens") > 0:
            mean("fullness", "real_tokens", total("padded_tokens"), factor=100, digits=1)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Return True, because the logging outputs are sums."""
        return True


def _rows(x: Tensor, index: Tensor | None) -> Tensor:
    """Flatten [B, T, C] to [B * T, C] and keep the rows ``index`` [N], or all."""
    x = x.flatten(0, 1)
    return x if index is None else x.index_select(0, index)
