"""Save checkpoints atomically, and save no ``crash.pt`` for a mistake in an option."""

import functools
import glob
import logging
import os
import shutil
import sys
from typing import Any

from fairseq import checkpoint_utils, file_io
from fairseq.trainer import Trainer

from ..errors import UserError

logger = logging.getLogger(__name__)


def cure_checkpoint_copies() -> None:
    """Copy checkpoints atomically, and remove temporary files that a killed training has left.

    fairseq writes the first file of a save under a temporary name and renames it, but writes the
    copies of it in place: a killed training could leave half a ``checkpoint_last.pt``. Remove this
    work-around once ``PathManager`` renames copies as well.
    """

    def copy(src_path: str, dst_path: str, overwrite: bool = False) -> Any:
        if file_io.IOPathManager:
            return file_io.IOPathManager.copy(src_path, dst_path, overwrite=overwrite)
        partial = dst_path + ".tmp"
        shutil.copyfile(src_path, partial)
        os.replace(partial, dst_path)
        return dst_path

    file_io.PathManager.copy = staticmethod(copy)
    original = checkpoint_utils.verify_checkpoint_directory

    @functools.wraps(original)
    def verify_checkpoint_directory(save_dir: str) -> None:
        original(save_dir)
        for stale in glob.glob(os.path.join(glob.escape(save_dir), "*.pt.tmp")):
            logger.warning("removing %s, which a killed training has left", stale)
            os.remove(stale)

    checkpoint_utils.verify_checkpoint_directory = verify_checkpoint_directory


def cure_crash_files() -> None:
    """Save no ``crash.pt``, which is a complete checkpoint, for a :class:`UserError`.

    fairseq saves one for every error in an update, even for mistakes in options that only the first
    update can detect. Remove this work-around once fairseq distinguishes such errors.
    """
    original = Trainer.save_checkpoint

    @functools.wraps(original)
    def save_checkpoint(self: Any, filename: str, extra_state: dict[str, Any]) -> None:
        if os.path.basename(filename) == "crash.pt" and isinstance(sys.exc_info()[1], UserError):
            return
        original(self, filename, extra_state)

    Trainer.save_checkpoint = save_checkpoint
