"""Keep the state of ``--patience`` in checkpoints."""

import functools
import sys
from types import ModuleType
from typing import Any

from fairseq.trainer import Trainer

KEY = "early_stopping"  # of the state in a checkpoint's extra_state
STATE = ("best", "num_runs")  # attributes of should_stop_early


def modules_of_fairseq_train() -> list[ModuleType]:
    """Return the loaded modules with the code of fairseq-train; with ``-m`` it is ``__main__``."""
    found = [sys.modules.get("fairseq_cli.train")]
    main = sys.modules.get("__main__")
    if getattr(getattr(main, "__spec__", None), "name", None) == "fairseq_cli.train":
        found.append(main)
    return [module for module in found if module is not None]


def saved_patience() -> dict[str, Any]:
    """Return what the ``extra_state`` of a checkpoint says about ``--patience``; empty outside."""
    found: dict[str, Any] = {}
    for module in modules_of_fairseq_train():
        attributes = vars(module.should_stop_early)
        found[KEY] = {name: attributes[name] for name in STATE if name in attributes}
    return found


def cure_forgotten_patience() -> None:
    """Let a resumed training go on counting the validations without a gain.

    fairseq keeps the best result and the count of ``--patience`` only as attributes of the function
    ``should_stop_early``, so a resumed training counts anew, and takes its first result as the
    best. They are saved and restored with the best result of ``--best-checkpoint-metric``; like it,
    they are forgotten with ``--reset-optimizer`` and ``--reset-meters``. Remove this work-around
    once fairseq saves them.
    """
    save, load = Trainer.save_checkpoint, Trainer.load_checkpoint

    @functools.wraps(save)
    def save_checkpoint(self: Any, filename: str, extra_state: dict[str, Any]) -> Any:
        return save(self, filename, {**extra_state, **saved_patience()})

    @functools.wraps(load)
    def load_checkpoint(
        self: Any,
        filename: str,
        reset_optimizer: bool = False,
        reset_lr_scheduler: bool = False,
        optimizer_overrides: Any = None,
        reset_meters: bool = False,
    ) -> Any:
        extra_state = load(
            self, filename, reset_optimizer, reset_lr_scheduler, optimizer_overrides, reset_meters
        )
        if extra_state is not None and not (reset_optimizer or reset_meters):
            for module in modules_of_fairseq_train():
                vars(module.should_stop_early).update(extra_state.get(KEY, {}))
        return extra_state

    Trainer.save_checkpoint, Trainer.load_checkpoint = save_checkpoint, load_checkpoint
