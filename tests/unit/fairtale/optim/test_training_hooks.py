"""Ends of updates and validations reach criterions and schedules, once each."""

import sys
from argparse import Namespace
from types import ModuleType

import pytest
from fairseq.trainer import Trainer

from fairtale.errors import UserError
from fairtale.optim.training_hooks import install_update_hook, install_validation_hook

OVERFLOW, AMP_RETRY = "overflow", "amp retry"


class Follower:
    """A criterion that notes the ends of updates."""

    def __init__(self):
        self.ended = []

    def end_update(self, model, num_updates):
        self.ended.append((model, num_updates))


def train_step(self, samples, raise_oom=False):
    """Stand in for fairseq's: an update, unless gradients overflow."""
    if samples == AMP_RETRY:  # fairseq tries the same batches again, by a call of the method
        return self.train_step(["smaller scale"])
    if samples == OVERFLOW:
        return None
    self._num_updates += 1
    return {"loss": 1.0}


@pytest.fixture
def trainer(monkeypatch):
    """Return a function that makes a trainer of a criterion, with the hook installed."""
    monkeypatch.setattr(Trainer, "train_step", train_step)
    install_update_hook()
    hooked = Trainer.train_step
    install_update_hook()  # each criterion that is built asks for it
    assert Trainer.train_step is hooked

    def build(criterion):
        made = object.__new__(Trainer)
        made._num_updates, made._criterion, made._model = 0, criterion, "the bare model"
        return made

    return build


def test_each_update_ends_once(trainer):
    criterion = Follower()
    training = trainer(criterion)
    assert training.train_step([1, 2]) == {"loss": 1.0}  # two batches, --update-freq 2
    training.train_step([3])
    assert criterion.ended == [("the bare model", 1), ("the bare model", 2)]


def test_a_step_that_is_left_out_is_no_update(trainer):
    criterion = Follower()
    training = trainer(criterion)
    for samples in (OVERFLOW, [1], OVERFLOW, OVERFLOW, [2]):
        training.train_step(samples)
    assert [number for _, number in criterion.ended] == [1, 2]


def test_a_step_that_calls_itself_again_ends_one_update(trainer):
    criterion = Follower()
    training = trainer(criterion)
    training.train_step(AMP_RETRY)
    training.train_step(AMP_RETRY)
    assert [number for _, number in criterion.ended] == [1, 2]


def test_a_resumed_training_goes_on_counting(trainer):
    criterion = Follower()
    training = trainer(criterion)
    training._num_updates = 40  # as loading a checkpoint sets it
    training.train_step([1])
    assert [number for _, number in criterion.ended] == [41]


def test_other_criterions_are_left_alone(trainer):
    training = trainer(object())
    assert training.train_step([1]) == {"loss": 1.0}


# ------------------------------------------------------------------------- validations


def test_validation_hook_needs_fairseq_train(monkeypatch):
    monkeypatch.delitem(sys.modules, "fairseq_cli.train", raising=False)
    with pytest.raises(UserError, match="only in fairseq-train"):
        install_validation_hook()


def test_validation_hook_updates_the_schedule_once(monkeypatch):
    module, seen = ModuleType("fairseq_cli.train"), []
    module.validate = lambda cfg, trainer, *rest: [7.0]
    monkeypatch.setitem(sys.modules, "fairseq_cli.train", module)
    install_validation_hook()
    install_validation_hook()  # a schedule is built twice when training is resumed
    schedule = Namespace(step_validation=seen.append)
    assert module.validate(None, Namespace(lr_scheduler=schedule), None, ["valid"]) == [7.0]
    assert seen == [7.0]


def test_validation_hook_reaches_a_command_that_runs_as_main(monkeypatch):
    """``python -m fairseq_cli.train`` is imported under the name ``__main__``."""
    module, seen = ModuleType("__main__"), []
    module.__spec__ = Namespace(name="fairseq_cli.train")
    module.validate = lambda cfg, trainer, *rest: [7.0, 8.0]
    monkeypatch.delitem(sys.modules, "fairseq_cli.train", raising=False)
    monkeypatch.setitem(sys.modules, "__main__", module)
    install_validation_hook()
    schedule = Namespace(step_validation=seen.append)
    module.validate(None, Namespace(lr_scheduler=schedule), None, ["valid", "valid1"])
    assert seen == [7.0]
