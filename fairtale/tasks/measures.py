"""Measure what a training needs: parameters that are trained, and memory."""

import resource
import sys

import torch
from torch import nn

_MIB = 2**20


def num_trained(model: nn.Module) -> int:
    """Return the number of parameters that are trained now; shared ones count once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def peak_memory_mib() -> int:
    """Return the largest memory that this process has used so far, in MiB.

    On a GPU, it is the memory of its tensors; on a CPU, the resident memory of the process, which
    includes the libraries.
    """
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return round(torch.cuda.max_memory_allocated() / _MIB)
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MIB)
