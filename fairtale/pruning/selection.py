"""Select heads and units by their scores: by number, by threshold, or by share of each layer.

Scores are ``{"encoder.0": [H], ...}``; larger is better. A selection is
``{"encoder.0": [indices in ascending order], ...}``. Among equal scores, the first in the order of
layers and heads are kept, so that a selection is reproducible.
"""

import math

import torch
from torch import Tensor

from ..errors import UserError
from .parts import HEAD_TYPES


def keep_best(scores: dict[str, Tensor], count: int) -> dict[str, list[int]]:
    """Select the ``count`` best heads of all layers together.

    Raises:
        UserError: ``count`` is negative, or greater than the number of heads.
    """
    total = sum(map(len, scores.values()))
    if not 0 <= count <= total:
        where = ", ".join(f"{key} {len(values)}" for key, values in scores.items())
        raise UserError(f"--heads {count}: must be 0 to {total}, the number of heads ({where})")
    if total == 0:
        return {key: [] for key in scores}
    places = [(key, head) for key, values in scores.items() for head in range(len(values))]
    flat = torch.cat([values.double().flatten() for values in scores.values()]).tolist()
    order = sorted(range(total), key=lambda i: -flat[i])  # stable, so the first of equals is kept
    kept: dict[str, list[int]] = {key: [] for key in scores}
    for i in sorted(order[:count]):
        key, head = places[i]
        kept[key].append(head)
    return kept


def keep_above(scores: dict[str, Tensor], threshold: float) -> dict[str, list[int]]:
    """Select every head whose score is at least ``threshold``."""
    return {
        key: (values >= threshold).nonzero().flatten().tolist() for key, values in scores.items()
    }


def keep_share(scores: dict[str, Tensor], ratio: float) -> dict[str, list[int]]:
    """Select the best units of each layer, the same share in each layer and at least one unit.

    Args:
        scores: scores of the units of each layer.
        ratio: share of units to keep, above 0 and at most 1; the number is rounded up.
    """
    return {
        key: keep_best({key: values}, max(1, math.ceil(ratio * len(values) - 1e-9)))[key]
        for key, values in scores.items()
    }


def random_scores(counts: dict[str, int], seed: int) -> dict[str, Tensor]:
    """Return random scores for heads, reproducible by the seed."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return {key: torch.rand(n, generator=generator, device="cpu") for key, n in counts.items()}


def normalize_layers(scores: dict[str, Tensor]) -> dict[str, Tensor]:
    """Divide the scores of each layer by their L2 norm, as in Michel et al. 2019."""
    return {key: values / values.norm().clamp_min(1e-20) for key, values in scores.items()}


def parse_types(text: str) -> list[str]:
    """Parse a list of attention types, ``encoder,cross``.

    Raises:
        UserError: a name is not an attention type, or the list is empty.
    """
    types = [name.strip() for name in text.split(",") if name.strip()]
    if not types or set(types) - set(HEAD_TYPES):
        raise UserError(
            f"--types {text}: must be one or more of {', '.join(HEAD_TYPES)}, separated by commas"
        )
    return [name for name in HEAD_TYPES if name in types]


def parse_layers(text: str, num_layers: dict[str, int]) -> dict[str, list[int]]:
    """Parse a list of layers, ``encoder.1,decoder.0``, and return the layer numbers of each side.

    Args:
        text: the list.
        num_layers: number of layers of "encoder" and of "decoder".

    Raises:
        UserError: a layer does not exist, or all layers of a side would be removed.
    """
    gone: dict[str, set[int]] = {side: set() for side in num_layers}
    for word in filter(None, (part.strip() for part in text.split(","))):
        side, _, number = word.partition(".")
        if side not in num_layers or not number.isdecimal() or int(number) >= num_layers[side]:
            there = " and ".join(f"{s}.0 to {s}.{n - 1}" for s, n in num_layers.items())
            raise UserError(f"--drop-layers {text}: no layer {word}; the model has {there}")
        gone[side].add(int(number))
    for side, numbers in gone.items():
        if len(numbers) == num_layers[side]:
            raise UserError(f"--drop-layers {text}: must keep at least one layer of the {side}")
    return {side: sorted(numbers) for side, numbers in gone.items()}
