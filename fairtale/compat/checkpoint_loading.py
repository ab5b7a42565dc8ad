"""Cures of loading checkpoints: weights and plain settings only, errors in one line."""

import argparse
import errno
import functools
import io
import os
import pickle
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray

from ..errors import UserError


def _declare_harmless_types() -> None:
    """Declare safe what fairseq's checkpoints hold besides weights: options, NumPy's numbers.

    A second call does nothing. torch's ``safe_globals`` would take the declaration back at its
    end, also where :func:`cure_checkpoint_loading` has made it for good.
    """
    dtypes = [type(np.dtype(code)) for code in "?bBhHiIlLqQefd"]
    builders = [multiarray.scalar, multiarray._reconstruct]
    torch.serialization.add_safe_globals(
        [argparse.Namespace, np.dtype, np.ndarray, *builders, *dtypes]
    )


def cure_checkpoint_loading() -> None:
    """Let torch >= 2.6, which loads weights only, read what fairseq's checkpoints hold.

    Exactly the harmless types are declared safe. The protection itself stays on, also against
    ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD``. Needless once fairseq's checkpoints hold plain weights
    and settings.
    """
    from fairseq import checkpoint_utils

    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
    _declare_harmless_types()
    original = checkpoint_utils.load_checkpoint_to_cpu

    @functools.wraps(original)
    def load_checkpoint_to_cpu(path: str, *args: Any, **kwargs: Any) -> Any:
        with explained_checkpoint_errors(path):
            return original(path, *args, **kwargs)

    checkpoint_utils.load_checkpoint_to_cpu = load_checkpoint_to_cpu


@contextmanager
def explained_checkpoint_errors(path: str) -> Iterator[None]:
    """Turn the many errors by which torch says that a file is no checkpoint into one line.

    Raises:
        UserError: the file is damaged, cut short, or holds something else.
    """
    try:
        yield
    except Exception as error:
        reason = _reason(error, path)
        if reason is None:
            raise
        raise UserError(f"checkpoint {path}: {reason}") from error


def _reason(error: Exception, path: str) -> str | None:
    """Return what is wrong with the checkpoint, or None if the error has another cause."""
    ended = isinstance(error, EOFError)
    raised_by_unpickler = _file_of_innermost_frame(error.__traceback__).endswith(
        "only_unpickler.py"
    )
    if isinstance(error, pickle.UnpicklingError) or (raised_by_unpickler and not ended):
        found = re.search(r"GLOBAL (\S+)|Unsupported operand \d+", str(error))
        what = "unreadable" if found is None else found[1] or found[0]
        return (
            "refused, for it is damaged or holds objects besides plain weights and settings, "
            f"which could run code ({what})"
        )
    cut_short = ended or (isinstance(error, RuntimeError) and "zip" in str(error))
    if cut_short or (isinstance(error, OSError) and error.errno == errno.EINVAL):
        return f"cut short or not a checkpoint ({os.path.getsize(path)} bytes); use an older one"
    if isinstance(error, KeyError):
        return f"no fairseq model ({error} is missing)"
    return None


def _file_of_innermost_frame(trace: TracebackType | None) -> str:
    if trace is None:
        return ""
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_filename


def read_checkpoint(path: str) -> dict[str, Any]:
    """Return the raw content of a checkpoint, weights mapped and not copied.

    Works without :func:`fairtale.compat.install`, and without fairseq.

    Raises:
        UserError: the file is no checkpoint, or holds more than weights and settings.
    """
    _declare_harmless_types()
    with explained_checkpoint_errors(path):
        mapped = zipfile.is_zipfile(path)  # what torch < 1.6 has written is no such file
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    if not isinstance(state, dict) or not {"cfg", "args"} & state.keys():
        raise UserError(f"checkpoint {path}: holds something else than a fairseq model")
    return state


def cure_checkpoint_broadcast() -> None:
    """Let several workers go on from a checkpoint that the first of them has read.

    The first worker sends the checkpoint to the others, and on torch >= 2.6 they refuse the
    options in it. What arrives there is no file but a message of a worker of the same training,
    which has read the file under the rules above; torch's own ``broadcast_object_list`` trusts
    such messages too. Needless once fairseq says ``weights_only=False`` in that place.
    """
    from fairseq.distributed import utils as distributed_utils

    def broadcast_object_slow(obj: Any, src_rank: int, group: Any, dist_device: Any) -> Any:
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
        content = io.BytesIO(message.cpu().numpy().tobytes())
        return torch.load(content, map_location="cpu", weights_only=False)

    distributed_utils._broadcast_object_slow = broadcast_object_slow
