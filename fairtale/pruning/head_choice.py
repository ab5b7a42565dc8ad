"""Which heads of a model stay, by a method and a budget, and what is worth a warning about it.

Heads to choose from are counts of attentions, ``{"encoder.0": 8}``; heads that stay are
``{"encoder.0": [0, 3]}``.
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
    """How heads are judged and how many stay; with gates and no limit, those that are open."""

    by: str  # a name of methods.METHODS
    count: int | None = None  # heads that stay
    threshold: float | None = None  # or the score that a head needs to stay
    seed: int = 1  # of the method random
    normalized: bool = True  # divide gradients of a layer by their norm

    @property
    def has_limit(self) -> bool:
        """Whether a number of heads or a threshold is given."""
        return self.count is not None or self.threshold is not None


def choose_heads(
    budget: HeadBudget, asked: Mapping[str, int], model: nn.Module, measured: Importance | None
) -> Heads:
    """Return the heads that stay, of the attentions in ``asked``.

    Args:
        budget: with a count or a threshold, unless heads are judged by gates.
        asked: number of heads of each attention that is chosen from.
        model: whose gates are read.
        measured: scores, for the methods that need data.
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
    assert measured is not None  # the others are measured
    if budget.by == "confidence":
        return measured.confidence
    if budget.by == "gradient":
        return normalize_layers(measured.gradient) if budget.normalized else measured.gradient
    raise ValueError(f"no scores for the method {budget.by}: compute them here")


def _of_asked(scores: Mapping[str, Tensor], asked: Mapping[str, int]) -> dict[str, Tensor]:
    """Return the scores of the attentions that have heads to choose from."""
    return {key: scores[key] for key, count in asked.items() if count}


# ------------------------------------------------------------------------------ warnings


def warn_of_gates(kept: Heads, gates: Mapping[str, Tensor], asked: Mapping[str, int]) -> None:
    """Warn where the choice differs from what the gates do."""
    gone = closed = 0
    for key in set(asked) & set(gates):
        is_open = set((gates[key] > 0).nonzero().flatten().tolist())
        gone += len(is_open - set(kept[key]))
        closed += len(set(kept[key]) - is_open)
    if gone:
        logger.warning("%d heads go although their gates are open: the output changes", gone)
    if closed:
        logger.warning("%d heads stay although their gates are closed: they add nothing", closed)


def warn_of_types(kept: Heads, asked: Mapping[str, int]) -> None:
    """Warn of each type of attention that loses all its heads."""
    for kind in HEAD_TYPES:
        keys = [key for key in asked if type_of(key) == kind]
        if sum(asked[key] for key in keys) and not any(kept[key] for key in keys):
            logger.warning("all %s heads go: that attention adds nothing but a bias", kind)


def warn_of_nothing(
    budget: HeadBudget, kept: Heads, asked: Mapping[str, int], model: nn.Module
) -> None:
    """Warn where gates were to choose the heads that go, and no head goes."""
    if budget.by != "gates" or budget.has_limit or not isinstance(model, HasGates):
        return
    stay = sum(len(kept[key]) for key in asked)
    if stay == sum(asked.values()) and not any(g.is_fixed for g in model.gates().values()):
        logger.warning(
            "no head goes: the gates are not fixed, and all %d are open; say --heads or "
            "--threshold, or train with --gates-fix-update",
            stay,
        )
