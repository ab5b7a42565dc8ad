"""Choose the heads of a model that are kept, and warn of questionable choices.

The heads to choose from are given as numbers of heads by attention, ``{"encoder.0": 8}``; the heads
that are kept are given as ``{"encoder.0": [0, 3]}``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from ..interfaces import HasGates
from .importance import Importance
from .parts import HEAD_TYPES, type_of
from .removal import gate_scores, gate_values
from .selection import keep_above, keep_best, normalize_layers, random_scores

logger = logging.getLogger(__name__)

Heads = dict[str, list[int]]


@dataclass(frozen=True)
class HeadBudget:
    """The method for scoring heads, and the limit on the heads that are kept.

    With gates and no limit, the open heads are kept.
    """

    by: str  # a name in methods.METHODS
    count: int | None = None  # number of heads to keep
    threshold: float | None = None  # minimum score of a head to keep, instead of a number
    seed: int = 1  # random seed for the method "random"
    normalized: bool = True  # divide the gradient scores of a layer by their norm

    @property
    def has_limit(self) -> bool:
        """Whether a number of heads or a threshold is given."""
        return self.count is not None or self.threshold is not None


def choose_heads(
    budget: HeadBudget, asked: Mapping[str, int], model: nn.Module, measured: Importance | None
) -> Heads:
    """Return the heads to keep, of the attentions in ``asked``.

    Args:
        budget: method and limit; a limit is required unless the method is "gates".
        asked: number of heads of each attention to choose from.
        model: the model, whose gates are read by the method "gates".
        measured: measured scores, for the methods that need data.
    """
    if budget.by == "gates" and not budget.has_limit:
        return keep_above(_of_asked(gate_values(model), asked), 1e-30)
    scores = _of_asked(_scores(budget, asked, model, measured), asked)
    if budget.count is not None:
        return keep_best(scores, budget.count)
    assert budget.threshold is not None
    return keep_above(scores, budget.threshold)


def _scores(
    budget: HeadBudget, asked: Mapping[str, int], model: nn.Module, measured: Importance | None
) -> dict[str, Tensor]:
    if budget.by == "gates":
        probability, order = gate_scores(model)
        return probability if budget.count is None else order
    if budget.by == "random":
        return random_scores(dict(asked), budget.seed)
    assert measured is not None  # the remaining methods need measured scores
    if budget.by == "confidence":
        return measured.confidence
    if budget.by == "gradient":
        return normalize_layers(measured.gradient) if budget.normalized else measured.gradient
    raise ValueError(f"no scores for the method {budget.by}: compute them here")


def _of_asked(scores: Mapping[str, Tensor], asked: Mapping[str, int]) -> dict[str, Tensor]:
    """Return the scores of the attentions in ``asked`` that have heads."""
    return {key: scores[key] for key, count in asked.items() if count}


# ------------------------------------------------------------------------------ warnings


def warn_of_gates(kept: Heads, gates: Mapping[str, Tensor], asked: Mapping[str, int]) -> None:
    """Warn if open heads are removed, or closed heads are kept.

    Args:
        kept: heads to keep.
        gates: values of the gates in evaluation.
        asked: number of heads of each attention to choose from.
    """
    gone = closed = 0
    for key in set(asked) & set(gates):
        is_open = set((gates[key] > 0).nonzero().flatten().tolist())
        gone += len(is_open - set(kept[key]))
        closed += len(set(kept[key]) - is_open)
    if gone:
        logger.warning("%d heads with open gates are removed, which changes the output", gone)
    if closed:
        logger.warning("%d heads with closed gates are kept, though they have no effect", closed)


def warn_of_types(kept: Heads, asked: Mapping[str, int]) -> None:
    """Warn of each attention type that loses all of its heads."""
    for kind in HEAD_TYPES:
        keys = [key for key in asked if type_of(key) == kind]
        if sum(asked[key] for key in keys) and not any(kept[key] for key in keys):
            logger.warning("all %s heads are removed: this attention adds only a bias", kind)


def warn_of_nothing(
    budget: HeadBudget, kept: Heads, asked: Mapping[str, int], model: nn.Module
) -> None:
    """Warn if heads are chosen by gates without a limit, and no head is removed."""
    if budget.by != "gates" or budget.has_limit or not isinstance(model, HasGates):
        return
    stay = sum(len(kept[key]) for key in asked)
    if stay == sum(asked.values()) and not any(g.is_fixed for g in model.gates().values()):
        logger.warning(
            "no head is removed: the gates are not fixed, and all %d are open; give --heads or "
            "--threshold, or train with --gates-fix-update",
            stay,
        )
