"""Measure the importance of heads and feed-forward units on data."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..modules.narrow_attention import NarrowAttention
from .parts import attentions, feed_forwards, place_of
from .removal import gate_values

Scores = dict[str, Tensor]


@dataclass
class Importance:
    """Scores measured on data; larger is more important.

    Keys are as "encoder.0"; values are float64, [H] for heads and [F] for units.
    """

    confidence: Scores = field(default_factory=dict)
    gradient: Scores = field(default_factory=dict)
    units: Scores = field(default_factory=dict)
    num_sentences: int = 0


class ProbedAttention(NarrowAttention):
    """An attention with the parameters and output of another one, which measures its heads.

    The output of each head is multiplied by ``gates`` [B, H], which are all 1, so that a loss can
    be differentiated by them.

    Args:
        attention: fairseq's attention, or one with the same names of parts.
        factors: values [H] of the model's own gates, or None.
    """

    def __init__(self, attention: Any, factors: Tensor | None) -> None:
        super().__init__(
            attention.embed_dim,
            0,
            attention.head_dim,
            self_attention=attention.self_attention,
            encoder_decoder_attention=attention.encoder_decoder_attention,
        )
        self.num_heads = attention.num_heads
        self.out_proj = attention.out_proj
        if self.num_heads:
            self.q_proj, self.k_proj = attention.q_proj, attention.k_proj
            self.v_proj = attention.v_proj
        self.factors = factors
        self.gates: Tensor | None = None
        self.confidence: Tensor | None = None  # [H], summed over the queries of words
        # set before each batch
        self.queries: Tensor  # [B, T], True where a query is a word
        self.keys: Tensor  # [B, S], True where a key is a word

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Attend as in :meth:`NarrowAttention.attend`, and store the sums of largest weights."""
        y, weights = super().attend(q, k, v, mask, True)
        assert weights is not None  # need_weights is True
        seen = weights.detach() * self.keys[:, None, None]
        best = seen.amax(3) * self.queries[:, None]  # [B, H, T]
        self.confidence = best.double().sum((0, 2))
        self.gates = y.new_ones(y.size(0), y.size(1), requires_grad=True)
        y = y * self.gates[:, :, None, None]
        if self.factors is not None:
            y = y * self.factors.to(y)[:, None, None]
        return y, weights


