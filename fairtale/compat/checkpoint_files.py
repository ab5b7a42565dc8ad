"""Write the best and the regular checkpoints that fairseq leaves out."""

import functools
import os
from typing import Any

from fairseq import checkpoint_utils

from .early_stopping import modules_of_fairseq_train


class _Within:
    """The iterator of an epoch that ends now, as if the epoch went on."""

    def __init__(self, epoch_itr: Any) -> None:
        self._epoch_itr = epoch_itr

    def end_of_epoch(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._epoch_itr, name)


def cure_missing_checkpoints() -> None:
    """Write ``checkpoint_best.pt`` in every folder, and checkpoints of intervals at an epoch's end.

    A training that begins from ``--restore-file`` of another folder takes over the best result of
    that training. As long as its own results are worse, fairseq writes no ``checkpoint_best.pt``,
    and what comes after the training fails. Here the best is the best of the folder.

    If an interval of ``--save-interval-updates`` ends with an epoch, fairseq leaves out both its
    checkpoint and its validation, even with ``--no-epoch-checkpoints``. Remove this work-around
    once ``save_checkpoint`` and ``validate_and_save`` do both.
    """
    original = checkpoint_utils.save_checkpoint

    @functools.wraps(original)
    def save_checkpoint(cfg: Any, trainer: Any, epoch_itr: Any, val_loss: Any) -> Any:
        best = os.path.join(cfg.save_dir, f"checkpoint_best{trainer.checkpoint_suffix}.pt")
        if val_loss is not None and not os.path.exists(best):
            # fairseq keeps it as an attribute of the function of this name
            vars(checkpoint_utils.save_checkpoint).pop("best", None)
        own = not cfg.no_epoch_checkpoints and epoch_itr.epoch % cfg.save_interval == 0
        if _is_due(cfg, trainer.get_num_updates()) and not own and epoch_itr.end_of_epoch():
            epoch_itr = _Within(epoch_itr)
        return original(cfg, trainer, epoch_itr, val_loss)

    checkpoint_utils.save_checkpoint = save_checkpoint
    for module in modules_of_fairseq_train():
        _validate_intervals(module)


def _validate_intervals(module: Any) -> None:
    """Let ``validate_and_save`` of a module validate whenever an interval ends."""
    original = module.validate_and_save

    @functools.wraps(original)
    def validate_and_save(
        cfg: Any, trainer: Any, task: Any, epoch_itr: Any, subsets: Any, end_of_epoch: bool
    ) -> Any:
        # saving within an epoch includes validating
        due = _is_due(cfg.checkpoint, trainer.get_num_updates())
        return original(cfg, trainer, task, epoch_itr, subsets, end_of_epoch and not due)

    module.validate_and_save = validate_and_save


def _is_due(cfg: Any, num_updates: int) -> bool:
    interval = cfg.save_interval_updates
    return interval > 0 and num_updates > 0 and num_updates % interval == 0
