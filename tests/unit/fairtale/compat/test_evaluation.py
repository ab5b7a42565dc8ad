"""Evaluations that score no sample."""

import pytest

from fairtale.compat.evaluation import refuse_empty_evaluation
from fairtale.errors import UserError


def test_evaluation_of_nothing_is_refused():
    with pytest.raises(UserError, match="0 of 3 samples .* --tokens-per-sample"):
        refuse_empty_evaluation([], 3)
    assert refuse_empty_evaluation([1], 3) == [1]
