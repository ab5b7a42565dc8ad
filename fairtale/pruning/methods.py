"""The ways to judge heads, by the names that ``fairtale prune --by`` takes. Imports no torch."""

from __future__ import annotations

from typing import NamedTuple


class Method(NamedTuple):
    """What a way to judge heads needs, and what its scores are like."""

    needs_data: bool = False
    at_most_one: bool = False  # no score is larger than 1


# Scores are computed in head_choice.py; those that need data are measured in importance.py.
METHODS = {
    "gates": Method(at_most_one=True),
    "confidence": Method(needs_data=True, at_most_one=True),
    "gradient": Method(needs_data=True),
    "random": Method(),
}
MEASURED = [name for name, method in METHODS.items() if method.needs_data]
