"""Hooks of fairseq's training loop."""

import sys
from argparse import Namespace

import pytest

from fairtale.errors import UserError
from fairtale.optim.training_hooks import install_validation_hook


def test_validation_hook_needs_fairseq_train(monkeypatch):
    monkeypatch.delitem(sys.modules, "fairseq_cli.train", raising=False)
    with pytest.raises(UserError, match="in fairseq-train only"):
        install_validation_hook()


def test_validation_hook_tells_the_schedule_once(monkeypatch):
    values = []
    module = type(sys)("fairseq_cli.train")
    module.validate = lambda cfg, trainer, *args: [2.5, 3.5]
    monkeypatch.setitem(sys.modules, "fairseq_cli.train", module)
    install_validation_hook()
    install_validation_hook()  # a schedule is built twice when training is resumed
    schedule = Namespace(step_validation=values.append)
    assert module.validate(None, Namespace(lr_scheduler=schedule)) == [2.5, 3.5]
    assert values == [2.5]
    module.validate(None, Namespace(lr_scheduler=object()))  # any other schedule
