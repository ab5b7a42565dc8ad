"""The count of ``--patience`` is saved, and restored where a training goes on."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
from fairseq.trainer import Trainer

from fairtale.compat.early_stopping import KEY, cure_forgotten_patience, modules_of_fairseq_train
from tests.compat_helpers import pristine

CFG = SimpleNamespace(checkpoint=SimpleNamespace(patience=3, maximize_best_checkpoint_metric=False))


@pytest.fixture
def trainer(monkeypatch):
    """Return a trainer that keeps in ``files`` what it saves."""
    files = {}
    monkeypatch.setattr(
        Trainer, "save_checkpoint", lambda self, name, extra: files.update({name: extra})
    )
    monkeypatch.setattr(Trainer, "load_checkpoint", lambda self, name, *rest: files.get(name))
    cure_forgotten_patience()
    made = object.__new__(Trainer)
    made.files = files
    return made


@pytest.fixture
def start(monkeypatch):
    """Return a function that loads fairseq-train's code anew, as a new process does."""

    def start():
        module = pristine("fairseq_cli.train")
        monkeypatch.setitem(sys.modules, "fairseq_cli.train", module)
        return module

    return start


def stops(module, values):
    return [module.should_stop_early(CFG, value) for value in values]


def test_the_fault_is_still_there(start):
    """If this fails, fairseq keeps the state elsewhere, and the cure must follow."""
    assert stops(start(), [5.0, 6.0, 6.0]) == [False] * 3
    assert stops(start(), [6.0]) == [False]  # the fourth without a gain would stop


def test_a_resumed_training_goes_on_counting(trainer, start):
    assert stops(start(), [5.0, 6.0, 6.0]) == [False] * 3
    trainer.save_checkpoint("last", {"val_loss": 6.0})
    assert trainer.files["last"] == {"val_loss": 6.0, KEY: {"best": 5.0, "num_runs": 2}}
    module = start()
    assert trainer.load_checkpoint("last")["val_loss"] == 6.0
    assert stops(module, [6.0]) == [True]


@pytest.mark.parametrize("options", [{"reset_optimizer": True}, {"reset_meters": True}])
def test_a_new_training_from_old_weights_counts_anew(trainer, start, options):
    stops(start(), [5.0, 6.0, 6.0])
    trainer.save_checkpoint("last", {})
    module = start()
    trainer.load_checkpoint("last", **options)
    assert stops(module, [6.0, 7.0, 7.0, 7.0]) == [False, False, False, True]


def test_older_checkpoints_and_none(trainer, start):
    trainer.files["old"] = {"val_loss": 1.0}
    module = start()
    assert trainer.load_checkpoint("old") == {"val_loss": 1.0}
    assert trainer.load_checkpoint("nowhere") is None
    assert stops(module, [6.0]) == [False]


def test_other_programs_have_no_count(trainer, monkeypatch):
    monkeypatch.delitem(sys.modules, "fairseq_cli.train", raising=False)
    assert modules_of_fairseq_train() == []
    trainer.save_checkpoint("last", {"a": 1})
    assert trainer.files["last"] == {"a": 1}


def test_a_command_that_runs_as_main(monkeypatch):
    """``python -m fairseq_cli.train`` is imported under the name ``__main__``."""
    module = ModuleType("__main__")
    module.__spec__ = SimpleNamespace(name="fairseq_cli.train")
    monkeypatch.delitem(sys.modules, "fairseq_cli.train", raising=False)
    monkeypatch.setitem(sys.modules, "__main__", module)
    assert modules_of_fairseq_train() == [module]
