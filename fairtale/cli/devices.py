"""Choose the device and the number of processes of a verb."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ..errors import UserError

if TYPE_CHECKING:
    import torch


def find_device(cpu: bool = False) -> torch.device:
    """Return the first GPU that torch sees, or the CPU if there is none.

    ``CUDA_VISIBLE_DEVICES`` selects one of several GPUs, as for fairseq's commands.

    Args:
        cpu: return the CPU even if there is a GPU (``--cpu``).

    Raises:
        UserError: there is a GPU, but it does not work.
    """
    import torch

    if cpu or not torch.cuda.is_available():
        return torch.device("cpu")
    try:
        return torch.empty(0, device="cuda").device
    except (RuntimeError, AssertionError) as error:  # torch raises the latter without CUDA
        reason = str(error).splitlines()[0]
        raise UserError(f"the GPU cannot be used ({reason}); give --cpu to use the CPU") from None


def to_device(sample: Any, device: torch.device) -> Any:
    """Return a batch of fairseq, a nested structure of tensors, on a device."""
    from fairseq import utils

    return utils.move_to_cuda(sample, device) if device.type == "cuda" else sample


def usable_cpus() -> int:
    """Return how many CPUs this process may use, which a container or Slurm may restrict."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
