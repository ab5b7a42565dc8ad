"""How much a head or a feed-forward unit matters, measured on data."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from torch import Tensor

from ..modules.narrow_attention import NarrowAttention
from .parts import attentions, feed_forwards, place_of
from .removal import gate_values


@dataclass
class Importance:
    """Scores measured on data; keys as "encoder.0", larger matters more.

    Shapes: heads [H], units [F], float64.
    """

    confidence: dict[str, Tensor] = field(default_factory=dict)
    gradient: dict[str, Tensor] = field(default_factory=dict)
    units: dict[str, Tensor] = field(default_factory=dict)
    num_sentences: int = 0


class ProbedAttention(NarrowAttention):
    """An attention that computes what another one does, and shows what its heads do.

    Its parameters are the other's. Each head's output is multiplied by ``gates`` [B, H], all
    one, by which a loss can be differentiated.

    Args:
        attention: fairseq's, or one with the names of its parts.
        factors: gates [H] of the model itself, or None.
    """

    def __init__(self, attention, factors: Optional[Tensor]):
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
        self.gates: Optional[Tensor] = None
        self.confidence: Optional[Tensor] = None  # [H], summed over the queries that count
        self.queries: Optional[Tensor] = None  # [B, T], True where one counts
        self.keys: Optional[Tensor] = None  # [B, S]

    def attend(self, q, k, v, mask, need_weights):
        """See :meth:`NarrowAttention.attend`; the weights' maxima are noted."""
        y, weights = super().attend(q, k, v, mask, True)
        seen = weights.detach() * self.keys[:, None, None]
        best = seen.amax(3) * self.queries[:, None]  # [B, H, T]
        self.confidence = best.double().sum((0, 2))
        self.gates = y.new_ones(y.size(0), y.size(1), requires_grad=True)
        y = y * self.gates[:, :, None, None]
        if self.factors is not None:
            y = y * self.factors.to(y)[:, None, None]
        return y, weights


class _ProbedUnits:
    """Multiplies what a feed-forward layer's units put out by ``gates`` [B, F], all one."""

    def __init__(self):
        self.gates: Optional[Tensor] = None

    def __call__(self, module, inputs):
        (x,) = inputs  # [T, B, F]
        self.gates = x.new_ones(x.shape[1:], requires_grad=True)
        return (x * self.gates,)


def measure(model, samples: Iterable[dict[str, Any]], pad: int, eos: int) -> Importance:
    """Measure heads and feed-forward units of a transformer.

    *Confidence* of a head: its largest attention weight, mean over words; the end mark counts
    neither as the word that looks nor as the one looked at. Source: Voita et al. 2019, section
    4.1. *Gradient*: with L the negative log-likelihood of a sentence and g a factor on the
    head's output, the mean over sentences of ``|dL/dg|`` at g = 1. Source: Michel et al. 2019,
    equation 2. *Units*: the same for a feed-forward unit h, where ``dL/dg = sum of dL/dh * h``
    over the words of the sentence.

    Args:
        model: of fairseq's kind, gated or not, in evaluation mode; it is left as it was.
        samples: batches of a translation task, on the model's device.
        pad, eos: numbers of the padding and the end mark.
    """
    probes, units, hooks = {}, {}, []
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


def _put(model, key, attention):
    side, number, name = place_of(key)
    setattr(getattr(model, side).layers[number], name, attention)


def _collect(model, samples, probes, units, pad, eos):
    out = Importance()
    sums: dict[str, dict[str, Tensor]] = {"confidence": {}, "gradient": {}, "units": {}}
    num_words = dict.fromkeys(probes, 0)
    probes = {key: probe for key, probe in probes.items() if probe.num_heads}

    def add(kind, key, value):
        sums[kind][key] = sums[kind].get(key, 0) + value.cpu()

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
            probed = [*probes.items(), *units.items()]
            gates = [probe.gates for _, probe in probed]
            gradients = [None] * len(gates)
            if loss.requires_grad:
                gradients = torch.autograd.grad(loss, gates, allow_unused=True)
        for (key, probe), gradient in zip(probed, gradients, strict=True):
            kind = "gradient" if isinstance(probe, ProbedAttention) else "units"
            if gradient is None:  # nobody looks at the encoder where cross attention has no heads
                gradient = torch.zeros_like(probe.gates)
            add(kind, key, gradient.double().abs().sum(0))
        for key, probe in probes.items():
            add("confidence", key, probe.confidence)
            num_words[key] += int(probe.queries.sum())
        out.num_sentences += len(sample["id"])
    n = max(1, out.num_sentences)
    out.confidence = {k: v / max(1, num_words[k]) for k, v in sums["confidence"].items()}
    out.gradient = {k: v / n for k, v in sums["gradient"].items()}
    out.units = {k: v / n for k, v in sums["units"].items()}
    return out


def _words(tokens, pad, eos):
    return (tokens != pad) & (tokens != eos)


def _negative_log_likelihood(model, sample, pad):
    """Summed over all words of all sentences; each sentence's gates see its own share."""
    output = model(**sample["net_input"])
    lprobs = model.get_normalized_probs(output, log_probs=True, sample=sample)
    target = sample["target"]
    nll = -lprobs.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    return nll.float().masked_fill(target == pad, 0.0).sum()
