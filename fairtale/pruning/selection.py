"""Which heads and units stay: a number in all, those above a threshold, a share of each layer.

Scores are ``{"encoder.0": [H], ...}``, larger is better; what stays is
``{"encoder.0": [indices in order], ...}``. Equal scores are decided by the order of layers
and heads, the first ones stay, so that a selection can be repeated.
"""

import math

import torch
from torch import Tensor

from ..errors import UserError
from .parts import HEAD_TYPES


def keep_best(scores: dict[str, Tensor], count: int) -> dict[str, list[int]]:
    """Keep the ``count`` best heads of all layers together.

    Raises:
        UserError: there are fewer heads, or ``count`` is negative.
    """
    total = sum(map(len, scores.values()))
    if not 0 <= count <= total:
        where = ", ".join(f"{key} {len(values)}" for key, values in scores.items())
        raise UserError(f"--heads {count}: must be 0 to {total}, the heads there are ({where})")
    if total == 0:
        return {key: [] for key in scores}
    places = [(key, head) for key, values in scores.items() for head in range(len(values))]
    flat = torch.cat([values.double().flatten() for values in scores.values()]).tolist()
    order = sorted(range(total), key=lambda i: -flat[i])  # stable: the first of equals stay
    kept: dict[str, list[int]] = {key: [] for key in scores}
    for i in sorted(order[:count]):
        key, head = places[i]
        kept[key].append(head)
    return kept


def keep_above(scores: dict[str, Tensor], threshold: float) -> dict[str, list[int]]:
    """Keep every head whose score is at least ``threshold``."""
    return {
        key: (values >= threshold).nonzero().flatten().tolist() for key, values in scores.items()
    }


def keep_share(scores: dict[str, Tensor], ratio: float) -> dict[str, list[int]]:
    """Keep the same share of each layer, its best units, at least one.

    Args:
        ratio: above 0, at most 1; the number of units is rounded up.
    """
    return {
        key: keep_best({key: values}, max(1, math.ceil(ratio * len(values) - 1e-9)))[key]
        for key, values in scores.items()
    }


def random_scores(counts: dict[str, int], seed: int) -> dict[str, Tensor]:
    """Return scores that put heads in a random order, the same for the same seed."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return {key: torch.rand(n, generator=generator, device="cpu") for key, n in counts.items()}


def normalize_layers(scores: dict[str, Tensor]) -> dict[str, Tensor]:
    """Divide the scores of each layer by their L2 norm, as Michel et al. 2019 do."""
    return {key: values / values.norm().clamp_min(1e-20) for key, values in scores.items()}


def parse_types(text: str) -> list[str]:
    """Read a list of types of attention, ``encoder,cross``.

    Raises:
        UserError: one of the names is no type of attention, or there is none.
    """
    types = [name.strip() for name in text.split(",") if name.strip()]
    if not types or set(types) - set(HEAD_TYPES):
        raise UserError(f"--types {text}: a list of {', '.join(HEAD_TYPES)}, with commas between")
    return [name for name in HEAD_TYPES if name in types]


def parse_layers(text: str, num_layers: dict[str, int]) -> dict[str, list[int]]:
    """Read a list of layers, ``encoder.1,decoder.0``; return those of each side.

    Args:
        num_layers: of "encoder" and of "decoder".

    Raises:
        UserError: there is no such layer, or none would be left.
    """
    gone: dict[str, set[int]] = {side: set() for side in num_layers}
    for word in filter(None, (part.strip() for part in text.split(","))):
        side, _, number = word.partition(".")
        if side not in num_layers or not number.isdecimal() or int(number) >= num_layers[side]:
            there = " and ".join(f"{s}.0 to {s}.{n - 1}" for s, n in num_layers.items())
            raise UserError(f"--drop-layers {text}: there is no layer {word}; there are {there}")
        gone[side].add(int(number))
    for side, numbers in gone.items():
        if len(numbers) == num_layers[side]:
            raise UserError(f"--drop-layers {text}: one layer of the {side} has to stay")
    return {side: sorted(numbers) for side, numbers in gone.items()}
