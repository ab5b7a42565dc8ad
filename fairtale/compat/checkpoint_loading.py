"""Load checkpoints that hold only weights and plain settings, and report errors in one line."""

import argparse
import dataclasses
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
    """Declare the harmless types in fairseq's checkpoints (options, NumPy numbers) safe for torch.

    A second call does nothing. torch's context manager ``safe_globals`` is not used, because at its
    end it would also remove the types that :func:`cure_checkpoint_loading` has added.
    """
    dtypes = [type(np.dtype(code)) for code in "?bBhHiIlLqQefd"]
    builders = [multiarray.scalar, multiarray._reconstruct]
    torch.serialization.add_safe_globals(
        [argparse.Namespace, np.dtype, np.ndarray, *builders, *dtypes]
    )


def cure_checkpoint_loading() -> None:
    """Let torch >= 2.6, which loads only weights by default, load fairseq's checkpoints.

    Only the harmless types are declared safe. The protection stays on, even if
    ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD`` is set. Remove this work-around once fairseq's checkpoints
    hold nothing but weights and built-in types.
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


def cure_lost_overrides() -> None:
    """Let task options on a command line apply also to checkpoints that do not know them.

    fairseq-validate, and whoever loads a task from a checkpoint, replaces options that the
    checkpoint holds, and silently ignores those that it lacks because they were added later. Remove
    this work-around once fairseq merges a checkpoint's options with the task's own before it
    overwrites them.
    """
    from fairseq import checkpoint_utils
    from fairseq.tasks import TASK_DATACLASS_REGISTRY
    from omegaconf import open_dict

    original = checkpoint_utils.load_checkpoint_to_cpu

    @functools.wraps(original)
    def load_checkpoint_to_cpu(
        path: str, arg_overrides: dict[str, Any] | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        state = original(path, arg_overrides, *args, **kwargs)
        task = getattr(state.get("cfg"), "task", None)
        config = TASK_DATACLASS_REGISTRY.get(getattr(task, "_name", None))
        if config is not None and task is not None and arg_overrides:
            known = {field.name for field in dataclasses.fields(config)}
            with open_dict(task):
                for name in (known & arg_overrides.keys()) - task.keys():
                    task[name] = arg_overrides[name]
        return state

    checkpoint_utils.load_checkpoint_to_cpu = load_checkpoint_to_cpu


@contextmanager
def explained_checkpoint_errors(path: str) -> Iterator[None]:
    """Turn torch's various errors for an invalid checkpoint into a one-line error.

    Args:
        path: the checkpoint that is loaded inside the ``with`` block.

    Raises:
        UserError: the file is damaged, cut short, or not a checkpoint.
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
            "refused, because it is damaged or holds objects other than weights and plain "
            f"settings, which could run code ({what})"
        )
    cut_short = ended or (isinstance(error, RuntimeError) and "zip" in str(error))
    if cut_short or (isinstance(error, OSError) and error.errno == errno.EINVAL):
        return f"cut short or not a checkpoint ({os.path.getsize(path)} bytes); use an older one"
    # torch has many messages for damaged files; a lack of memory is no damage
    in_loader = _file_of_innermost_frame(error.__traceback__).endswith(_LOADERS)
    damages = (RuntimeError, ValueError, AssertionError, KeyError)  # ValueError: also bad UTF-8
    if in_loader and isinstance(error, damages) and "memory" not in str(error):
        return f"damaged or not a checkpoint ({str(error).splitlines()[0][:100]}); copy it again"
    if isinstance(error, KeyError):
        return f"not a fairseq model ({error} is missing)"
    return None


_LOADERS = (os.path.join("torch", "serialization.py"), os.path.join("torch", "_utils.py"))


def _file_of_innermost_frame(trace: TracebackType | None) -> str:
    if trace is None:
        return ""
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_filename


def read_checkpoint(path: str) -> dict[str, Any]:
    """Return the content of a checkpoint, with weights mapped from the file instead of copied.

    This function needs neither :func:`fairtale.compat.install` nor fairseq.

    Raises:
        UserError: the file is not a checkpoint, or holds more than weights and plain settings.
    """
    _declare_harmless_types()
    with explained_checkpoint_errors(path):
        mapped = zipfile.is_zipfile(path)  # checkpoints of torch < 1.6 are not, and not mappable
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    if not isinstance(state, dict) or not {"cfg", "args"} & state.keys():
        raise UserError(f"checkpoint {path}: not a fairseq model")
    fault = _content_fault(state)
    if fault:
        raise UserError(f"checkpoint {path}: not a fairseq model ({fault})")
    return state


def _content_fault(state: dict[str, Any]) -> str | None:
    """Return which part of a checkpoint has another form than fairseq writes, or None."""
    weights, settings = state.get("model"), state.get("cfg") or {}
    if not isinstance(weights, dict) or not all(torch.is_tensor(x) for x in weights.values()):
        return "its model is not a table of tensors"
    if not isinstance(settings, dict):
        return "its cfg is not a table of settings"
    for name, part in {**settings, "args": state.get("args")}.items():
        if name in ("args", "model", "task") and not isinstance(
            part, dict | argparse.Namespace | None
        ):
            return f"its {name} is not a table of settings"
    if not isinstance(state.get("task_state"), dict | None):
        return "its task_state is not a table"
    return None


def cure_checkpoint_broadcast() -> None:
    """Let several workers load a checkpoint that the first worker broadcasts.

    With torch >= 2.6 the other workers refuse the options in the broadcast checkpoint. The message
    comes from a worker of the same training, which has read the file under the rules above, so it
    is loaded without restrictions; torch's own ``broadcast_object_list`` trusts such messages too.
    Remove this work-around once fairseq passes ``weights_only=False`` there.
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
