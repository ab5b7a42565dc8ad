"""Cures of how checkpoints are read and written: weights only, whole files, own dictionary."""

import argparse
import errno
import functools
import glob
import io
import logging
import os
import pickle
import re
import shutil
import sys
import zipfile

import numpy as np
import torch
from fairseq import checkpoint_utils, file_io
from fairseq.distributed import utils as distributed_utils
from fairseq.models import BaseFairseqModel
from fairseq.trainer import Trainer

from ..errors import UserError

logger = logging.getLogger(__name__)


def cure_checkpoint_loading():
    """torch >= 2.6 loads weights only, and refuses what fairseq's checkpoints hold.

    Exactly the harmless types are declared safe: option namespaces and NumPy numbers and
    arrays. The protection itself stays on, also against ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD``.
    """
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
    dtypes = [type(np.dtype(code)) for code in "?bBhHiIlLqQefd"]
    core = np._core.multiarray
    torch.serialization.add_safe_globals(
        [argparse.Namespace, np.dtype, np.ndarray, core.scalar, core._reconstruct, *dtypes]
    )
    original = checkpoint_utils.load_checkpoint_to_cpu

    @functools.wraps(original)
    def load_checkpoint_to_cpu(path, *args, **kwargs):
        with explained_checkpoint_errors(path):
            return original(path, *args, **kwargs)

    checkpoint_utils.load_checkpoint_to_cpu = load_checkpoint_to_cpu


class explained_checkpoint_errors:  # noqa: N801  (used as a context manager)
    """Turn torch's many ways to say "not a checkpoint" into one line."""

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        pass

    def __exit__(self, kind, error, trace):
        while getattr(trace, "tb_next", None):
            trace = trace.tb_next
        in_torch = trace and trace.tb_frame.f_code.co_filename.endswith("only_unpickler.py")
        ended = isinstance(error, EOFError)
        if isinstance(error, pickle.UnpicklingError) or (in_torch and not ended):
            found = re.search(r"GLOBAL (\S+)|Unsupported operand \d+", str(error))
            reason = "unreadable" if found is None else found[1] or found[0]
            raise UserError(
                f"checkpoint {self.path}: refused, for it is damaged or holds objects besides "
                f"plain weights and settings, which could run code ({reason})"
            ) from error
        text = str(error)
        cut = ended or (isinstance(error, RuntimeError) and "zip" in text)
        if cut or (isinstance(error, OSError) and error.errno == errno.EINVAL):
            raise UserError(
                f"checkpoint {self.path}: cut short or not a checkpoint "
                f"({os.path.getsize(self.path)} bytes); use an older one"
            ) from error
        if isinstance(error, KeyError):
            raise UserError(f"checkpoint {self.path}: no fairseq model ({error} is missing)")


def read_checkpoint(path):
    """Return the raw content of a checkpoint, weights mapped and not copied.

    Raises:
        UserError: the file is no checkpoint, or holds more than weights and settings.
    """
    with explained_checkpoint_errors(path):
        mapped = zipfile.is_zipfile(path)  # what torch < 1.6 has written is no such file
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    if not isinstance(state, dict) or not {"cfg", "args"} & state.keys():
        raise UserError(f"checkpoint {path}: holds something else than a fairseq model")
    return state


def cure_checkpoint_broadcast():
    """On torch >= 2.6 several workers cannot go on from a checkpoint: the first one reads it and
    sends it to the others, who refuse the options in it.

    What comes from there is no file but a message of a worker of the same training, which has
    read the file under the rules above; torch's own ``broadcast_object_list`` trusts such
    messages too. Needless once fairseq says ``weights_only=False`` in that place.
    """

    def broadcast_object_slow(obj, src_rank, group, dist_device):
        sends = distributed_utils.get_rank(group) == src_rank
        content = io.BytesIO()
        if sends:
            torch.save(obj, content)
        length = torch.tensor([content.getbuffer().nbytes], device=dist_device)
        distributed_utils.broadcast(length, src=src_rank, group=group)
        if sends:
            message = torch.frombuffer(content.getbuffer(), dtype=torch.uint8).to(dist_device)
        else:
            message = torch.empty(int(length), dtype=torch.uint8, device=dist_device)
        distributed_utils.broadcast(message, src=src_rank, group=group)
        if sends:
            return obj
        content = io.BytesIO(message.cpu().numpy())
        return torch.load(content, map_location="cpu", weights_only=False)

    distributed_utils._broadcast_object_slow = broadcast_object_slow


def cure_crash_files():
    """A mistake that only the first update can see leaves ``crash.pt``, a whole checkpoint."""
    original = Trainer.save_checkpoint

    @functools.wraps(original)
    def save_checkpoint(self, filename, extra_state):
        if os.path.basename(filename) == "crash.pt" and isinstance(sys.exc_info()[1], UserError):
            return
        original(self, filename, extra_state)

    Trainer.save_checkpoint = save_checkpoint


def cure_lost_gates():
    """A gated model decoded as another architecture ends in a list of unexpected keys."""
    original = BaseFairseqModel.upgrade_state_dict

    @functools.wraps(original)
    def upgrade_state_dict(self, state_dict):
        if not hasattr(self, "gates") and any(k.endswith(".gate.log_alpha") for k in state_dict):
            raise UserError(
                f"the checkpoint has gates and {type(self).__name__} has none, so closed heads "
                "would open: use --arch transformer_hcg, or remove the heads by fairtale prune"
            )
        original(self, state_dict)

    BaseFairseqModel.upgrade_state_dict = upgrade_state_dict


def cure_checkpoint_copies():
    """The first file of a save is renamed into place, but its copies are written in place.

    A kill would leave half a file named ``checkpoint_last.pt``. Copies are now renamed as well,
    and a new training clears what a killed one has left. Needless once ``PathManager`` does so.
    """

    def copy(src_path, dst_path, overwrite=False):
        if file_io.IOPathManager:
            return file_io.IOPathManager.copy(src_path, dst_path, overwrite=overwrite)
        partial = dst_path + ".tmp"
        shutil.copyfile(src_path, partial)
        os.replace(partial, dst_path)
        return dst_path

    file_io.PathManager.copy = staticmethod(copy)
    original = checkpoint_utils.verify_checkpoint_directory

    @functools.wraps(original)
    def verify_checkpoint_directory(save_dir):
        original(save_dir)
        for stale in glob.glob(os.path.join(glob.escape(save_dir), "*.pt.tmp")):
            logger.warning("removing %s, left by a training that was killed", stale)
            os.remove(stale)

    checkpoint_utils.verify_checkpoint_directory = verify_checkpoint_directory


def cure_foreign_dictionaries():
    """Training goes on from a checkpoint of another dictionary if that has the same size.

    A task with ``check_checkpoint(task_state)`` is asked before fairseq loads the weights; and
    ``check_resumed(task_state)`` too, where training goes on with the old optimizer.
    """
    original = checkpoint_utils.load_checkpoint

    @functools.wraps(original)
    def load_checkpoint(cfg, trainer, **kwargs):
        load, task = trainer.load_checkpoint, trainer.task

        def checked(filename, reset_optimizer=False, *args, **kwargs):
            if hasattr(task, "check_checkpoint") and os.path.isfile(filename):
                state = read_checkpoint(filename).get("task_state") or {}
                task.check_checkpoint(state)
                if not reset_optimizer and hasattr(task, "check_resumed"):
                    task.check_resumed(state)
            return load(filename, reset_optimizer, *args, **kwargs)

        trainer.load_checkpoint = checked
        return original(cfg, trainer, **kwargs)

    checkpoint_utils.load_checkpoint = load_checkpoint
