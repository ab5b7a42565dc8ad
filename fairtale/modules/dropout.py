"""Fast dropout on a CPU."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_LEVELS = 1 << 16


def dropout_scale(shape: Sequence[int], p: float, dtype: torch.dtype) -> Tensor:
    """Return a CPU tensor that is 0 with probability ``p`` and 1 / (1 - p) elsewhere.

    torch generates its CPU masks sequentially with a Mersenne twister, at 5 ns per number; this
    takes more than a third of the time of a small model's training step. Here one 64-bit number of
    SFC64 gives four 16-bit numbers, so ``p`` is rounded to a multiple of 2**-16. The scale uses the
    rounded ``p``, so the mean is exact. The seed comes from torch's generator, so that
    ``torch.manual_seed`` and activation checkpointing reproduce the mask.

    Args:
        shape: shape of the result.
        p: probability of 0, at least 0 and below 1.
        dtype: dtype of the result.
    """
    threshold = min(round(p * _LEVELS), _LEVELS - 1)
    count = 1
    for size in shape:
        count *= size
    bits = np.random.SFC64(int(torch.randint(2**62, ())))
    draws = torch.from_numpy(bits.random_raw((count + 3) // 4).view(np.int16))[:count]
    keep = draws >= threshold - _LEVELS // 2  # int16 runs from -2**15
    return keep.to(dtype).mul_(_LEVELS / (_LEVELS - threshold)).view(shape)


def _is_for_torch(x: Tensor, p: float) -> bool:
    """Return whether to use torch's own dropout: on a GPU, and under a compiler."""
    return x.device.type != "cpu" or p >= 1.0 or torch.compiler.is_compiling()


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Zero each element with probability ``p`` and scale the others by 1 / (1 - p)."""
    if not training or p == 0.0:
        return x
    if _is_for_torch(x, p):
        return F.dropout(x, p, training)
    return x * dropout_scale(x.shape, p, x.dtype)


def dropout_add(residual: Tensor, x: Tensor, p: float, training: bool) -> Tensor:
    """Return ``residual + dropout(x)``, computed in one pass on a CPU."""
    if not training or p == 0.0:
        return residual + x
    if _is_for_torch(x, p):
        return residual + F.dropout(x, p, training)
    return torch.addcmul(residual, x, dropout_scale(x.shape, p, x.dtype))
