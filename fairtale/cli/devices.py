"""The devices that a verb computes on."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from ..errors import UserError

if TYPE_CHECKING:
    import torch


def find_device(name: str | None, kinds: Collection[str] | None = ("cpu", "cuda")) -> torch.device:
    """Return the torch device of ``--device NAME``.

    Args:
        name: as torch names devices; None for the first GPU if there is one, else the CPU.
        kinds: those that the caller can use; None for all that torch has.

    Raises:
        UserError: there is no such device here.
    """
    import torch

    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if kinds and device.type not in kinds:
            raise RuntimeError("it is neither a CPU nor a CUDA GPU")
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # torch raises the latter without CUDA
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {name}: not usable here ({reason}); try cpu") from None


def to_device(sample: Any, device: torch.device) -> Any:
    """Return fairseq's nested sample on a device that :func:`find_device` has found."""
    from fairseq import utils

    return utils.move_to_cuda(sample, device) if device.type == "cuda" else sample


def usable_cpus() -> int:
    """Return how many CPUs this process may use; a container or Slurm may grant fewer than all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
