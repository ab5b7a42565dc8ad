"""The plateau schedule against sequences worked out by hand."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from fairtale.errors import UserError
from tests.schedule_helpers import Optimizer
from user_dir.optim.lr_scheduler.reduce_lr_on_validation import (
    ReduceLROnValidation,
    ReduceLROnValidationConfig,
)


@pytest.fixture(autouse=True)
def command(monkeypatch):
    """Stand for ``fairseq-train``, whose validations the schedule follows."""
    module = ModuleType("fairseq_cli.train")
    module.losses = [0.5]
    module.validate = lambda cfg, trainer, *args: module.losses
    monkeypatch.setitem(sys.modules, "fairseq_cli.train", module)
    return module


def scheduler(lr=1.0, shrink=0.5, patience=1, **options):
    cfg = ReduceLROnValidationConfig(
        lr=[lr],
        lr_shrink=shrink,
        lr_patience=patience,
        maximize_best_checkpoint_metric=options.pop("maximize", False),
        **options,
    )
    return ReduceLROnValidation(cfg, Optimizer())


def rates(schedule, losses):
    """Return the learning rate after each validation."""
    found = []
    for loss in losses:
        schedule.step_validation(loss)
        found.append(schedule.optimizer.get_lr())
    return found


def test_every_loss_without_gain_counts():
    # gain, gain, none: reduce, gain, none: reduce, none: reduce
    losses = [5.0, 4.0, 4.5, 3.0, 3.5, 3.2]
    assert rates(scheduler(), losses) == [1, 1, 0.5, 0.5, 0.25, 0.125]


def test_patience_is_a_number_of_validations_in_a_row():
    losses = [5.0, 6.0, 6.0, 4.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0]
    assert rates(scheduler(patience=3), losses) == [1, 1, 1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25]


def test_a_gain_must_exceed_the_relative_threshold():
    # 1 % of the best: below 4.95 counts, 4.96 does not; the best stays 5 until it is beaten so
    schedule = scheduler(lr_threshold=0.01)
    assert rates(schedule, [5.0, 4.96, 4.94, 4.90]) == [1, 0.5, 0.5, 0.25]
    assert schedule.best == 4.94


def test_a_tie_is_no_gain():
    assert rates(scheduler(lr_threshold=0.0), [5.0, 5.0]) == [1, 0.5]


def test_larger_may_be_better():
    schedule = scheduler(maximize=True, lr_threshold=0.1)
    # more than 10 % above the best: 20 -> 22.5 counts, 24 after it does not
    assert rates(schedule, [20.0, 22.5, 24.0, 25.0, 10.0]) == [1, 1, 0.5, 0.5, 0.25]


def test_negative_values_have_their_threshold_too():
    # -10 must become less than -11
    assert rates(scheduler(lr_threshold=0.1), [-10.0, -10.5, -11.5]) == [1, 0.5, 0.5]


def test_a_loss_that_is_no_number_is_no_gain_and_no_best():
    nan = float("nan")
    assert rates(scheduler(), [nan, 5.0, nan, 4.0, 4.5]) == [0.5, 0.5, 0.25, 0.25, 0.125]


def test_warm_up_is_linear_and_then_over():
    schedule = scheduler(lr=1.0, warmup_updates=4, warmup_init_lr=0.2)
    assert schedule.optimizer.get_lr() == 0.2
    found = [schedule.step_update(n) for n in range(7)]
    assert found == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0])


def test_a_reduction_during_warm_up_lowers_where_it_leads():
    schedule = scheduler(lr=1.0, warmup_updates=4)
    schedule.step_update(2)
    assert schedule.optimizer.get_lr() == 0.5
    assert rates(schedule, [5.0, 6.0]) == [0.5, 0.25]
    assert schedule.step_update(4) == 0.5


def test_the_rate_is_reduced_at_once_and_stays():
    schedule = scheduler()
    schedule.step_update(10)
    assert rates(schedule, [5.0, 6.0]) == [1, 0.5]
    assert [schedule.step_update(n) for n in (11, 12)] == [0.5, 0.5]


def test_the_end_of_an_epoch_changes_nothing():
    schedule = scheduler()
    schedule.step_validation(5.0)
    before = schedule.state_dict()
    schedule.step_begin_epoch(2)
    for epoch, loss in ((1, 9.0), (2, 9.0), (3, None)):
        assert schedule.step(epoch, loss) == 1
    assert schedule.state_dict() == before


def test_a_resumed_schedule_goes_on_where_it_was():
    losses = [5.0, 5.1, 5.2, 4.0, 4.1, 4.2, 4.3, 4.4, 3.0]
    expected = rates(scheduler(patience=2), losses)
    for cut in range(len(losses)):
        first, second = scheduler(patience=2), scheduler(patience=2)
        found = rates(first, losses[:cut])
        second.load_state_dict(first.state_dict())
        second.step_update(100)  # as the trainer does after loading
        assert second.optimizer.get_lr() == first.optimizer.get_lr()
        assert found + rates(second, losses[cut:]) == expected


def test_state_holds_plain_numbers():
    schedule = scheduler()
    rates(schedule, [5.0, 6.0])
    assert all(type(value) in (int, float) for value in schedule.state_dict().values())


def test_fairseqs_own_state_can_be_taken_over():
    schedule = scheduler()
    schedule.load_state_dict({"best": 4.0})  # of reduce_lr_on_plateau
    assert rates(schedule, [5.0, 3.0]) == [0.5, 0.5]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(shrink=1.0), "--lr-shrink 1.0: must lie between 0 and 1"),
        (dict(shrink=0.0), "--lr-shrink 0.0"),
        (dict(patience=0), "--lr-patience 0: must be at least 1"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        scheduler(**options)


def test_several_learning_rates_are_refused():
    cfg = ReduceLROnValidationConfig(lr=[0.1, 0.2], maximize_best_checkpoint_metric=False)
    with pytest.raises(UserError, match="takes one learning rate"):
        ReduceLROnValidation(cfg, Optimizer())


# -------------------------------------------------------------------- the validation hook


def test_every_validation_updates_the_schedule(command):
    schedule = scheduler()
    trainer = SimpleNamespace(lr_scheduler=schedule)
    for loss, rate in ((5.0, 1), (4.0, 1), (4.5, 0.5), (None, 0.5)):
        command.losses = [loss, 99.0]  # the first subset decides
        assert command.validate(None, trainer) == [loss, 99.0]
        assert schedule.optimizer.get_lr() == rate
    command.losses = []
    command.validate(None, trainer)
    assert schedule.optimizer.get_lr() == 0.5


def test_several_schedules_do_not_count_a_validation_twice(command):
    schedule, _ = scheduler(patience=2), scheduler()
    trainer = SimpleNamespace(lr_scheduler=schedule)
    command.losses = [5.0]
    for _ in range(2):
        command.validate(None, trainer)
    assert schedule.waited == 1


def test_other_schedulers_are_left_alone(command):
    scheduler()
    assert command.validate(None, SimpleNamespace(lr_scheduler=object())) == [0.5]


def test_outside_of_training_it_says_so(monkeypatch):
    monkeypatch.delitem(sys.modules, "fairseq_cli.train")
    with pytest.raises(UserError, match="only in fairseq-train"):
        scheduler()
