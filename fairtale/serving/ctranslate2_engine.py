"""Serve a folder of ``fairtale gpt2 export --format ctranslate2`` with CTranslate2."""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from ..data.corpus.byte_level import piece_bytes
from ..data.corpus.byte_level_files import TOKENIZER_JSON, load_byte_level
from ..errors import UserError
from ..generation.row_sampling import TokenLogprobs
from ..interop.ctranslate2_export import MAX_POSITIONS, NEVER_WRITTEN
from .batch_engine import Batch, BatchEngine, BatchJob, GraceIsOver
from .interface import (
    Delta,
    GenerationRequest,
    Limits,
    RequestError,
    SamplingOptions,
    TokenLogprob,
)
from .request_rules import (
    check_options,
    check_text,
    refuse,
    refuse_prompt_logprobs,
    tokens_beside_prompt,
)
from .stop_strings import StopStrings
from .token_names import TokenNames

CONFIG, VOCABULARY, WEIGHTS = "config.json", "vocabulary.json", "model.bin"


class SharedOptions(NamedTuple):
    """What all texts of a batch have in common, because CTranslate2 has one value for a batch."""

    topk: int  # 1 is greedy, 0 is all tokens
    topp: float
    temperature: float
    min_length: int
    # CTranslate2 counts prompts as a part of the texts if one of the batch is the BOS token alone
    is_empty: bool


class TextJob(BatchJob):
    """An accepted request and its text as far as it is written.

    Args:
        prompt: the prompt, with the BOS token.
        options: options of the request.
        max_tokens: number of tokens after which the text ends.
        eos: the token that ends the text.
        deliver: receives the parts of the text.
    """

    def __init__(
        self,
        prompt: list[str],
        options: SamplingOptions,
        max_tokens: int,
        eos: int,
        deliver: Callable[[Delta], None],
    ) -> None:
        super().__init__(len(prompt) - 1, len(prompt) - 1 + max_tokens, deliver)
        self.prompt = prompt
        self.options = options
        self.shared = _shared(options, is_empty=len(prompt) == 1)
        self.max_tokens = max_tokens
        self.num_tokens = 0
        self._eos = eos
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = StopStrings(options.stop)

    def take(self, token: int, lprob: float, names: TokenNames) -> None:
        """Add a token to the text, and deliver the part that it completes.

        Args:
            token: the token.
            lprob: its log-probability.
            names: the texts of tokens.
        """
        self.num_tokens += 1
        logprobs: tuple[TokenLogprob, ...] = ()
        if token == self._eos:
            self._finish("", "stop", logprobs)
            return
        if self.options.logprobs is not None:
            logprobs = (names.describe(token, TokenLogprobs(lprob, [])),)
        part = self._decoder.decode(names(token)[1])
        if self.num_tokens == self.max_tokens:
            self._finish(part, "length", logprobs)
            return
        may_end = self.num_tokens >= self.options.min_tokens
        part, is_stopped = self._stops.add(part, may_end)
        self.send(Delta(part, 1, logprobs, "stop" if is_stopped else None))

    def _finish(
        self, part: str, reason: Literal["stop", "length"], logprobs: tuple[TokenLogprob, ...]
    ) -> None:
        """Deliver the last part, with what was held back."""
        part, is_stopped = self._stops.add(part + self._decoder.decode(b"", final=True))
        if not is_stopped:
            part += self._stops.end()
        self.send(Delta(part, 1, logprobs, "stop" if is_stopped else reason))


