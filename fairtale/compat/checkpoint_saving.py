"""Cures of writing checkpoints: whole files only, and none for a mistake in an option."""

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
    """Rename copies of a checkpoint into place, and clear what a killed training has left.

    fairseq renames the first file of a save into place, but writes its copies in place: a kill
    would leave half a file named ``checkpoint_last.pt``. Needless once ``PathManager`` renames
    copies as well.
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
            logger.warning("removing %s, left by a training that was killed", stale)
            os.remove(stale)

    checkpoint_utils.verify_checkpoint_directory = verify_checkpoint_directory


def cure_crash_files() -> None:
    """Write no ``crash.pt``, which is a whole checkpoint, for a mistake that a person can mend.

    fairseq writes one for every error of an update, also for options that only the first update
    can find wrong. Needless once fairseq distinguishes them.
    """
    original = Trainer.save_checkpoint

    @functools.wraps(original)
    def save_checkpoint(self: Any, filename: str, extra_state: dict[str, Any]) -> None:
        if os.path.basename(filename) == "crash.pt" and isinstance(sys.exc_info()[1], UserError):
            return
        original(self, filename, extra_state)

    Trainer.save_checkpoint = save_checkpoint
