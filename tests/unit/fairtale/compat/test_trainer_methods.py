"""Methods of the trainer are wrapped once for each purpose."""

from fairseq.trainer import Trainer

from fairtale.compat.trainer_methods import wrap_trainer


def test_methods_are_wrapped_once(monkeypatch):
    def adding(original):
        return lambda self: original(self) + 1

    monkeypatch.setattr(Trainer, "get_num_updates", lambda self: 3)
    monkeypatch.setattr(Trainer, "wrapped_for", set(), raising=False)
    wrappers = [("get_num_updates", adding)]
    assert wrap_trainer("one", wrappers) and not wrap_trainer("one", wrappers)
    assert Trainer.get_num_updates(None) == 4
    assert wrap_trainer("two", wrappers) and Trainer.get_num_updates(None) == 5
