"""Let waiting threads sleep, so that commands are not slow on cores that do other work.

A thread of GNU's OpenMP library, with which torch is built for Linux, waits actively for up to
3 ms before it sleeps. A decoding step has hundreds of waits. Where another process has work for the
same cores, each wait takes a time slice from the thread that is waited for.
"""

import functools
import os
import threading

import torch

_POLICY = "OMP_WAIT_POLICY"
# What the user may have decided. GOMP_SPINCOUNT is GNU's, KMP_BLOCKTIME that of LLVM and Intel.
_VARIABLES = (_POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_ELEMENTS = 1 << 17  # of an operation that torch divides among threads; it does so above 2^15


def decided_by_user() -> bool:
    """Return whether the environment says how threads wait."""
    return any(os.environ.get(name) for name in _VARIABLES)


@functools.cache
def let_waiting_threads_sleep() -> None:
    """Let OpenMP threads of this process sleep as soon as they wait; a second call does nothing.

    The library reads ``OMP_WAIT_POLICY`` when it is loaded, and fairseq's commands load it before
    the plug-in. But while there are more OpenMP threads than cores, it waits actively for about a
    microsecond only (documented with GCC's ``GOMP_SPINCOUNT``). So a thread starts a second team
    here: it computes once and then sleeps, and costs no time. Nothing is done where the environment
    already decides, where torch uses one thread, or where torch uses so few of the cores that the
    two teams do not exceed them.

    Remove this work-around once torch has a setting for it.
    """
    if decided_by_user() or torch.get_num_threads() == 1:
        return
    if not torch.backends.openmp.is_available():
        return
    started = threading.Event()

    def keep_a_team() -> None:
        torch.zeros(_ELEMENTS).add_(1)
        started.set()
        threading.Event().wait()  # the team ends with its thread

    threading.Thread(target=keep_a_team, name="waits for nothing", daemon=True).start()
    started.wait()
