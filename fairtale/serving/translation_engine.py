"""Translate the requests of the service in batches, with beam search or sampling."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..errors import UserError
from ..generation.options import check_decoding
from .interface import (
    Delta,
    EngineStats,
    GenerationRequest,
    Limits,
    Overloaded,
    ShuttingDown,
    Ticket,
)

if TYPE_CHECKING:  # fairseq must be imported after ``plugin.register``
    from .translation_requests import Sentence, TranslationJob

logger = logging.getLogger(__name__)

STALL_SECONDS = 60.0  # a step that takes longer hangs
MAX_BATCH_TOKENS = 16384  # source tokens of a batch, padding included, once for each beam
_LONGEST_RETRY = 60.0  # seconds


class _GraceIsOver(Exception):
    """The time to finish the running requests has passed."""


class _Member(NamedTuple):
    """A sentence of the running batch."""

    job: TranslationJob
    sentence: Sentence


class TranslationEngine:
    """Translate sentences in batches; an :class:`~fairtale.serving.interface.Engine`.

    Each line of a prompt is a sentence, as in ``fairseq-interactive``: it is tokenised, translated
    and detokenised by itself, and blank lines stay blank. Of a dialog, the newest turn is
    translated. A line is delivered as soon as it and the lines before it are translated.

    - At temperature 0 (which suits translations best), beam search finds the translation; above 0
      it is sampled with the seed of the request. Both do not depend on other requests.
    - A translation has at most 1.5 S + 10 tokens for a sentence of S tokens, and not more than
      ``max_tokens`` in all lines together.
    - ``repetition_penalty`` looks at the tokens of the translation, as the prompt has those of
      another language. ``min_tokens`` needs a prompt of one line.
    - ``logprobs`` are those of the model for the finished translation.

    A batch takes one sentence of each waiting request in turn, so a long text does not hold up
    short ones. New requests wait for the end of the batch. A cancelled request leaves the queue and
    the batch at the next step.

    Args:
        path: checkpoint of ``wmt16_translation`` (also pruned), or of fairseq's ``translation`` if
            its data folder has the files of the tokenizer.
        data: folder with dictionaries and tokenizer; None for that of the training.
        cpu: use no GPU, even if one is available.
        max_running: maximum number of sentences of a batch.
        max_waiting: maximum number of requests in the queue.
        max_waiting_tokens: maximum number of their tokens, which are those of the prompts and the
            limits of their translations.
        beam: beam size.
        lenpen: length penalty; scores of hypotheses are divided by length ** lenpen.

    Raises:
        UserError: the checkpoint cannot be served, or an option is out of range.
        OSError: the file does not exist.
    """

    kind: Literal["translation"] = "translation"

    def __init__(
        self,
        path: str,
        data: str | None = None,
        cpu: bool = False,
        *,
        max_running: int = 32,
        max_waiting: int = 256,
        max_waiting_tokens: int = 262144,
        beam: int = 5,
        lenpen: float = 1.0,
    ) -> None:
        sizes = {"max-running": max_running, "max-waiting": max_waiting}
        sizes["max-waiting-tokens"] = max_waiting_tokens
        for name, value in sizes.items():
            if value < 1:
                raise UserError(f"--{name} {value}: must be at least 1")
        check_decoding({"beam": beam})
        from .translator import Translator

        self._translator = Translator.load(path, data, cpu)
        self.beam = beam
        self.lenpen = lenpen
        longest = self._translator.max_source, self._translator.max_target
        self.limits = Limits(*longest, sum(longest), max_running, max_waiting, max_waiting_tokens)
        self._condition = threading.Condition()  # guards what follows
        self._queue: list[TranslationJob] = []  # those with sentences that are not begun
        self._running: set[TranslationJob] = set()  # those that are begun and not finished
        self._deadline: float | None = None  # when the grace of close() is over
        self._beat = time.monotonic()  # when the last step began
        self._is_busy = False
        self._rate = 100.0  # tokens a second, of prompts and translations, for Retry-After
        self._thread = threading.Thread(target=self._serve, name="translation", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------ for any thread

    def submit(self, request: GenerationRequest, deliver: Callable[[Delta], None]) -> Ticket:
        """Queue a request; see :meth:`fairtale.serving.interface.Engine.submit`."""
        from .translation_requests import read_request

        limit = self.limits.max_waiting_tokens
        job = read_request(request, self._translator, deliver, limit)
        with self._condition:
            if self._deadline is not None:
                raise ShuttingDown("the service is shutting down")
            waiting = [other for other in self._queue if not other.started]
            tokens = sum(other.cost for other in waiting)
            full = None
            if len(waiting) >= self.limits.max_waiting:
                full = f"{len(waiting)} requests are waiting, the most that are allowed"
            elif tokens + job.cost > limit:
                full = f"the waiting requests have {tokens} of at most {limit} tokens"
            if full:
                retry_after = min(max(tokens / self._rate, 1.0), _LONGEST_RETRY)
                raise Overloaded(f"{full}; try again later", retry_after)
            self._queue.append(job)
            self._condition.notify()
        return job

    def stats(self) -> EngineStats:
        """Return how many requests run and wait; the engine has no preallocated cache."""
        with self._condition:
            waiting = sum(not job.started for job in self._queue)
            return EngineStats(len(self._running), waiting, 0.0)

    def unhealthy(self) -> str | None:
        """Return why the engine does not work, or None."""
        if not self._thread.is_alive():
            return "the translation thread has ended"
        seconds = time.monotonic() - self._beat
        if self._is_busy and seconds > STALL_SECONDS:
            return f"the translation thread has not finished a step for {seconds:.0f} seconds"
        return None

    def describe(self) -> str:
        """Return one line for the start."""
        model = self._translator.model
        dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
        return (
            f"translation {'-'.join(self._translator.task.languages)} on "
            f"{self._translator.device}, {dtype}, beam {self.beam}, batches of at most "
            f"{self.limits.max_running} sentences, {self.limits.max_prompt_tokens} source and "
            f"{self.limits.max_new_tokens} target tokens, no preallocated cache"
        )

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

    def _serve(self) -> None:
        """Translate batch after batch until the engine is closed."""
        reason = "the service was shut down before the translation was finished"
        try:
            while batch := self._next_batch():
                self._translate(batch)
        except _GraceIsOver:
            pass
        except BaseException:
            reason = "the translation thread has failed; see the log of the service"
            logger.exception("the translation thread has failed")
        with self._condition:
            self._deadline = self._deadline or time.monotonic()
            left = {*self._queue, *self._running}
            self._queue.clear()
            self._running.clear()
        for job in left:
            self._end(job, error=reason)

    def _next_batch(self) -> list[_Member]:
        """Wait for requests; return sentences to translate together, or none after close()."""
        while True:
            with self._condition:
                self._is_busy = False
                while not self._queue and self._deadline is None:
                    self._condition.wait()
                if self._is_over():
                    return []
                self._beat, self._is_busy = time.monotonic(), True
            self._end_cancelled()
            with self._condition:
                if self._queue:
                    return self._take()
                if self._deadline is not None:
                    return []

    def _is_over(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _take(self) -> list[_Member]:
        """Take one sentence of each request in turn while the batch has room.

        The request at the head of the queue decides whether the batch is sampled. Those with
        sentences left go to its end.
        """
        is_sampled = self._queue[0].is_sampled
        beam = 1 if is_sampled else self.beam
        batch: list[_Member] = []
        widest = 0
        turns = [job for job in self._queue if job.is_sampled == is_sampled]
        while turns and len(batch) < self.limits.max_running:
            job = turns.pop(0)
            widest = max(widest, len(job.todo[0].tokens))
            if batch and widest * beam * (len(batch) + 1) > MAX_BATCH_TOKENS:
                break
            batch.append(_Member(job, job.todo.popleft()))
            if job.todo:
                turns.append(job)
        begun = {member.job for member in batch}
        for job in begun:
            job.started = True
        self._running |= begun
        rest = [job for job in self._queue if job not in begun]
        self._queue = rest + [job for job in self._queue if job in begun and job.todo]
        return batch

    def _translate(self, batch: list[_Member]) -> None:
        """Translate the sentences of a batch; an exception ends their requests only."""
        from ..generation.sentence_generator import SentenceGenerator, Translation

        translator = self._translator
        start, num_tokens = time.monotonic(), 0
        net_input, order = translator.batch([member.sentence.tokens for member in batch])
        rows = [batch[index] for index in order]

        def on_step() -> list[int]:
            self._beat = time.monotonic()
            if self._is_over():
                raise _GraceIsOver
            self._end_cancelled()
            return [row for row, member in enumerate(rows) if member.job.ended]

        def on_end(row: int, translation: Translation) -> None:
            nonlocal num_tokens
            num_tokens += len(translation.tokens) + len(rows[row].sentence.tokens)
            self._add(rows[row], translation)

        try:
            rules = [member.sentence.rules for member in rows]
            generator = SentenceGenerator(
                translator.model,
                translator.tgt_dict,
                rules,
                self.beam,
                self.lenpen,
                on_step,
                on_end,
            )
            generator.translate(net_input)
        except _GraceIsOver:
            raise
        except Exception:
            logger.exception("a batch of %d sentences failed", len(batch))
            for member in batch:
                self._end(member.job, error="the translation failed; see the log of the service")
        seconds = max(time.monotonic() - start, 1e-6)
        self._rate = 0.7 * self._rate + 0.3 * num_tokens / seconds

    def _add(self, member: _Member, translation: Any) -> None:
        """Hand the translation of a sentence over to its request."""
        from ..generation.sentence_generator import score_tokens

        job, sentence = member
        if job.ended:
            return
        scores = []
        if job.options.logprobs is not None:
            net_input, _ = self._translator.batch([sentence.tokens])
            eos = self._translator.tgt_dict.eos()
            tokens = [*translation.tokens, eos]
            scores = score_tokens(
                self._translator.model, net_input, tokens, eos, job.options.logprobs
            )
        try:
            job.add(sentence.line, translation, scores)
        except Exception:  # of the receiver, which must not stop the others
            logger.exception("a client's part of the text could not be delivered")
            job.ended = True
        self._forget(job)

    def _end_cancelled(self) -> None:
        """End the requests that were cancelled since the last step."""
        with self._condition:
            gone = [job for job in {*self._queue, *self._running} if job.cancelled]
        for job in gone:
            self._end(job)

    def _end(self, job: TranslationJob, error: str | None = None) -> None:
        """End a request that has no more text, as cancelled or with an error."""
        try:
            job.break_off("cancelled" if error is None else "error", error)
        except Exception:
            logger.exception("the end of a request could not be delivered")
            job.ended = True
        self._forget(job)

    def _forget(self, job: TranslationJob) -> None:
        """Remove a request that has ended."""
        if not job.ended:
            return
        with self._condition:
            self._running.discard(job)
            if job in self._queue:
                self._queue.remove(job)
