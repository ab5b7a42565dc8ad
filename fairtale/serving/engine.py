"""Generate the texts of all requests to a prefix language model in one running batch.

One thread advances all texts by one token in every step. Requests join the batch and leave it at
every step. In each step, prompts that wait are read together, at most ``READ_TOKENS`` tokens at a
time, so that running texts wait no longer than for that; a longer prompt is read in pieces, one in
each step. Only a prompt that is read in both directions, which has no pieces, is read
at once whatever its length.

A text does not depend on the other texts of the batch: see
:mod:`~fairtale.modules.row_decoder` and :mod:`~fairtale.generation.row_sampling`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Literal

import torch

from ..generation.growing_text import GrowingText
from ..generation.row_sampling import RowOptions, TextState, choose_rows
from ..generation.session import Session
from ..generation.writers import Kind
from ..modules.row_cache import RowCache
from ..modules.row_decoder import Piece, RowDecoder
from .interface import (
    Delta,
    EngineStats,
    GenerationRequest,
    Limits,
    ShuttingDown,
)
from .prompts import PromptReader
from .request_rules import check_options
from .resources import MIB, check_at_least_one, rows_within, use_threads
from .rows import Row
from .stop_strings import StopStrings
from .token_names import TokenNames
from .waiting import Waiting

logger = logging.getLogger(__name__)

READ_TOKENS = 256  # tokens of prompts that are read in a step
_MAX_FAILURES = 3  # consecutive steps that fail before the engine is unhealthy


class PrefixEngine:
    """The engine of ``gpt`` and ``unilm_seq2seq``; see :class:`~fairtale.serving.interface.Engine`.

    Args:
        session: the model; nobody else may use it from now on.
        cache_mib: memory for keys and values, in MiB; default: as much as ``max_running`` texts
            need, but at most 1024 on a CPU, and half of the free memory of a GPU.
        max_running: maximum number of texts at the same time; fewer if the cache holds fewer.
        max_waiting: maximum number of requests that wait.
        max_waiting_tokens: maximum number of tokens of their prompts and longest texts.
        threads: torch's threads on a CPU; default: ``OMP_NUM_THREADS``, or else one less than the
            process has cores, because the service itself needs one.
        hang_seconds: a step that takes longer is reported by :meth:`unhealthy`.

    Raises:
        UserError: the cache holds not even one text, or an option is out of range.
    """

    def __init__(
        self,
        session: Session,
        *,
        cache_mib: int | None = None,
        max_running: int = 64,
        max_waiting: int = 256,
        max_waiting_tokens: int = 262144,
        threads: int | None = None,
        hang_seconds: float = 120.0,
    ) -> None:
        check_at_least_one(
            max_running=max_running,
            max_waiting=max_waiting,
            max_waiting_tokens=max_waiting_tokens,
            threads=threads,
            cache_mib=cache_mib,
        )
        self._session, self._hang_seconds = session, hang_seconds
        self._prompts = PromptReader(session)
        self._processors = session.processors
        transformer = session.model.transformer
        positions = self._prompts.cache_positions
        rows = rows_within(transformer, positions, cache_mib, max_running)
        self._threads = use_threads(threads, session.device)
        self._cache = RowCache(transformer, rows, positions)
        self._decoder = RowDecoder(transformer, self._cache)
        if not self._decoder.is_exact:
            logger.warning("texts may depend on other texts of the batch in the last digit")
        dictionary = session.task.dictionary
        self._names = TokenNames(self._prompts.entry_texts, dictionary.symbols)
        self._running: list[Row] = []  # in the first rows of the cache, in this order
        self._partial: Row | None = None  # its prompt is read in part, into the row behind them
        self._waiting = Waiting(max_waiting, max_waiting_tokens)
        self._changed = threading.Condition()
        self._is_closing = self._is_aborted = False
        self._step_began: float | None = None
        self._step_seconds = 0.0  # moving average
        self._failures, self._failure = 0, ""
        self._death: str | None = None
        self._thread = threading.Thread(target=self._run, name="fairtale-engine", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------------- any thread

    @property
    def kind(self) -> Literal["story", "dialog", "translation"]:
        """Return what the model does with a prompt."""
        return "story" if self._session.kind is Kind.STORY else "dialog"

    @property
    def limits(self) -> Limits:
        """Return the limits of requests."""
        limits = self._session.limits
        return Limits(
            max_prompt_tokens=limits.max_prompt_tokens,
            max_new_tokens=self._prompts.max_new_tokens,
            max_positions=self._prompts.max_positions,
            max_running=self._cache.rows,
            max_waiting=self._waiting.max_requests,
            max_waiting_tokens=self._waiting.max_tokens,
        )

    def submit(self, request: GenerationRequest, deliver: Callable[[Delta], None]) -> Row:
        """Queue a request; see :meth:`Engine.submit`."""
        with self._changed:
            self._refuse_if_closed()
            self._waiting.check(None, self._seconds_to_place())  # before the prompt is encoded
        options = request.options
        check_options(options, self._prompts.num_predicted)
        prefix, max_tokens = self._prompts.read(request)
        seed = int.from_bytes(os.urandom(8), "little") if options.seed is None else options.seed
        state = TextState(
            RowOptions(
                min_tokens=options.min_tokens,
                temperature=options.temperature,
                top_p=options.top_p,
                top_k=options.top_k,
                repetition_penalty=options.repetition_penalty,
                logit_bias=dict(options.logit_bias),
                logprobs=options.logprobs,
            ),
            seed,
            prefix.net_input.get("context_tokens", prefix.net_input["src_tokens"])[0].tolist(),
            prefix.eos,
        )
        text = GrowingText(self._session.task.decode_ids, self._session.writer.skips_space)
        stop, top = StopStrings(options.stop), options.logprobs if options.prompt_logprobs else None
        row = Row(prefix, state, text, stop, max_tokens, deliver, self._wake, top)
        with self._changed:
            self._refuse_if_closed()
            self._waiting.check(row.cost, self._seconds_to_place())
            self._waiting.append(row)
            self._changed.notify()
        return row

    def _refuse_if_closed(self) -> None:
        if self._death is not None:
            raise ShuttingDown(f"the model is not available: {self._death}")
        if self._is_closing:
            raise ShuttingDown("the service is shutting down and accepts no more requests")

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify()

    def _seconds_to_place(self) -> float:
        """Return the seconds until the next text ends, at the speed of the last steps."""
        left = [row.max_tokens - len(row.state.tokens) for row in list(self._running)]
        return self._step_seconds * min(left, default=1)

    def stats(self) -> EngineStats:
        """Return how many requests run and wait."""
        running = list(self._running)
        if (partial := self._partial) is not None:
            running.append(partial)
        used = sum(row.length for row in running)
        share = used / (self._cache.rows * self._cache.positions)
        return EngineStats(len(running), len(self._waiting), share)

    def unhealthy(self) -> str | None:
        """Return why the engine does not work, or None."""
        if self._death is not None:
            return self._death
        began = self._step_began
        seconds = 0.0 if began is None else time.monotonic() - began
        if seconds > self._hang_seconds:
            return f"a step began {seconds:.0f} s ago and has not ended"
        if self._failures >= _MAX_FAILURES:
            return f"the last {self._failures} steps failed: {self._failure}"
        return None

    def describe(self) -> str:
        """Return device, dtype, threads, rows, positions and memory of the cache, in one line."""
        device = self._session.device
        threads = f", {self._threads} threads" if device.type == "cpu" else ""
        dtype = str(self._cache.data.dtype).removeprefix("torch.")
        mib = self._cache.num_bytes / MIB
        return (
            f"{device}, {dtype}{threads}, {self._cache.rows} rows of {self._cache.positions} "
            f"positions, cache of {mib:.0f} MiB"
        )

    def close(self, grace: float) -> None:
        """Refuse new requests, finish the others within ``grace`` seconds, and stop."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join(grace)
        if self._thread.is_alive():
            self._is_aborted = True
            self._wake()
            self._thread.join(self._hang_seconds)
        self._end_all("the service is shutting down")  # nothing is left, unless a step hangs

    # ---------------------------------------------------------------- the engine's thread

    def _run(self) -> None:
        try:
            torch.set_num_threads(self._threads)
            while self._wait_for_work():
                self._advance()
        except BaseException as error:
            self._death = f"the engine's thread has ended: {_describe(error)}"
            logger.exception("the engine's thread has ended")
        self._end_all(self._death or "the service is shutting down")

    def _wait_for_work(self) -> bool:
        """Return whether there is work, as soon as there is; False to end."""
        with self._changed:
            while not (self._running or self._partial or len(self._waiting)):
                if self._is_closing:
                    return False
                self._changed.wait()
            return not self._is_aborted

    def _end_all(self, message: str) -> None:
        """End all requests that are left with an error."""
        with self._changed:
            self._is_closing = True
            rows = [*self._running, *([self._partial] if self._partial else [])]
            self._running, self._partial = [], None
            while len(self._waiting):
                rows.append(self._waiting.pop())
        for row in rows:
            row.end("error", message)

    def _advance(self) -> None:
        """Read prompts, and advance all texts by one token."""
        self._step_began = began = time.monotonic()
        failures = self._failures
        self._drop_cancelled()
        found = []
        try:
            found += [self._step()] if self._running else []
        except Exception as error:
            self._fail(self._running, error)
        # read afterwards, so that prompts go to the rows behind those that still run
        new, features = self._read_prompts()
        found += [] if features is None else [features]
        self._running += new
        if self._running:
            self._choose(torch.cat(found))
        self._remove_ended()
        seconds = time.monotonic() - began
        self._step_seconds = 0.9 * self._step_seconds + 0.1 * seconds or seconds
        if self._failures == failures:
            self._failures = 0
        self._step_began = None

    def _drop_cancelled(self) -> None:
        with self._changed:
            gone = self._waiting.remove_cancelled()
        for row in [*gone, *self._running, *([self._partial] if self._partial else [])]:
            if row.is_cancelled:
                row.end("cancelled")
        self._remove_ended()

    def _read_prompts(self) -> tuple[list[Row], torch.Tensor | None]:
        """Read prompts that wait; return those that end here, and their last features."""
        rows, pieces, budget = list[Row](), list[Piece](), READ_TOKENS
        while (row := self._next_to_read(len(self._running) + len(rows))) is not None:
            piece = self._prompts.piece(row, len(self._running) + len(rows), READ_TOKENS)
            if pieces and len(piece.tokens) > budget:
                break
            if row is not self._partial:
                with self._changed:
                    self._waiting.pop()
                self._partial = row
            budget -= len(piece.tokens)
            rows.append(row)
            pieces.append(piece)
            row.num_read += len(piece.tokens)
            if not piece.is_last:
                break
            self._partial = None
        if not pieces:
            return [], None
        try:
            features = self._decoder.read(pieces)
            parts = torch.split(features, [piece.num_features for piece in pieces])
            for row, piece, part in zip(rows, pieces, parts):
                row.take_prompt(part, piece.is_last, self._decoder.logits, self._names)
        except Exception as error:
            self._partial = None
            self._fail(rows, error)
            return [], None
        done = rows if pieces[-1].is_last else rows[:-1]
        return done, torch.cat([part[-1:] for part in parts[: len(done)]]) if done else None

    def _next_to_read(self, place: int) -> Row | None:
        """Return the request whose prompt is to be read next, if there is a row for it."""
        if self._partial is not None:
            return self._partial
        with self._changed:
            return self._waiting.first() if place < self._cache.rows else None

    def _step(self) -> torch.Tensor:
        """Read the newest token of each running text; return the features [n, C]."""
        rows = self._running
        segments = [row.segment for row in rows if row.segment is not None]
        return self._decoder.step(
            [row.state.tokens[-1] for row in rows],
            [row.position for row in rows],
            segments or None,
            [row.length for row in rows],
        )

    def _choose(self, features: torch.Tensor) -> None:
        """Choose the next token of each running text, and deliver what it adds."""
        rows = self._running
        try:
            logits = self._decoder.logits(features)
            forbidden = rows[0].prefix.forbidden  # the same for all requests
            choices = choose_rows(logits, [row.state for row in rows], forbidden, self._processors)
        except Exception as error:
            self._fail(rows, error)
            return
        for number, (row, token) in enumerate(zip(rows, choices.tokens)):
            try:
                row.take(token, self._names, choices.logprobs.get(number))
            except Exception as error:
                self._fail([row], error)

    def _fail(self, rows: list[Row], error: Exception) -> None:
        """End requests whose step has failed; raise the error if no further step can succeed."""
        logger.error("a step failed", exc_info=error)
        self._failures, self._failure = self._failures + 1, _describe(error)
        for row in rows:
            row.end("error", f"the text could not be generated: {self._failure}")
        self._remove_ended()
        if self._session.device.type == "cuda":
            torch.cuda.synchronize()  # fails if the error has made the GPU unusable

    def _remove_ended(self) -> None:
        """Take the texts that have ended out of the batch; the last ones fill their places."""
        before = len(self._running)
        for place in reversed(range(before)):
            row = self._running[place]
            if not row.has_ended:
                continue
            if row.is_broken:
                self._cache.clear(place)
            last = self._running.pop()
            if last is not row:
                self._cache.move(len(self._running), place, last.length)
                self._running[place] = last
        if (partial := self._partial) is None:
            return
        if partial.has_ended:
            self._partial = None
        elif before != len(self._running):
            self._cache.move(before, len(self._running), partial.num_read)


def _describe(error: BaseException) -> str:
    """Return an error in one line."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
