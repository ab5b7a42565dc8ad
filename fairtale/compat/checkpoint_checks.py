"""Refuse checkpoints that do not match the model or the data, which fairseq loads silently."""

import functools
import os
import re
from typing import Any

from fairseq import checkpoint_utils
from fairseq.models import BaseFairseqModel

from ..errors import UserError
from ..interfaces import ChecksCheckpoint, ChecksResumed, HasGates
from .checkpoint_loading import read_checkpoint


def cure_lost_gates() -> None:
    """Refuse to load the checkpoint of a gated model into a model without gates.

    Strict loading fails with a long list of unexpected keys, and other loading silently opens the
    closed heads. Remove this work-around once every model reports unexpected keys in one line.
    """
    original = BaseFairseqModel.upgrade_state_dict

    @functools.wraps(original)
    def upgrade_state_dict(self: Any, state_dict: dict[str, Any]) -> None:
        gated = any(key.endswith(".gate.log_alpha") for key in state_dict)
        if gated and not isinstance(self, HasGates):
            raise UserError(
                f"the checkpoint has gates and {type(self).__name__} has none, so closed heads "
                "would open: use --arch transformer_hcg, or remove the heads with fairtale prune"
            )
        original(self, state_dict)

    BaseFairseqModel.upgrade_state_dict = upgrade_state_dict


def cure_foreign_shapes() -> None:
    """Say in one line why weights do not fit a model, and what to change.

    torch lists every tensor that does not fit, and fairseq adds a traceback. Remove this
    work-around once fairseq compares the shapes before it loads.
    """
    original = BaseFairseqModel.load_state_dict

    @functools.wraps(original)
    def load_state_dict(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(self, *args, **kwargs)
        except RuntimeError as error:
            reason = _foreign_shape(str(error))
            if reason is None:
                raise
            raise UserError(reason) from error

    BaseFairseqModel.load_state_dict = load_state_dict


# Tensors with a row for each entry of a dictionary.
_BY_ENTRY = re.compile(r"(encoder|decoder)\.(?:embed_tokens\.|output_projection\.|embed_out)")
# Tensors whose number of rows comes from an option, and what to do.
_REMEDIES = (
    (r"encoder\.embed_positions\.", "give the --max-source-positions of its training"),
    (r"decoder\.embed_positions\.", "give the --max-target-positions of its training"),
    ("", "give the options of the shape that it was trained with"),
)


def _foreign_shape(message: str) -> str | None:
    """Return what does not fit, from torch's list of all tensors, or None if all shapes fit."""
    sizes = r"torch\.Size\(\[([\d, ]*)\]\)"
    found = re.findall(rf"size mismatch for (\S+): .*?{sizes}.*?{sizes}", message, re.DOTALL)
    for name, stored, own in found:  # a wrong dictionary is reported before its consequences
        side = _BY_ENTRY.match(name)
        entries, own_entries = stored.split(",")[0], own.split(",")[0]
        if side and entries != own_entries:
            return (
                f"the {side[1]} of the checkpoint was trained with another dictionary "
                f"({entries} entries) than that of the data ({own_entries} entries): use the data "
                "folder that it was trained on"
            )
    for pattern, remedy in _REMEDIES:
        for name, stored, own in found:
            if re.search(pattern, name):
                return f"{name} is [{stored}] in the checkpoint and [{own}] in the model: {remedy}"
    return None


def cure_foreign_dictionaries() -> None:
    """Let the task check a checkpoint before training loads it.

    fairseq loads weights that were trained with another dictionary if it has the same size. A task
    that is :class:`~fairtale.interfaces.ChecksCheckpoint` checks the task state of the checkpoint
    first. If training also resumes the optimizer, a task that is
    :class:`~fairtale.interfaces.ChecksResumed` checks it as well. Remove this work-around once
    fairseq lets tasks check checkpoints.
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
