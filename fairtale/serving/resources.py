"""Choose how much of the machine an engine uses: threads, and rows of the cache."""

from __future__ import annotations

import os

import torch

from ..errors import UserError
from ..modules.prefix_transformer import PrefixTransformer
from ..modules.row_cache import RowCache

MIB = 1 << 20
_DEFAULT_MIB = 1024  # memory of the cache on a CPU


def check_at_least_one(**options: int | None) -> None:
    """Refuse options of an engine below 1; None is the default of the engine.

    Raises:
        UserError: an option is below 1.
    """
    for name, value in options.items():
        if value is not None and value < 1:
            raise UserError(f"{name} {value}: must be at least 1")


def use_threads(threads: int | None, device: torch.device) -> int:
    """Set the number of torch's threads, and return it.

    Threads that wait for each other in a spin lock slow down everything beside them, so a core is
    left to the service.
    """
    if threads is None and os.environ.get("OMP_NUM_THREADS"):
        threads = torch.get_num_threads()
    if threads is None:
        threads = max(1, len(os.sched_getaffinity(0)) - 1) if device.type == "cpu" else 1
    torch.set_num_threads(threads)
    return threads


def rows_within(
    transformer: PrefixTransformer, positions: int, cache_mib: int | None, most: int
) -> int:
    """Return the number of rows that the memory of the cache holds, at most ``most``.

    Raises:
        UserError: it does not hold one row.
    """
    size = RowCache.bytes_of_row(transformer, positions)
    if cache_mib is None:
        device = transformer.embed_tokens.weight.device
        free = torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else 0
        memory = free or max(_DEFAULT_MIB * MIB, size)
    else:
        memory = cache_mib * MIB
    if memory < size:
        raise UserError(
            f"cache_mib {memory / MIB:.1f}: the keys and values of one text of {positions} "
            f"positions need {size / MIB:.1f} MiB: raise it"
        )
    return min(memory // size, most)
