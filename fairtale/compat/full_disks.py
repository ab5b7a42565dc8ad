"""Report disks that are full or read-only in one line, and leave no half of a checkpoint."""

import contextlib
import os
from typing import Any

import torch
from fairseq import checkpoint_utils, file_io

from ..errors import UserError, reason_of_disk


def cure_failed_saves() -> None:
    """Write each checkpoint once, and remove what is left of it if that fails.

    fairseq tries three times, behind the bytes of the failed try, logs a traceback and leaves the
    temporary file, which takes the room that is missing. The checkpoints that exist are kept.
    Remove this work-around once fairseq removes the file.
    """
    original = checkpoint_utils.torch_persistent_save

    def torch_persistent_save(obj: Any, filename: str, async_write: bool = False) -> None:
        if async_write or not file_io.PathManager.supports_rename(filename):
            original(obj, filename, async_write)
            return
        partial = f"{filename}.tmp"
        try:
            with open(partial, "wb") as stream:
                torch.save(obj, stream)
            os.replace(partial, filename)
        except (OSError, RuntimeError) as error:
            with contextlib.suppress(OSError):
                os.remove(partial)
            reason = reason_of_disk(error)
            if reason is None:
                raise
            raise UserError(
                f"checkpoint {filename} cannot be written: {reason}; earlier checkpoints are kept, "
                "and training goes on from them once there is room"
            ) from error

    checkpoint_utils.torch_persistent_save = torch_persistent_save