class CTranslate2Engine(BatchEngine[TextJob]):
    """Continue texts with CTranslate2; an :class:`~fairtale.serving.interface.Engine`.

    Requests with the same temperature, top_p, top_k and min_tokens run in a batch together. New
    requests wait for the end of the batch, which CTranslate2 cannot extend. A text ends or is
    cancelled by itself.

    CTranslate2 has no counterpart of some options, which are refused: a ``seed`` above temperature
    0 (it has one for all requests), ``logit_bias``, ``repetition_penalty`` (its own leaves out
    the tokens of the prompt), and ``logprobs`` above 0 or of the prompt (it only reports the
    chosen tokens).

    Args:
        path: folder that ``fairtale gpt2 export --format ctranslate2`` has written.
        data: folder with ``tokenizer.json``; None for ``path``.
        cpu: use no GPU, even if one is available.
        max_running: maximum number of texts of a batch.
        max_waiting: maximum number of requests in the queue.
        max_waiting_tokens: maximum number of tokens of their prompts and longest texts.

    Raises:
        UserError: the folder cannot be served, CTranslate2 is not installed, or an option is out
            of range.
    """

    kind: Literal["story"] = "story"

    def __init__(
        self,
        path: str,
        data: str | None = None,
        cpu: bool = False,
        *,
        max_running: int = 32,
        max_waiting: int = 256,
        max_waiting_tokens: int = 262144,
    ) -> None:
        library = _library()
        config, self._vocabulary = _read_folder(path)
        self._bpe = load_byte_level(os.path.join(data or path, TOKENIZER_JSON))
        _check_tokenizer(self._bpe.pieces, self._vocabulary, data or path)
        self._bos: str = config["bos_token"]
        self._eos = self._vocabulary.index(config["eos_token"])
        self._never = [[token] for token in config[NEVER_WRITTEN]]
        positions: int = config[MAX_POSITIONS]
        limits = Limits(
            max_prompt_tokens=positions - 2,  # the BOS token needs one position
            max_new_tokens=positions - 1,
            max_positions=positions - 1,
            max_running=max_running,
            max_waiting=max_waiting,
            max_waiting_tokens=max_waiting_tokens,
        )
        super().__init__("generation", limits)
        try:
            generator: Any = library.Generator(path, device="cpu" if cpu else "auto")
        except RuntimeError as error:
            raise UserError(f"{path}: CTranslate2 cannot load it: {error}") from None
        self._machine = f"{generator.device}, {generator.compute_type}"
        self._generator = generator
        texts = [piece_bytes(piece) for piece in self._vocabulary]
        self._names = TokenNames(texts, self._vocabulary)
        self._longest_piece = max(map(len, texts))
        self.start()

    def describe(self) -> str:
        """Return one line for the start."""
        return (
            f"CTranslate2 on {self._machine}, batches of at most {self.limits.max_running} texts "
            f"of {self.limits.max_positions} tokens, no preallocated cache"
        )

    def close(self, grace: float) -> None:
        """Finish the accepted requests within ``grace`` seconds, and stop; see the base class."""
        super().close(grace)
        # here and now: it crashes if Python's garbage collector destroys it in one of its own
        # threads, or if Python ends before it
        self._generator = None

    # --------------------------------------------------------------------- the requests

    def read(self, request: GenerationRequest, deliver: Callable[[Delta], None]) -> TextJob:
        """Return the job of a request; see :class:`BatchEngine`."""
        options = request.options
        check_options(options, len(self._vocabulary))
        _refuse_unsupported(options)
        if not isinstance(request.prompt, str):
            raise RequestError("prompt: the model continues one text; send no turns", "prompt")
        pieces = self._encode(request.prompt)
        max_tokens = tokens_beside_prompt(options, len(pieces), self.limits.max_positions)
        return TextJob([self._bos, *pieces], options, max_tokens, self._eos, deliver)

    def _encode(self, prompt: str) -> list[str]:
        """Return the pieces of a prompt.

        Raises:
            RequestError: the prompt is no text, or so long that it need not be encoded.
        """
        check_text(prompt, "prompt")
        size = len(prompt.encode())
        if size > self.limits.max_prompt_tokens * self._longest_piece:
            raise RequestError(
                f"prompt of {size} bytes: the model reads at most "
                f"{self.limits.max_prompt_tokens} tokens; shorten it",
                "prompt",
            )
        return self._bpe.encode_many([prompt])[0]

    # ------------------------------------------------------------------------ the batch

    def take(self, queue: Sequence[TextJob]) -> Batch[TextJob]:
        """Take the oldest request and those with the same options."""
        found = [job for job in queue if job.shared == queue[0].shared]
        return [(job, None) for job in found[: self.limits.max_running]]

    def run(self, batch: Batch[TextJob]) -> int:
        """Write the texts of a batch; see :class:`BatchEngine`."""
        jobs = [job for job, _ in batch]
        shared = jobs[0].shared
        is_over = False

        def on_token(result: Any) -> bool:
            """Take a token; return whether its text ends. CTranslate2 calls it in its thread."""
            nonlocal is_over
            try:
                self.step()
            except GraceIsOver:  # CTranslate2 would turn it into another exception
                is_over = True
            job = jobs[result.batch_id]
            if not (is_over or job.has_ended):
                job.take(result.token_id, result.log_prob, self._names)
            return is_over or job.has_ended

        self._generator.generate_batch(
            [job.prompt for job in jobs],
            max_length=max(job.max_tokens for job in jobs),
            min_length=shared.min_length,
            sampling_topk=min(shared.topk, len(self._vocabulary)),
            sampling_topp=shared.topp,
            sampling_temperature=shared.temperature,
            suppress_sequences=self._never,
            include_prompt_in_result=False,
            return_scores=True,  # reports log-probabilities of tokens
            callback=on_token,
        )
        if is_over:
            raise GraceIsOver
        return sum(job.prompt_tokens + job.num_tokens for job in jobs)


