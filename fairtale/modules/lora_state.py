"""Adapters in state dicts: which keys are theirs, which base they belong to, and merging."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from ..errors import UserError
from .lora import BASE, TARGETS, A, B
from .prefix_transformer import PrefixTransformer

# A [r, in] and B [out, r] by layer (from 0) and target
Adapters: TypeAlias = Mapping[tuple[int, str], tuple[Tensor, Tensor]]


def merged_weight(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Return W + scale B A, computed in 64 bits and rounded once to the dtype of W.

    Args:
        weight: W [out, in].
        a: A [r, in].
        b: B [out, r].
        scale: alpha / r.
    """
    return torch.addmm(weight.double(), b.double(), a.double(), alpha=scale).to(weight.dtype)


def is_adapter_key(key: str) -> bool:
    """Return whether a key of a state dict belongs to adapters and not to their base."""
    return key.rpartition(".")[2] in (A, B, BASE)


def split_adapters(state: Mapping[str, Tensor], prefix: str = "transformer.") -> Adapters:
    """Return A [r, in] and B [out, r] of each adapter in a state dict, by layer and target.

    Args:
        state: state dict of a model.
        prefix: prefix of the transformer's keys.
    """
    found: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}
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


def merge_adapters(
    state: Mapping[str, Tensor], adapters: Adapters, scale: float
) -> dict[str, Tensor]:
    """Return the state dict of a plain model that computes what base and adapters compute.

    Args:
        state: state dict of a base; its own adapters, if it has any, are left out.
        adapters: A and B by layer and target.
        scale: alpha / r.
    """
    merged = {key: value for key, value in state.items() if not is_adapter_key(key)}
    for (layer, target), (a, b) in adapters.items():
        key = adapter_keys(layer, target)[0]
        merged[key] = merged_weight(state[key], a, b, scale)
    return merged


# ----------------------------------------------------------------------------------- the base


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
