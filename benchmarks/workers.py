"""Run each entrant of a comparison in a process of its own.

The settings of an entrant (the library for matrix products, the allocator, the fixes of fairseq)
therefore do not affect another, and the peak memory of each can be measured.
"""

import contextlib
import logging
import multiprocessing
import re
import traceback
import warnings
from pathlib import Path
from typing import Callable

import common
import torch


class Worker:
    """A process that builds one entrant and runs one step of it on request.

    Args:
        args: the options after :func:`common.settle`.
        build: a module-level function that returns a callable, the entrant, for ``args`` and
            ``words``. If the callable has an attribute ``info``, the worker sends it back.
        words: further arguments of ``build``.
    """

    def __init__(self, args, build: Callable, *words):
        # A process that has used a GPU cannot be forked.
        kind = "spawn" if args.device == "cuda" else "forkserver"
        context = multiprocessing.get_context(kind)
        if kind == "forkserver":
            context.set_forkserver_preload(["torch", "fairseq.trainer"])
        self._pipe, far_end = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(far_end, args, build, words), daemon=True
        )
        self._process.start()
        far_end.close()

    def wait(self):
        """Wait until the entrant is built; return this worker."""
        self.info = self._receive()
        return self

    def timed(self, kind: str) -> float:
        """Run one step and return its seconds."""
        return self.ask("clock", kind)

    def begin(self, kind: str) -> None:
        """Begin to run a step, whose seconds :meth:`end` returns, as entrants of a group do."""
        self._pipe.send(("clock", kind))

    def end(self) -> float:
        """Wait for the step of :meth:`begin`, and return its seconds."""
        return self._receive()

    def ask(self, *question):
        """Call a method of the entrant, given as its name and arguments, and return the result.

        The names ``clock``, ``peak`` and ``forget_peak`` stand for timing one step, for the peak
        memory in MiB, and for beginning to measure that anew.
        """
        self._pipe.send(question)
        return self._receive()

    def _receive(self):
        try:
            kind, answer = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise SystemExit(
                f"error: an entrant ended with status {self._process.exitcode}"
            ) from None
        if kind == "error":
            raise SystemExit(f"error: an entrant failed\n{answer}")
        return answer

    def close(self):
        """End the process."""
        self._pipe.send(("stop",))
        self._process.join()


def _serve(pipe, args, build, words):
    try:
        logging.disable(logging.INFO)
        warnings.filterwarnings("ignore")
        torch.set_num_threads(args.threads)
        torch.manual_seed(args.seed)
        device = torch.device(args.device)
        if device.type == "cuda":
            keep_peak()
        entrant = build(args, *words)
        pipe.send(("done", getattr(entrant, "info", None)))
        while True:
            question, *rest = pipe.recv()
            if question == "stop":
                return
            if question == "clock":
                answer = common.clock(entrant, device, common.CLOCKS[rest[0]])
            elif question == "peak":
                answer = peak_mib(device)
            elif question == "forget_peak":
                answer = forget_peak(device)
            else:
                answer = getattr(entrant, question)(*rest)
            pipe.send(("done", answer))
    except EOFError:
        return
    except BaseException:
        pipe.send(("error", traceback.format_exc()))


_earlier_peak = 0  # bytes, the highest peak of the GPU before its counter was reset


def keep_peak():
    """Remember the GPU's peak memory when its counter is reset; fairseq does it in every update."""
    reset = torch.cuda.reset_peak_memory_stats

    def reset_peak_memory_stats(device=None):
        global _earlier_peak
        _earlier_peak = max(_earlier_peak, torch.cuda.max_memory_allocated(device))
        reset(device)

    torch.cuda.reset_peak_memory_stats = reset_peak_memory_stats


def peak_mib(device: torch.device) -> float:
    """Return the peak memory of this process in MiB: that of the GPU, or the resident memory."""
    if device.type == "cuda":
        return max(_earlier_peak, torch.cuda.max_memory_allocated()) / 2**20
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    return int(re.search(r"VmHWM:\s*(\d+)", status.read_text())[1]) / 2**10


def forget_peak(device: torch.device):
    """Let :func:`peak_mib` only see what comes from now on."""
    global _earlier_peak
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        _earlier_peak = 0
    elif Path("/proc/self/clear_refs").exists():
        with contextlib.suppress(OSError):  # where it is not allowed, the peak stays the whole one
            Path("/proc/self/clear_refs").write_text("5")
