"""The slanted triangular schedule against the paper's formula, computed by hand."""

import pytest

from fairtale.errors import UserError
from tests.schedule_helpers import Optimizer
from user_dir.optim.lr_scheduler.slanted_triangular import (
    SlantedTriangular,
    SlantedTriangularConfig,
)


def schedule(**options):
    values = {"lr": [1.0], "max_update": 0, "cut_frac": 0.2, "ratio": 5.0}
    return SlantedTriangular(SlantedTriangularConfig(**{**values, **options}), Optimizer())


def test_rates():
    """T = 10, cut = 2: p rises 0, 1/2, 1 and falls by 1/8 an update."""
    made = schedule(max_update=10)
    assert made.optimizer.lr == 0.2  # of the first update
    rates = [made.step_update(t) for t in range(13)]
    p = [0, 0.5, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0, 0, 0]
    assert rates == pytest.approx([(1 + 4 * x) / 5 for x in p])
    assert made.optimizer.lr == rates[-1]


def test_defaults_are_those_of_the_paper():
    made = SlantedTriangular(SlantedTriangularConfig(lr=[0.32], max_update=100), Optimizer())
    assert (made.step_update(0), made.step_update(10)) == pytest.approx((0.01, 0.32))
    assert made.step_update(100) == pytest.approx(0.01)


def test_own_number_of_updates():
    assert schedule(total_num_update=10, max_update=99).step_update(2) == 1.0


def test_a_share_that_is_no_whole_update():
    """T = 7, cut_frac = 0.3: cut = floor(2.1) = 2; the rate never falls below the lowest."""
    made = schedule(max_update=7, cut_frac=0.3)
    rates = [made.step_update(t) for t in range(9)]
    assert max(rates) == rates[2] == 1.0
    assert min(rates) == rates[0] == rates[-1] == 0.2


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "give --max-update"),
        ({"max_update": 10, "cut_frac": 0.0}, "between 0 and 1"),
        ({"max_update": 10, "cut_frac": 1.0}, "between 0 and 1"),
        ({"max_update": 10, "cut_frac": 0.05}, "less than one update"),
        ({"max_update": 10, "ratio": 0.5}, "at least 1"),
        ({"max_update": 10, "lr": [1.0, 0.1]}, "takes one learning rate"),
    ],
)
def test_refused(options, reason):
    with pytest.raises(UserError, match=reason):
        schedule(**options)
