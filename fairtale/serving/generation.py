"""Carry the texts of one request from the engine's thread into the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from functools import partial
from typing import NamedTuple

from .errors import ApiError, api_error
from .interface import Delta, Engine, GenerationRequest, Ticket
from .metrics import ModelMetrics
from .openai_requests import Job

# What a stream keeps for a reader who falls behind; a longer backlog ends the request. It holds
# every text that the models write, and only alternatives of tokens (logprobs) can exceed it.
MAX_BACKLOG = 2**20  # characters; a token's alternatives count 64 each


class Part(NamedTuple):
    """What a step adds to one of the texts."""

    text: int  # its number
    delta: Delta


class Generation:
    """The texts of one job.

    A job is accepted as a whole or not at all. Nothing of it stays in the engine once it has
    been cancelled, which every way out does.

    Args:
        engine: the engine of the job's model.
        job: the texts.
        metrics: what is counted about the model.
        timeout: seconds after which the job ends with an error.
    """

    def __init__(self, engine: Engine, job: Job, metrics: ModelMetrics, timeout: float) -> None:
        self.engine = engine
        self.job = job
        self.prompt_tokens: list[int] = []  # of each text's prompt
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + timeout
        self._timeout = timeout
        self._lock = threading.Lock()  # guards what follows; held for moments only
        self._tickets: list[Ticket] = []
        self._backlog: list[Part] = []
        self._backlog_size = 0
        self._woken = False
        self._ended = False  # deltas that still come are dropped
        self._too_slow = False
        self._event = asyncio.Event()
        self._clocks = [metrics.start() for _ in job.requests]

    async def start(self) -> None:
        """Hand the job to the engine.

        Raises:
            ApiError: the engine refuses a request, or is full, or is stopping.
        """
        try:
            # Tokenising a long prompt would keep the event loop from serving others.
            await asyncio.to_thread(self._submit)
        except Exception as error:
            raise api_error(error, self.job.names) from error

    def _submit(self) -> None:
        """Submit all requests, in a thread that no cancellation interrupts."""
        try:
            for index, request in enumerate(self.job.requests):
                ticket = self._submit_one(index, request)
                with self._lock:
                    ended = self._ended
                    self._tickets.append(ticket)
                    self.prompt_tokens.append(ticket.prompt_tokens)
                if index % self.job.per_prompt == 0:
                    self._metrics.prompt_tokens.inc(ticket.prompt_tokens)
                if ended:  # the client hung up in the meantime
                    ticket.cancel()
                    return
        except BaseException:
            for clock in self._clocks:
                clock.discard()  # what was refused was no request
            self.cancel()
            raise

    def _submit_one(self, index: int, request: GenerationRequest) -> Ticket:
        return self.engine.submit(request, partial(self._deliver, index))

    def _deliver(self, index: int, delta: Delta) -> None:
        """Take a delta; called by the engine's thread."""
        self._clocks[index].delta(delta)
        with self._lock:
            if self._ended:
                return
            self._backlog.append(Part(index, delta))
            # a prompt has been read at once, and does not show that its reader is slow
            self._backlog_size += len(delta.text) + sum(
                64 * (1 + len(token.top)) for token in delta.logprobs
            )
            if self._backlog_size > MAX_BACKLOG:
                self._too_slow = True
            wake, self._woken = not self._woken, True
        if self._too_slow:
            self.cancel()
        if wake:
            try:
                self._loop.call_soon_threadsafe(self._event.set)
            except RuntimeError:
                pass  # the loop has been closed, and nobody waits any more

    async def parts(self, idle: float | None = None) -> AsyncIterator[list[Part]]:
        """Yield the parts that have come since the last time, until all texts have ended.

        Args:
            idle: seconds after which an empty list is yielded if nothing comes; None for never.

        Raises:
            ApiError: a text ended with an error, the time is over, or the reader is too slow.
        """
        left = len(self.job.requests)
        while left:
            backlog = await self._next_parts(idle)
            for part in backlog:
                reason = part.delta.finish_reason
                if reason in ("error", "cancelled"):
                    self.cancel()
                    why = part.delta.error or "the request was cancelled"
                    raise ApiError(500, f"the text could not be finished: {why}", code="internal")
                left -= reason is not None
            yield backlog

    async def _next_parts(self, idle: float | None) -> list[Part]:
        until = self._deadline if idle is None else min(self._deadline, self._loop.time() + idle)
        try:
            async with asyncio.timeout_at(until):
                await self._event.wait()
        except TimeoutError:
            if until < self._deadline:
                return []
            self.cancel()
            raise ApiError(
                504,
                f"the request was not finished within {self._timeout:g} s (--request-timeout); ask "
                "for fewer tokens, or try again later",
                code="timeout",
            ) from None
        self._event.clear()
        with self._lock:
            backlog, self._backlog = self._backlog, []
            self._backlog_size, self._woken = 0, False
            too_slow = self._too_slow
        if too_slow:
            raise ApiError(
                408,
                f"the reader was more than {MAX_BACKLOG:,} characters behind, so the request has "
                "ended; read faster, or ask for fewer logprobs",
                code="slow_reader",
            )
        return backlog

    def cancel(self) -> None:
        """Free the engine of what is left of the job; harmless when nothing is."""
        with self._lock:
            self._ended = True
            tickets = list(self._tickets)
        for ticket in tickets:
            ticket.cancel()
        for clock in self._clocks:
            clock.abort()
