"""Which heads stay, for each way to judge them."""

import pytest

from fairtale.pruning.head_choice import HeadBudget, choose_heads
from fairtale.pruning.importance import Importance
from fairtale.pruning.methods import METHODS
from tests.gate_helpers import gated_model, plain_model


def test_a_method_without_scores_is_an_error_and_not_judged_by_another():
    model = gated_model(like=plain_model(), gated_attention="encoder")
    assert "entropy" not in METHODS
    budget = HeadBudget(by="entropy", count=2)
    with pytest.raises(ValueError, match="no scores for the method entropy"):
        choose_heads(budget, {"encoder.0": 4, "encoder.1": 4}, model, Importance())
