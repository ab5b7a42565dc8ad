"""Translate the requests of the service in batches, with beam search or sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from ..generation.options import check_decoding
from .batch_engine import Batch, BatchEngine
from .interface import Delta, GenerationRequest, Limits

if TYPE_CHECKING:  # fairseq must be imported after ``plugin.register``
    from ..generation.sentence_generator import TokenScore, Translation
    from .translation_requests import Sentence, TranslationJob

MAX_BATCH_TOKENS = 16384  # source tokens of a batch, padding included, once for each beam


class TranslationEngine(BatchEngine["TranslationJob"]):
    """Translate sentences in batches; an :class:`~fairtale.serving.interface.Engine`.

    Each line of a prompt is a sentence, as in ``fairseq-interactive``: it is tokenised, translated
    and detokenised by itself, and blank lines stay blank. Of a dialog, the newest turn is
    translated. A line is delivered as soon as it and the lines before it are translated.

    - At temperature 0 (which suits translations best), beam search finds the translation; above 0
      it is sampled with the seed of the request. Both do not depend on other requests.
    - A translation has at most 1.5 S + 10 tokens for a sentence of S tokens, and not more than
      ``max_tokens`` in all lines together.
    - ``repetition_penalty`` looks at the tokens of the translation, as the prompt has those of
      another language. ``min_tokens`` needs a prompt of one line, without ``stop``.
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
        check_decoding({"beam": beam})
        from .translator import Translator

        self._translator = Translator.load(path, data, cpu)
        self.beam = beam
        self.lenpen = lenpen
        longest = self._translator.max_source, self._translator.max_target
        limits = Limits(*longest, sum(longest), max_running, max_waiting, max_waiting_tokens)
        super().__init__("translation", limits)
        self.start()

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

    def read(self, request: GenerationRequest, deliver: Callable[[Delta], None]) -> TranslationJob:
        """Return the job of a request; see :class:`BatchEngine`."""
        from .translation_requests import read_request

        limit = self.limits.max_waiting_tokens
        return read_request(request, self._translator, deliver, limit)

    def take(self, queue: Sequence[TranslationJob]) -> Batch[TranslationJob]:
        """Take one sentence of each request in turn while the batch has room.

        The oldest request decides whether the batch is sampled.
        """
        is_sampled = queue[0].is_sampled
        beam = 1 if is_sampled else self.beam
        batch: list[tuple[TranslationJob, Sentence]] = []
        widest = 0
        turns = [job for job in queue if job.is_sampled == is_sampled]
        while turns and len(batch) < self.limits.max_running:
            job = turns.pop(0)
            widest = max(widest, len(job.todo[0].tokens))
            if batch and widest * beam * (len(batch) + 1) > MAX_BATCH_TOKENS:
                break
            batch.append((job, job.todo.popleft()))
            if job.todo:
                turns.append(job)
        return batch

    def run(self, batch: Batch[TranslationJob]) -> int:
        """Translate the sentences of a batch; see :class:`BatchEngine`."""
        from ..generation.sentence_generator import SentenceGenerator

        translator, num_tokens = self._translator, 0
        net_input, order = translator.batch([sentence.tokens for _, sentence in batch])
        rows = [batch[index] for index in order]

        def on_step() -> list[int]:
            self.step()
            return [row for row, (job, _) in enumerate(rows) if job.has_ended]

        def on_end(row: int, translation: Translation) -> None:
            nonlocal num_tokens
            job, sentence = rows[row]
            num_tokens += len(translation.tokens) + len(sentence.tokens)
            if not job.has_ended:
                job.add(sentence.line, translation, self._scores(job, sentence, translation))
                self.forget_ended()

        rules = [sentence.rules for _, sentence in rows]
        generator = SentenceGenerator(
            translator.model, translator.tgt_dict, rules, self.beam, self.lenpen, on_step, on_end
        )
        generator.translate(net_input)
        return num_tokens

    def _scores(
        self, job: TranslationJob, sentence: Sentence, translation: Translation
    ) -> list[TokenScore]:
        """Return the log-probabilities of a translation, if the request asks for them."""
        from ..generation.sentence_generator import score_tokens

        top = job.options.logprobs
        if top is None:
            return []
        net_input, _ = self._translator.batch([sentence.tokens])
        eos = self._translator.tgt_dict.eos()
        return score_tokens(self._translator.model, net_input, translation.tokens, eos, top)
