"""Low-rank adapters (LoRA) on the linear layers of a transformer, whose own weights are frozen."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from .dropout import dropout
from .prefix_transformer import PrefixTransformer, TransformerLayer

# name of a target -> path of its linear layer in a TransformerLayer
TARGETS = {
    "qkv": "self_attn.qkv_proj",
    "out": "self_attn.out_proj",
    "fc1": "fc1",
    "fc2": "fc2",
}
A, B = "lora_A", "lora_B"
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


def merged_weight(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Return W + scale B A, computed in 64 bits and rounded once to the dtype of W.

    Args:
        weight: W [out, in].
        a: A [r, in].
        b: B [out, r].
        scale: alpha / r.
    """
    return torch.addmm(weight.double(), b.double(), a.double(), alpha=scale).to(weight.dtype)


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


def is_adapter_key(key: str) -> bool:
    """Return whether a key of a state dict belongs to adapters and not to their base."""
    return key.rpartition(".")[2] in (A, B, BASE)


def split_adapters(
    state: Mapping[str, Tensor], prefix: str = "transformer."
) -> dict[tuple[int, str], tuple[Tensor, Tensor]]:
    """Return A [r, in] and B [out, r] of each adapter in a state dict, by layer and target.

    Args:
        state: state dict of a model.
        prefix: prefix of the transformer's keys.
    """
    found = {}
    for key, a in state.items():
        path, _, kind = key.rpartition(".")
        if kind == A and path.startswith(f"{prefix}layers."):
            number, _, place = path.removeprefix(f"{prefix}layers.").partition(".")
            target = next((name for name, known in TARGETS.items() if known == place), place)
            found[int(number), target] = (a, state[f"{path}.{B}"])
    return found


def adapter_keys(layer: int, target: str, prefix: str = "transformer.") -> tuple[str, str, str]:
    """Return the keys of a target's weight, A and B in the state dict of a model."""
    path = f"{prefix}layers.{layer}.{TARGETS[target]}"
    return f"{path}.weight", f"{path}.{A}", f"{path}.{B}"


def merge_adapters(state: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Return the state dict of a plain model that computes what base and adapters compute.

    Args:
        state: state dict of a model with adapters; it is not changed.
        scale: alpha / r.
    """
    merged = {key: value for key, value in state.items() if not is_adapter_key(key)}
    for (layer, target), (a, b) in split_adapters(state).items():
        key = adapter_keys(layer, target)[0]
        merged[key] = merged_weight(state[key], a, b, scale)
    return merged


# ------------------------------------------------------------------------------------ the base


def base_fingerprint(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 (64 hexadecimal digits) of the names, shapes and values of a base.

    Values are compared as fp32, so a copy in a narrower type with the same values is the same base.

    Args:
        state: state dict of a model; keys of adapters are ignored.
    """
    digest = hashlib.sha256()
    for key in sorted(key for key in state if not is_adapter_key(key)):
        value = state[key].detach()
        digest.update(f"{key} {tuple(value.shape)}\n".encode())
        digest.update(value.float().contiguous().cpu().numpy().data)
    return digest.hexdigest()


def recorded_base(state: Mapping[str, Tensor], prefix: str = "transformer.") -> str | None:
    """Return the fingerprint of the base for which adapters were made; None if it is not known."""
    known = state.get(f"{prefix}{BASE}")
    return None if known is None or not known.any() else bytes(known.tolist()).hex()


def check_base(recorded: str | None, base: Mapping[str, Tensor], what: str) -> str:
    """Return the fingerprint of a base, and refuse adapters that were made for another one.

    Args:
        recorded: fingerprint of the base for which the adapters were made; None if it is not known.
        base: state dict of the base.
        what: the adapters, for the error message.

    Raises:
        UserError: the fingerprints differ.
    """
    found = base_fingerprint(base)
    if recorded is not None and recorded != found:
        raise UserError(
            f"{what}: made for the base with fingerprint {recorded[:12]}, but this base has "
            f"{found[:12]}: use the checkpoint from which the adapters were trained"
        )
    return found


def complete_state_dict(
    transformer: PrefixTransformer, state: dict[str, Tensor], prefix: str = "transformer."
) -> None:
    """Prepare a checkpoint to be loaded into a transformer with or without adapters.

    A checkpoint without adapters is a base: the transformer's own adapters are added to it, with
    the fingerprint of the base. Nothing else is added.

    Args:
        transformer: the transformer that loads the checkpoint.
        state: state dict of the checkpoint; it is changed.
        prefix: prefix of the transformer's keys.

    Raises:
        UserError: the checkpoint has other adapters than the transformer, or the transformer's
            adapters were made for another base.
    """
    own = {
        f"{prefix}{key}": value
        for key, value in transformer.state_dict().items()
        if is_adapter_key(key)
    }
    theirs = {key: value for key, value in state.items() if is_adapter_key(key)}
    if own and not theirs:
        base = check_base(recorded_base(own, prefix), state, "the adapters")
        state.update(own)
        state[f"{prefix}{BASE}"] = torch.frombuffer(
            bytearray(bytes.fromhex(base)), dtype=torch.uint8
        )
        return
    shapes = [{key: tuple(value.shape) for key, value in side.items()} for side in (theirs, own)]
    if shapes[0] != shapes[1]:
        asked = f"adapters {_describe(own, prefix)}" if own else "no adapters"
        raise UserError(
            f"the checkpoint has adapters {_describe(theirs, prefix)}, but the model has {asked}: "
            "give the --lora options of its training, or merge its adapters into their base with "
            "fairtale gpt2 merge"
        )


def _describe(state: Mapping[str, Tensor], prefix: str) -> str:
    found = split_adapters(state, prefix)
    ranks = sorted({a.size(0) for a, _ in found.values()})
    targets = [t for t in TARGETS if any(target == t for _, target in found)]
    layers = len({layer for layer, _ in found})
    return f"of rank {', '.join(map(str, ranks))} on {','.join(targets)} of {layers} layers"
