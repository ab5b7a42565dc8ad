"""End the process group of a training that has gone well, so that its processes end too."""

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from fairseq.distributed import utils

_endings: list[Callable[[], None]] = []


def at_end_of_group(call: Callable[[], None]) -> None:
    """Call a function when a training has gone well in all processes, before its group ends.

    Args:
        call: ends what this process has started for the group, such as a thread.
    """
    _endings.append(call)


def cure_open_process_groups() -> None:
    """Destroy the process group at the end of ``fairseq-train`` with several processes.

    fairseq leaves that to the end of the interpreter, where NCCL's threads may wait for each other
    for ever: the training is done and saved, but the processes stay, and with them torchrun and the
    job of the cluster (seen with torch 2.11 and NCCL 2.28, also with a destruction by ``atexit``).
    The last thing that ``distributed_main`` does is a barrier, and a training that ends with an
    error does not get there: its group stays, because destroying it could wait for processes that
    are gone. A process that fairseq has spawned imports the plug-in when ``distributed_main`` runs
    already, so the barrier is replaced, and not that function. Remove this work-around once
    ``distributed_main`` destroys the group.
    """
    original = dist.barrier
    if hasattr(original, "ends_group"):
        return
    last_caller = utils.distributed_main.__code__

    @functools.wraps(original)
    def barrier(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if sys._getframe(1).f_code is last_caller and dist.is_initialized():
            for call in _endings:
                call()
            dist.destroy_process_group()
        return result

    barrier.ends_group = True  # type: ignore[attr-defined]  # a mark on the function
    dist.barrier = barrier
