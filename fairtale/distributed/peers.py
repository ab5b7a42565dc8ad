"""End a process of a training with the reason when another one dies.

With NCCL, a process whose partner has died waits for ten minutes or longer, and then reports a
timeout; with gloo it reports a closed connection. Here each process writes a sign of life into the
store of the process group every few seconds, and watches that of its neighbour. Whoever sees a
death, or dies of an error itself, writes the reason into the store, where the others find it.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import socket
import sys
import threading
import time
from types import TracebackType
from typing import Any

import torch.distributed as dist
from torch.distributed import distributed_c10d

from ..compat.process_groups import at_end_of_group

logger = logging.getLogger(__name__)

INTERVAL = 2.0  # seconds between signs of life
PATIENCE = 40.0  # seconds without a sign of life after which a process counts as dead
GRACE = 5.0  # seconds in which a process may end by itself, once another one has died
ADVICE = "the same command goes on from the last checkpoint"


class PeerWatch(threading.Thread):
    """A thread that writes this process's signs of life, and watches the next process.

    Args:
        store: the processes' store; the thread needs a connection of its own.
        rank: number of this process.
        num_processes: number of all processes.
    """

    def __init__(self, store: Any, rank: int, num_processes: int) -> None:
        super().__init__(name="peer watch", daemon=True)
        self.store, self.rank, self.num_processes = store, rank, num_processes
        self.neighbour = (rank + 1) % num_processes
        self._finished = threading.Event()
        self._seen: tuple[bytes, float] = (b"", time.monotonic())
        own = {"host": socket.gethostname(), "pid": os.getpid()}
        store.set(f"who/{rank}", json.dumps(own))

    def run(self) -> None:
        """Watch until the process ends."""
        count = 0
        while not self._finished.wait(INTERVAL):
            count += 1
            try:
                self.store.set(f"alive/{self.rank}", str(count))
                reason = self.posted_reason() or self._death_of_neighbour()
            except Exception as error:  # the store has no class of its own for lost connections
                reason = f"the process that holds the store has ended ({_first_line(error)})"
                self._end(reason, grace=PATIENCE)  # the training may be at its regular end
                return
            if reason is not None:
                self.post(reason)
                self._end(reason, grace=GRACE)
                return

    def stop(self) -> None:
        """Stop watching, and wait until the thread has left the store.

        At the end of the interpreter, a thread inside the store's C++ code would abort the process
        (``terminate called without an active exception``).
        """
        self._finished.set()
        if self.is_alive():
            self.join(timeout=GRACE)

    def finish(self) -> None:
        """Stop watching, and tell the others that this process has ended as it should."""
        self.stop()
        try:
            self.store.set(f"finished/{self.rank}", "1")
        except Exception:  # the store's process has ended already
            return

    # ----------------------------------------------------------------------------- reasons

    def post(self, reason: str) -> None:
        """Tell all processes why the training ends; the first reason stays."""
        self.store.compare_set("reason", "", reason)

    def posted_reason(self) -> str | None:
        """Return why the training ends; None while it does not."""
        if not self.store.check(["reason"]):
            return None
        found: bytes = self.store.get("reason")
        return found.decode()

    def find_reason(self, seconds: float) -> str | None:
        """Return why another process has died, or None if that is not found out in time."""
        end = time.monotonic() + seconds
        while True:
            reason = self.posted_reason() or self._dead_process_of_this_host()
            if reason is not None or time.monotonic() > end:
                return reason
            time.sleep(0.2)

    def _death_of_neighbour(self) -> str | None:
        keys = [f"alive/{self.neighbour}"], [f"finished/{self.neighbour}"]
        now = time.monotonic()
        if self.store.check(keys[1]):
            return None
        count = self.store.get(keys[0][0]) if self.store.check(keys[0]) else b""
        if count != self._seen[0]:
            self._seen = (count, now)
        elif now - self._seen[1] > PATIENCE or self._is_dead_here(self.neighbour):
            return self._says_nothing(self.neighbour)
        return None

    def _dead_process_of_this_host(self) -> str | None:
        for rank in range(self.num_processes):
            if rank != self.rank and self._is_dead_here(rank):
                return self._says_nothing(rank)
        return None

    def _is_dead_here(self, rank: int) -> bool:
        """Return whether a process was on this host and is no more."""
        who = self._who(rank)
        if who.get("host") != socket.gethostname() or self.store.check([f"finished/{rank}"]):
            return False
        try:
            with open(f"/proc/{who['pid']}/stat", encoding="utf-8") as f:
                return f.read().rpartition(")")[2].split()[0] in "ZX"
        except FileNotFoundError:
            return os.path.exists("/proc/self")
        except OSError:
            return False

    def _who(self, rank: int) -> dict[str, Any]:
        if not self.store.check([f"who/{rank}"]):
            return {}
        found: dict[str, Any] = json.loads(self.store.get(f"who/{rank}"))
        return found

    def name_of(self, rank: int) -> str:
        """Return the number, the process number and the host of a process."""
        who = self._who(rank)
        return f"worker {rank} (process {who.get('pid', '?')} on {who.get('host', '?')})"

    def _says_nothing(self, rank: int) -> str:
        return f"{self.name_of(rank)} has died without a message: killed, or out of memory"

    def _end(self, reason: str, grace: float) -> None:
        """End this process, unless it ends by itself in ``grace`` seconds."""
        if self._finished.wait(grace):
            return
        sys.stdout.flush()
        print(f"error: {reason}; {ADVICE}", file=sys.stderr, flush=True)
        os._exit(1)  # the main thread may wait in a collective, which nothing interrupts


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": ")


def watch_peers() -> PeerWatch | None:
    """Start watching the other processes of the training; a second call does nothing."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    known = getattr(watch_peers, "watch", None)
    if known is not None:
        return known
    store = distributed_c10d._get_default_store()
    store = store.clone() if hasattr(store, "clone") else store  # a connection of its own
    store = distributed_c10d.PrefixStore("peers", store)
    watch = PeerWatch(store, dist.get_rank(), dist.get_world_size())
    watch_peers.watch = watch  # type: ignore[attr-defined]
    original = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        watch._finished.set()
        if not _is_of_communication(error):
            message = f"{watch.name_of(watch.rank)} has failed: {_first_line(error)}"
            watch.post(message)
            original(kind, error, trace)
            return
        reason = watch.find_reason(seconds=PATIENCE / 2)
        if reason is None:
            original(kind, error, trace)
        else:
            watch.post(reason)
            sys.stdout.flush()
            print(f"error: {reason}; {ADVICE}", file=sys.stderr)

    sys.excepthook = hook
    at_end_of_group(watch.finish)
    atexit.register(watch.stop)  # also after an error
    watch.start()
    return watch


def _is_of_communication(error: BaseException) -> bool:
    """Return whether an error is what is seen of the death of another process."""
    cause: BaseException | None = error
    while cause is not None:
        text = str(cause)
        if (
            isinstance(cause, dist.DistError)
            or isinstance(cause, RuntimeError)
            and any(
                sign in text
                for sign in ("gloo", "Gloo", "NCCL", "Connection", "connection", "peer")
            )
        ):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
