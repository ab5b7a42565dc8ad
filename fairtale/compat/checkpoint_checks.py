"""Cures of loading a checkpoint that does not fit the model or the data, without a word."""

import functools
import os
from typing import Any

from fairseq import checkpoint_utils
from fairseq.models import BaseFairseqModel

from ..errors import UserError
from ..interfaces import ChecksCheckpoint, ChecksResumed, HasGates
from .checkpoint_loading import read_checkpoint


def cure_lost_gates() -> None:
    """Refuse to load a gated model's checkpoint as a model without gates.

    Loaded strictly, it ends in a list of unexpected keys; otherwise closed heads would open.
    Needless once every model names keys that it does not know in one line.
    """
    original = BaseFairseqModel.upgrade_state_dict

    @functools.wraps(original)
    def upgrade_state_dict(self: Any, state_dict: dict[str, Any]) -> None:
        gated = any(key.endswith(".gate.log_alpha") for key in state_dict)
        if gated and not isinstance(self, HasGates):
            raise UserError(
                f"the checkpoint has gates and {type(self).__name__} has none, so closed heads "
                "would open: use --arch transformer_hcg, or remove the heads by fairtale prune"
            )
        original(self, state_dict)

    BaseFairseqModel.upgrade_state_dict = upgrade_state_dict


def cure_foreign_dictionaries() -> None:
    """Ask the task before training goes on from a checkpoint.

    fairseq loads the weights of another dictionary if that has the same size. A task that is
    :class:`~fairtale.interfaces.ChecksCheckpoint` sees the checkpoint's task state before; where
    training goes on with the old optimizer, one that is
    :class:`~fairtale.interfaces.ChecksResumed` sees it too. Needless once fairseq asks its tasks.
    """
    original = checkpoint_utils.load_checkpoint

    @functools.wraps(original)
    def load_checkpoint(cfg: Any, trainer: Any, **kwargs: Any) -> Any:
        load, task = trainer.load_checkpoint, trainer.task

        def checked(filename: str, reset_optimizer: bool = False, *args: Any, **kwargs: Any) -> Any:
            if isinstance(task, ChecksCheckpoint) and os.path.isfile(filename):
                state = read_checkpoint(filename).get("task_state") or {}
                task.check_checkpoint(state)
                if not reset_optimizer and isinstance(task, ChecksResumed):
                    task.check_resumed(state)
            return load(filename, reset_optimizer, *args, **kwargs)

        trainer.load_checkpoint = checked
        return original(cfg, trainer, **kwargs)

    checkpoint_utils.load_checkpoint = load_checkpoint
