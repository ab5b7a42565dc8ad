"""List the methods for scoring heads under their names in ``fairtale prune --by``.

This module does not import torch.
"""

from __future__ import annotations

from typing import NamedTuple


class Method(NamedTuple):
    """Properties of a method for scoring heads."""

    needs_data: bool = False
    at_most_one: bool = False  # all scores are at most 1


# head_choice.py computes the scores; importance.py measures those that need data.
METHODS = {
    "gates": Method(at_most_one=True),
    "confidence": Method(needs_data=True, at_most_one=True),
    "gradient": Method(needs_data=True),
    "random": Method(),
}
MEASURED = [name for name, method in METHODS.items() if method.needs_data]
