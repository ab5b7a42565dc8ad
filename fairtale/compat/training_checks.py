"""Report mistakes that fairseq-train otherwise reports after hours, or never."""

import fcntl
import functools
import logging
import os
from typing import Any

from fairseq import checkpoint_utils

from ..errors import UserError
from .early_stopping import modules_of_fairseq_train

logger = logging.getLogger(__name__)

_locked: dict[str, int] = {}  # descriptors of the locked folders


def cure_shared_folders() -> None:
    """Let only one training write into a folder at a time.

    Two trainings in one folder overwrite each other's checkpoints. The lock is one on the folder
    itself: it leaves no file, and ends with the process, however that ends. Remove this work-around
    once fairseq refuses the second training.
    """
    original = checkpoint_utils.verify_checkpoint_directory

    @functools.wraps(original)
    def verify_checkpoint_directory(save_dir: str) -> None:
        os.makedirs(save_dir, exist_ok=True)
        lock_folder(save_dir)
        original(save_dir)

    checkpoint_utils.verify_checkpoint_directory = verify_checkpoint_directory


def lock_folder(folder: str) -> None:
    """Lock a folder until this process ends; a second call does nothing.

    Raises:
        UserError: another process has locked it.
    """
    path = os.path.realpath(folder)
    if path in _locked:
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UserError(
            f"--save-dir {folder}: another training writes there at this moment; wait for its end, "
            "or choose another --save-dir"
        ) from None
    except OSError as error:  # some network file systems cannot lock folders
        os.close(descriptor)
        logger.warning("%s cannot be locked (%s): start no other training in it", folder, error)
        return
    _locked[path] = descriptor


def _close_locks() -> None:
    # a process that reads data may outlive a training that was killed, and must not keep its lock
    for descriptor in _locked.values():
        os.close(descriptor)
    _locked.clear()


os.register_at_fork(after_in_child=_close_locks)


def cure_trainings_without_updates() -> None:
    """Refuse a training that would end before its first update, with status 0.

    fairseq ends a training as soon as the learning rate is not above ``--stop-min-lr``, even if the
    rate begins there and grows. Remove this work-around once fairseq compares them after the
    warm-up.
    """
    original = checkpoint_utils.load_checkpoint

    @functools.wraps(original)
    def load_checkpoint(cfg: Any, trainer: Any, **kwargs: Any) -> Any:
        loaded = original(cfg, trainer, **kwargs)
        least, first = trainer.cfg.optimization.stop_min_lr, trainer.get_lr()
        if trainer.get_num_updates() == 0 and first <= least:
            raise UserError(
                f"--stop-min-lr {least:g}: the learning rate begins at {first:g}, so training "
                "would end before its first update; raise --warmup-init-lr, or lower --stop-min-lr"
            )
        return loaded

    checkpoint_utils.load_checkpoint = load_checkpoint


def cure_missing_metric() -> None:
    """Name the results of a validation if ``--best-checkpoint-metric`` is not one of them.

    fairseq ends in a KeyError. Remove this work-around once it reports the names.
    """
    for module in modules_of_fairseq_train():
        module.get_valid_stats = _explaining(module.get_valid_stats)  # type: ignore[attr-defined]


def _explaining(original: Any) -> Any:
    @functools.wraps(original)
    def get_valid_stats(cfg: Any, trainer: Any, stats: Any, tracking_best: bool) -> Any:
        metric = cfg.checkpoint.best_checkpoint_metric
        if metric not in stats:
            names = sorted(name for name in stats if not name.startswith("_"))
            raise UserError(
                f"--best-checkpoint-metric {metric}: validations have {', '.join(names)}; choose "
                "one of them, or add the option that reports the metric"
            )
        return original(cfg, trainer, stats, tracking_best)

    return get_valid_stats
