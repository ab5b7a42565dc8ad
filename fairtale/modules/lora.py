"""Low-rank adapters (LoRA) on the linear layers of a transformer, whose own weights are frozen."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from .dropout import dropout
from .prefix_transformer import PrefixTransformer, TransformerLayer

A, B = "lora_A", "lora_B"  # names of the factors in state dicts
# name of a target -> path of its linear layer in a TransformerLayer
TARGETS = {
    "qkv": "self_attn.qkv_proj",
    "out": "self_attn.out_proj",
    "fc1": "fc1",
    "fc2": "fc2",
}
BASE = "adapter_base"  # buffer of the transformer: fingerprint of the base, zeros if unknown
# names by which people may mean the embedding, which is also the projection to the vocabulary
_EMBEDDINGS = {
    "embed",
    "embed_tokens",
    "embed_positions",
    "wte",
    "wpe",
    "head",
    "lm_head",
    "output",
}


@dataclass(frozen=True)
class AdapterShape:
    """Rank, scale, dropout and targets of the adapters, the same in all layers.

    Args:
        rank: r, at least 1.
        alpha: the product of the two factors is scaled by alpha / r; above 0.
        dropout: probability of dropping an input of an adapter in training, in [0, 1).
        targets: keys of ``TARGETS``, in that order.

    Raises:
        UserError: a value is out of range, or there is no such target.
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    targets: tuple[str, ...] = tuple(TARGETS)

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"--lora-rank {self.rank}: must be at least 1 (0 is without adapters)")
        if not 0 < self.alpha < math.inf:
            raise UserError(f"--lora-alpha {self.alpha}: must be > 0 and finite")
        if not 0 <= self.dropout < 1:
            raise UserError(f"--lora-dropout {self.dropout}: must be at least 0 and below 1")
        given = ",".join(self.targets)
        if not self.targets or len(set(self.targets)) != len(self.targets):
            raise UserError(f"--lora-target {given}: name each of {_names(TARGETS)} at most once")
        for target in self.targets:
            if target in _EMBEDDINGS:
                raise UserError(
                    f"--lora-target {given}: {target} takes no adapter, because the embedding is "
                    f"also the projection to the vocabulary; choose from {_names(TARGETS)}"
                )
            if target not in TARGETS:
                raise UserError(
                    f"--lora-target {given}: no target {target!r}; choose from {_names(TARGETS)}"
                )
        object.__setattr__(self, "targets", tuple(t for t in TARGETS if t in self.targets))

    @property
    def scale(self) -> float:
        """Return alpha / r."""
        return self.alpha / self.rank


def _names(names: Collection[str]) -> str:
    return ", ".join(names)


def adapter_shape(
    rank: int | None, alpha: float | None, dropout: float | None, target: str | None
) -> AdapterShape | None:
    """Return the shape of the adapters that options ask for; None without ``--lora-rank``.

    Args:
        rank: ``--lora-rank``; 0 or None is without adapters.
        alpha: ``--lora-alpha``; None for the rank.
        dropout: ``--lora-dropout``; None for 0.
        target: ``--lora-target``, separated by commas; None for all.

    Raises:
        UserError: an option is out of range, or has no effect without ``--lora-rank``.
    """
    if not rank:
        for name, value in (("alpha", alpha), ("dropout", dropout), ("target", target)):
            if value is not None:
                raise UserError(f"--lora-{name} {value} needs --lora-rank")
        return None
    return AdapterShape(
        rank=rank,
        alpha=float(rank) if alpha is None else alpha,
        dropout=dropout or 0.0,
        targets=tuple(TARGETS) if target is None else tuple(target.split(",")),
    )


class LowRankLinear(nn.Linear):
    """A frozen linear layer and the trained product of two low-rank matrices.

    It computes W x + b + (alpha / r) B A dropout(x). W and b are the parameters of the given layer
    and keep their names in the state dict. A is initialised as by PEFT, and B is zero, so the
    output is at first that of the given layer.

    Source: Hu et al. 2021, section 4.1.

    Args:
        base: the layer to adapt; its parameters are frozen and not copied.
        shape: rank, scale and dropout.
    """

    def __init__(self, base: nn.Linear, shape: AdapterShape) -> None:
        nn.Module.__init__(self)  # not Linear's, which would make new weights
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        base.requires_grad_(False)
        self.scale, self.dropout = shape.scale, shape.dropout
        self.lora_A = nn.Parameter(base.weight.new_empty(shape.rank, base.in_features))  # [r, in]
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, shape.rank))  # [out, r]
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., out] for an input [..., in]."""
        rows = x.reshape(-1, self.in_features)
        y = F.linear(rows, self.weight, self.bias)
        low = F.linear(dropout(rows, self.dropout, self.training), self.lora_A)  # [N, r]
        # adding within the product is a third faster than a sum of two results, and so is its
        # backward pass
        y = torch.addmm(y, low, self.lora_B.t(), alpha=self.scale)
        return y.view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Describe the layer in the log of the model."""
        return f"{super().extra_repr()}, rank={self.lora_A.size(0)}, scale={self.scale}"


# ------------------------------------------------------------------- adapters of a transformer


def add_adapters(transformer: PrefixTransformer, shape: AdapterShape) -> None:
    """Put adapters on the targets in all layers, and freeze all other parameters.

    Args:
        transformer: a transformer without adapters.
        shape: rank, scale, dropout and targets.

    Raises:
        UserError: the rank exceeds the width of a target.
    """
    transformer.requires_grad_(False)
    for layer in transformer.layers:
        for target in shape.targets:
            path, name = _owner(layer, target)
            linear: nn.Linear = getattr(path, name)
            width = min(linear.in_features, linear.out_features)
            if shape.rank > width:
                raise UserError(
                    f"--lora-rank {shape.rank}: must be at most {width}, the width of {target}"
                )
            setattr(path, name, LowRankLinear(linear, shape))
    device = transformer.embed_tokens.weight.device
    transformer.register_buffer(BASE, torch.zeros(32, dtype=torch.uint8, device=device))


def _owner(layer: TransformerLayer, target: str) -> tuple[nn.Module, str]:
    """Return the module that holds the layer of a target, and its name there."""
    path, _, name = TARGETS[target].rpartition(".")
    return layer.get_submodule(path), name