def _library() -> Any:
    try:
        import ctranslate2
    except ImportError:
        raise UserError(
            "ctranslate2 is not installed; run: pip install 'fairtale[ctranslate2]'"
        ) from None
    return ctranslate2


def _shared(options: SamplingOptions, is_empty: bool) -> SharedOptions:
    """Return CTranslate2's options of a request.

    Args:
        options: options of the request.
        is_empty: whether its prompt is the BOS token alone.
    """
    topk, topp, temperature = max(options.top_k, 0), options.top_p, options.temperature
    if temperature == 0:
        topk, topp, temperature = 1, 1.0, 1.0
    return SharedOptions(topk, topp, temperature, options.min_tokens, is_empty)


def _refuse_unsupported(options: SamplingOptions) -> None:
    """Refuse what CTranslate2 cannot do for a single request.

    Raises:
        RequestError: an option has no counterpart.
    """
    ours = "leave it out, or serve the checkpoint without --engine ctranslate2"
    if options.seed is not None and options.temperature > 0:
        refuse("seed", options.seed, f"CTranslate2 has one seed for all requests; {ours}")
    if options.repetition_penalty != 1:
        rule = f"CTranslate2 does not penalise the tokens of the prompt; {ours}"
        refuse("repetition_penalty", options.repetition_penalty, rule)
    if options.logit_bias:
        refuse("logit_bias", dict(options.logit_bias), f"CTranslate2 has no such option; {ours}")
    if options.prompt_logprobs:
        refuse_prompt_logprobs("CTranslate2 does not report those of prompts")
    if options.logprobs:
        rule = f"CTranslate2 reports the chosen tokens only; give 0, {ours}"
        refuse("logprobs", options.logprobs, rule)


def _read_folder(path: str) -> tuple[dict[str, Any], list[str]]:
    """Return the settings and the vocabulary of a folder.

    Raises:
        UserError: a file is missing or damaged, or another tool has written the folder.
    """
    remedy = "write the folder with `fairtale gpt2 export --format ctranslate2`"
    found: list[Any] = []
    if not os.path.isfile(os.path.join(path, WEIGHTS)):
        raise UserError(f"{path}: not a model of CTranslate2, {WEIGHTS} is missing; {remedy}")
    for name in (CONFIG, VOCABULARY):
        try:
            with open(os.path.join(path, name), encoding="utf-8") as stream:
                found.append(json.load(stream))
        except (OSError, ValueError, RecursionError) as error:  # also for bad UTF-8
            raise UserError(f"{os.path.join(path, name)}: {error}; {remedy}") from None
    config, vocabulary = found
    if not isinstance(config, dict) or not isinstance(vocabulary, list):
        raise UserError(f"{path}: {CONFIG} or {VOCABULARY} has another form; {remedy}")
    missing = [name for name in (MAX_POSITIONS, NEVER_WRITTEN) if name not in config]
    if missing:
        raise UserError(f"{path}: {CONFIG} does not say {' and '.join(missing)}; {remedy}")
    tokens = [config.get("bos_token"), config.get("eos_token"), *config[NEVER_WRITTEN]]
    strange = [token for token in tokens if token not in vocabulary]
    if strange or type(config[MAX_POSITIONS]) is not int or config[MAX_POSITIONS] < 3:
        raise UserError(f"{path}: {CONFIG} is damaged; {remedy}")
    return config, vocabulary


def _check_tokenizer(pieces: Sequence[str], vocabulary: Sequence[str], path: str) -> None:
    """Refuse a tokenizer whose pieces are not those of the model."""
    unknown = set(pieces) - set(vocabulary)
    if unknown:
        raise UserError(
            f"{path}: {TOKENIZER_JSON} has {len(unknown)} pieces that the model lacks; give the "
            "folder with the tokenizer of the model by --data"
        )
