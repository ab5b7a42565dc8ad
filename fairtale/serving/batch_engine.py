"""The queue and the thread of engines that serve their requests batch after batch."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from .delivery import Delivery
from .interface import Delta, EngineStats, GenerationRequest, Limits, ShuttingDown
from .resources import check_at_least_one
from .waiting import refuse_if_full

logger = logging.getLogger(__name__)

STALL_SECONDS = 120.0  # a step that takes longer hangs
# before a batch, so that requests that arrive together, or whose clients have just read a text of
# the last batch, do not miss it
GATHER_SECONDS = 0.005


class BatchJob(Delivery):
    """An accepted request; also its ticket.

    Args:
        prompt_tokens: number of tokens of the prompt.
        cost: number of tokens of the prompt and of the longest possible text.
        deliver: receives the parts of the text.
    """

    def __init__(self, prompt_tokens: int, cost: int, deliver: Callable[[Delta], None]) -> None:
        super().__init__(deliver)
        self.prompt_tokens = prompt_tokens
        self.cost = cost
        self.is_begun = False

    @property
    def still_waits(self) -> bool:
        """Return whether a part of the request is not begun."""
        return not self.is_begun


Job = TypeVar("Job", bound=BatchJob)
Batch = Sequence[tuple[Job, Any]]  # requests, each with what of it is in the batch


class GraceIsOver(Exception):
    """The time to finish the accepted requests has passed."""


class BatchEngine(ABC, Generic[Job]):
    """An engine that takes a batch from its queue and runs it to its end.

    A subclass calls :meth:`start` when it is ready, and :meth:`step` before every step of a batch.

    Args:
        name: what the thread does, such as ``translation``.
        limits: the limits of requests.

    Raises:
        UserError: a limit is below 1.
    """

    def __init__(self, name: str, limits: Limits) -> None:
        check_at_least_one(
            max_running=limits.max_running,
            max_waiting=limits.max_waiting,
            max_waiting_tokens=limits.max_waiting_tokens,
        )
        self.limits = limits
        self._name = name
        self._condition = threading.Condition()  # guards what follows
        self._queue: list[Job] = []  # requests of which a part is not begun
        self._running: set[Job] = set()  # requests that are begun and have not ended
        self._deadline: float | None = None  # when the grace of close() is over
        self._step_began: float | None = None
        self._rate = 100.0  # tokens a second, of prompts and texts, for Retry-After
        self._thread = threading.Thread(target=self._serve, name=f"fairtale-{name}", daemon=True)

    # ------------------------------------------------------------------ of the subclass

    @abstractmethod
    def read(self, request: GenerationRequest, deliver: Callable[[Delta], None]) -> Job:
        """Return the job of a request; any thread may call this.

        Raises:
            RequestError: the request breaks a rule.
        """

    @abstractmethod
    def take(self, queue: Sequence[Job]) -> Batch[Job]:
        """Choose the next batch from the queue, which is not empty, oldest requests first."""

    @abstractmethod
    def run(self, batch: Batch[Job]) -> int:
        """Finish a batch; return its number of tokens, of prompts and texts."""

    # ------------------------------------------------------------------ for any thread

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, request: GenerationRequest, deliver: Callable[[Delta], None]) -> Job:
        """Queue a request; see :meth:`fairtale.serving.interface.Engine.submit`."""
        with self._condition:
            self._refuse(None)  # before time is spent on tokenising
        job = self.read(request, deliver)
        with self._condition:
            self._refuse(job.cost)
            self._queue.append(job)
            self._condition.notify()
        return job

    def _refuse(self, cost: int | None) -> None:
        """Refuse a request if the engine is closed or its queue is full.

        Args:
            cost: number of its tokens; None if they are not counted yet.
        """
        if self._deadline is not None:
            raise ShuttingDown("the service is shutting down and accepts no more requests")
        waiting = [job.cost for job in self._queue if not job.is_begun]
        refuse_if_full(
            (len(waiting), self.limits.max_waiting),
            (sum(waiting), self.limits.max_waiting_tokens),
            cost,
            sum(waiting) / self._rate,
        )

    def stats(self) -> EngineStats:
        """Return how many requests run and wait; the engine has no preallocated cache."""
        with self._condition:
            waiting = sum(not (job.is_begun or job.has_ended) for job in self._queue)
            running = sum(not job.has_ended for job in self._running)
            return EngineStats(running, waiting, 0.0)

    def unhealthy(self) -> str | None:
        """Return why the engine does not work, or None."""
        if not self._thread.is_alive():
            return f"the {self._name} thread has ended"
        began = self._step_began
        seconds = 0.0 if began is None else time.monotonic() - began
        if seconds > STALL_SECONDS:
            return f"a step of the {self._name} began {seconds:.0f} s ago and has not ended"
        return None

    def close(self, grace: float) -> None:
        """Finish the accepted requests within ``grace`` seconds, and stop.

        Requests that are left then end with the reason "error".
        """
        with self._condition:
            if self._deadline is None:
                self._deadline = time.monotonic() + grace
            self._condition.notify()
        self._thread.join()

    # --------------------------------------------------------- for the engine's thread

    def step(self) -> None:
        """Note that a step begins, and end the requests that were cancelled.

        Raises:
            GraceIsOver: the engine is closed, and its time is over.
        """
        self._step_began = time.monotonic()
        if self._is_over():
            raise GraceIsOver
        with self._condition:
            gone = [job for job in {*self._queue, *self._running} if job.is_cancelled]
        for job in gone:
            job.end("cancelled")
        self.forget_ended()

    def forget_ended(self) -> None:
        """Remove the requests that have ended."""
        with self._condition:
            self._queue = [job for job in self._queue if not job.has_ended]
            self._running = {job for job in self._running if not job.has_ended}

    def _is_over(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _serve(self) -> None:
        """Run batch after batch until the engine is closed."""
        reason = "the service was shut down before the text was finished"
        try:
            while batch := self._next_batch():
                self._run(batch)
        except GraceIsOver:
            pass
        except BaseException:
            reason = f"the {self._name} thread has failed; see the log of the service"
            logger.exception("the %s thread has failed", self._name)
        with self._condition:
            self._deadline = self._deadline or time.monotonic()
            left = {*self._queue, *self._running}
        for job in left:
            job.end("error", reason)
        self.forget_ended()

    def _next_batch(self) -> Batch[Job]:
        """Wait for requests; return the next batch, or none after close()."""
        while True:
            with self._condition:
                self._step_began = None
                while not self._queue:
                    if self._deadline is not None:
                        return []
                    self._condition.wait()
            time.sleep(GATHER_SECONDS)
            self.step()
            with self._condition:
                if self._queue:
                    batch = self.take(self._queue)
                    begun = {job for job, _ in batch}
                    for job in begun:
                        job.is_begun = True
                    self._running |= begun
                    old = [job for job in self._queue if job not in begun]
                    # requests of which a part still waits go behind the others
                    again = [job for job in self._queue if job in begun and job.still_waits]
                    self._queue = old + again
                    return batch

    def _run(self, batch: Batch[Job]) -> None:
        """Run a batch; an exception ends its requests only."""
        start, num_tokens = time.monotonic(), 0
        try:
            num_tokens = self.run(batch)
        except GraceIsOver:
            raise
        except Exception:
            logger.exception("a batch of the %s failed", self._name)
            for job, _ in batch:
                job.end("error", f"the {self._name} failed; see the log of the service")
        self.forget_ended()
        seconds = max(time.monotonic() - start, 1e-6)
        self._rate = 0.7 * self._rate + 0.3 * num_tokens / seconds