class _ProbedUnits:
    """A forward hook that multiplies feed-forward units by ``gates`` [B, F], which are all 1."""

    def __init__(self) -> None:
        self.gates: Tensor | None = None

    def __call__(self, module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (x,) = inputs  # [T, B, F]
        self.gates = x.new_ones(x.shape[1:], requires_grad=True)
        return (x * self.gates,)


def measure(model: Any, samples: Iterable[dict[str, Any]], pad: int, eos: int) -> Importance:
    """Measure the importance of heads and feed-forward units of a transformer.

    *Confidence* of a head: its largest attention weight, averaged over words; the EOS token is
    excluded both as a query and as a key. Source: Voita et al. 2019, section 4.1. *Gradient*: the
    mean over sentences of ``|dL/dg|`` at g = 1, where L is the negative log-likelihood of a
    sentence and g a factor on the output of the head. Source: Michel et al. 2019, equation 2.
    *Units*: the same for a feed-forward unit h, where ``dL/dg`` is the sum of ``dL/dh * h`` over
    the words of the sentence.

    Args:
        model: a fairseq transformer, gated or not, in evaluation mode; it is restored afterwards.
        samples: batches of a translation task, on the model's device.
        pad: index of the padding token.
        eos: index of the EOS token.
    """
    probes: dict[str, ProbedAttention] = {}
    units: dict[str, _ProbedUnits] = {}
    hooks = []
    gates = gate_values(model)
    places = attentions(model)
    required = [p for p in model.parameters() if p.requires_grad]
    for parameter in required:
        parameter.requires_grad_(False)
    try:
        for key, attention in places.items():
            probes[key] = ProbedAttention(attention, gates.get(key)).eval()
            _put(model, key, probes[key])
        for key, (_, fc2) in feed_forwards(model).items():
            if hasattr(fc2, "weight"):
                units[key] = _ProbedUnits()
                hooks.append(fc2.register_forward_pre_hook(units[key]))
        return _collect(model, samples, probes, units, pad, eos)
    finally:
        for hook in hooks:
            hook.remove()
        for key, attention in places.items():
            _put(model, key, attention)
        for parameter in required:
            parameter.requires_grad_(True)


def _put(model: Any, key: str, attention: nn.Module) -> None:
    side, number, name = place_of(key)
    setattr(getattr(model, side).layers[number], name, attention)


class _Sums:
    """Scores of each kind, summed over sentences or words."""

    def __init__(self) -> None:
        self.of: dict[str, Scores] = {"confidence": {}, "gradient": {}, "units": {}}

    def add(self, kind: str, key: str, value: Tensor) -> None:
        scores = self.of[kind]
        scores[key] = scores[key] + value.cpu() if key in scores else value.cpu()

    def divided(self, kind: str, by: dict[str, int]) -> Scores:
        return {key: value / max(1, by[key]) for key, value in self.of[kind].items()}


def _collect(
    model: Any,
    samples: Iterable[dict[str, Any]],
    probes: dict[str, ProbedAttention],
    units: dict[str, _ProbedUnits],
    pad: int,
    eos: int,
) -> Importance:
    """Run the batches through the model with probes, and average the measurements."""
    sums, num_sentences = _Sums(), 0
    num_words = dict.fromkeys(probes, 0)
    probes = {key: probe for key, probe in probes.items() if probe.num_heads}
    for sample in samples:
        words = {
            "source": _words(sample["net_input"]["src_tokens"], pad, eos),
            "target": _words(sample["net_input"]["prev_output_tokens"], pad, eos),
        }
        for key, probe in probes.items():
            probe.queries = words["source" if key.startswith("encoder") else "target"]
            probe.keys = words["target" if key.startswith("decoder") else "source"]
        with torch.enable_grad():
            loss = _negative_log_likelihood(model, sample, pad)
        _add_gradients(sums, loss, probes, units)
        for key, probe in probes.items():
            assert probe.confidence is not None  # the model has run
            sums.add("confidence", key, probe.confidence)
            num_words[key] += int(probe.queries.sum())
        num_sentences += len(sample["id"])
    return Importance(
        confidence=sums.divided("confidence", num_words),
        gradient=sums.divided("gradient", dict.fromkeys(probes, num_sentences)),
        units=sums.divided("units", dict.fromkeys(units, num_sentences)),
        num_sentences=num_sentences,
    )


def _add_gradients(
    sums: _Sums,
    loss: Tensor,
    probes: dict[str, ProbedAttention],
    units: dict[str, _ProbedUnits],
) -> None:
    """Add abs(dL/dg) of every probe, summed over sentences."""
    probed: list[tuple[str, str, ProbedAttention | _ProbedUnits]] = [
        *(("gradient", key, probe) for key, probe in probes.items()),
        *(("units", key, probe) for key, probe in units.items()),
    ]
    gates = [_gates_of(probe) for _, _, probe in probed]
    gradients: tuple[Tensor | None, ...] = (None,) * len(gates)
    if loss.requires_grad:
        gradients = torch.autograd.grad(loss, gates, allow_unused=True)
    for (kind, key, _), gate, gradient in zip(probed, gates, gradients, strict=True):
        # the encoder has no gradient if the cross attention has no heads
        found = torch.zeros_like(gate) if gradient is None else gradient
        sums.add(kind, key, found.double().abs().sum(0))


def _gates_of(probe: ProbedAttention | _ProbedUnits) -> Tensor:
    assert probe.gates is not None  # the model has run
    return probe.gates


def _words(tokens: Tensor, pad: int, eos: int) -> Tensor:
    """Return True for each token that is neither padding nor EOS."""
    return (tokens != pad) & (tokens != eos)


def _negative_log_likelihood(model: Any, sample: dict[str, Any], pad: int) -> Tensor:
    """Return the sum over all sentences; each sentence's gates affect only its own part."""
    output = model(**sample["net_input"])
    adaptive = getattr(model.decoder, "adaptive_softmax", None)
    if adaptive is not None:
        # get_normalized_probs has no gradient there, because it adds in place
        parts = zip(*adaptive(output[0], sample["target"]), strict=True)
        # only the first part, the most frequent tokens, contains padding
        ignored = itertools.chain([pad], itertools.repeat(-1))
        losses = [
            cross_entropy(logits.float(), target, ignore_index=none, reduction="sum")
            for (logits, target), none in zip(parts, ignored)
            if target is not None
        ]
        return torch.stack(losses).sum()
    lprobs: Tensor = model.get_normalized_probs(output, log_probs=True, sample=sample)
    target = sample["target"]
    nll = -lprobs.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    return nll.float().masked_fill(target == pad, 0.0).sum()
