"""Turn a request into sentences to translate, and their translations into its text."""

from __future__ import annotations

import hashlib
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from ..data.parallel.text import clean_line
from ..generation.sentence_generator import Sampling, SentenceRules, TokenScore, Translation
from .batch_engine import BatchJob
from .interface import (
    Delta,
    FinishReason,
    GenerationRequest,
    RequestError,
    SamplingOptions,
)
from .request_rules import check_options, check_text, refuse, refuse_prompt_logprobs
from .stop_strings import StopStrings
from .translator import Translator

# without max_tokens, a translation has at most as many tokens as in scripts/wmt16_en_ru/generate.sh
MAX_LEN_A, MAX_LEN_B = 1.5, 10
_MAX_CHARACTERS = 16  # per token of the longest sentence, so that no time is lost on tokenising


class Sentence(NamedTuple):
    """A line of a request."""

    line: int
    tokens: Tensor  # with the EOS token, int64 [S]
    rules: SentenceRules


class TranslationJob(BatchJob):
    """An accepted request: its sentences, and its text as far as it is translated.

    Args:
        sentences: the lines that have text.
        num_lines: number of lines, blank ones included.
        options: options of the request.
        translator: for the text of tokens.
        deliver: receives the parts of the text.
    """

    def __init__(
        self,
        sentences: Sequence[Sentence],
        num_lines: int,
        options: SamplingOptions,
        translator: Translator,
        deliver: Callable[[Delta], None],
    ) -> None:
        prompt_tokens = sum(len(sentence.tokens) - 1 for sentence in sentences)
        cost = prompt_tokens + sum(sentence.rules.max_len for sentence in sentences)
        super().__init__(prompt_tokens, cost, deliver)
        self.todo = deque(sentences)
        self.options = options
        self.is_sampled = options.temperature > 0
        self._translator = translator
        self._found: dict[int, tuple[Translation, list[TokenScore]]] = {}
        texts = {sentence.line for sentence in sentences}
        self._blank = [line not in texts for line in range(num_lines)]
        self._next = 0  # the next line to deliver
        self._used = 0  # tokens that were delivered
        self._is_full = False
        self._stops = StopStrings(options.stop)

    @property
    def still_waits(self) -> bool:
        """Return whether a sentence is not begun."""
        return bool(self.todo) and not self.has_ended

    def add(self, line: int, translation: Translation, scores: list[TokenScore]) -> None:
        """Take the translation of a line, and deliver the lines that are complete in order.

        Args:
            line: number of the line.
            translation: its translation.
            scores: log-probabilities of its tokens; empty if not asked for.
        """
        self._found[line] = translation, scores
        while not self.has_ended and self._next < len(self._blank):
            if self._blank[self._next]:
                self._show("\n" if self._next else "", 0, [])
            elif self._next in self._found:
                self._show_line(*self._found.pop(self._next))
            else:
                return
            self._next += 1

    def _show_line(self, translation: Translation, scores: list[TokenScore]) -> None:
        """Deliver a line, or the part of it that ``max_tokens`` of the request allows."""
        tokens, is_full = translation
        count = len(tokens) + (not is_full)  # an EOS token that was forced does not count
        most = self.options.max_tokens
        room = count if most is None else most - self._used
        is_cut = count > room
        if is_cut:
            count, tokens = room, tokens[:room]
        self._is_full |= is_full or is_cut
        text = ""
        if count:
            text = "\n" * (self._next > 0) + self._translator.decode(tokens)
        self._show(text, count, scores[: len(tokens)], is_last=is_cut)

    def _show(
        self, text: str, count: int, scores: Sequence[TokenScore], is_last: bool = False
    ) -> None:
        """Deliver a part of the text; the last one with its reason."""
        self._used += count
        reason: FinishReason | None = None
        text, is_stopped = self._stops.add(text)
        if is_stopped:
            reason = "stop"
        elif is_last or self._next == len(self._blank) - 1:
            reason = "length" if self._is_full else "stop"
            text += self._stops.end()
        if text or count or reason:
            names = self._translator.token_names
            logprobs = tuple(names.describe(*score) for score in scores)
            self.send(Delta(text, count, logprobs, reason))


def read_request(
    request: GenerationRequest,
    translator: Translator,
    deliver: Callable[[Delta], None],
    max_cost: int,
) -> TranslationJob:
    """Return the job of a request.

    Args:
        request: the request.
        translator: the model and its tokenizer.
        deliver: receives the parts of the text.
        max_cost: maximum number of tokens of its sentences and of their translations.

    Raises:
        RequestError: the request breaks a rule.
    """
    options = request.options
    check_options(options, len(translator.tgt_dict))
    if options.prompt_logprobs:
        refuse_prompt_logprobs("a translation model does not predict its prompt")
    if options.logit_bias.keys() & {translator.tgt_dict.pad(), translator.tgt_dict.bos()}:
        refuse("logit_bias", dict(options.logit_bias), "<s> and <pad> are never written")
    seed = secrets.randbits(63) if options.seed is None else options.seed
    lines = _lines_of(request.prompt)
    sentences: list[Sentence] = []
    cost = len(lines)
    for number, line in enumerate(lines):
        if cost > max_cost:
            break  # before the whole of a long text is tokenised
        tokens = _encode(line, number, translator) if clean_line(line) else None
        if tokens is not None and len(tokens) > 1:
            rules = _rules(options, len(tokens), translator.max_target, seed, number)
            sentences.append(Sentence(number, tokens, rules))
            cost += len(tokens) - 1 + rules.max_len
    if cost > max_cost:
        raise RequestError(
            f"prompt: needs more than {max_cost} tokens with its translation, which is all that "
            "the queue takes (--max-waiting-tokens); send its lines in several requests",
            "prompt",
        )
    if not sentences:
        raise RequestError("prompt: has no text; give a sentence to translate", "prompt")
    _check_lengths(options, len(sentences), translator.max_target)
    return TranslationJob(sentences, len(lines), options, translator, deliver)


def _lines_of(prompt: str | tuple[str, ...]) -> list[str]:
    """Return the lines to translate; of a dialog, those of the newest turn."""
    if not isinstance(prompt, str):
        if not prompt:
            raise RequestError("prompt: has no turns; give a sentence to translate", "prompt")
        prompt = prompt[-1]
    check_text(prompt, "prompt")
    return prompt.replace("\r", " ").split("\n")


def _encode(line: str, number: int, translator: Translator) -> Tensor:
    """Return the tokens of a line, with the EOS token."""
    limit = translator.max_source
    rule = f"the model reads at most {limit} tokens; write one sentence on each line"
    if len(line) > _MAX_CHARACTERS * limit:
        raise RequestError(
            f"prompt: line {number + 1} has {len(line)} characters; {rule}", "prompt"
        )
    tokens = translator.encode(line)
    if len(tokens) - 1 > limit:
        raise RequestError(
            f"prompt: line {number + 1} has {len(tokens) - 1} tokens; {rule}", "prompt"
        )
    return tokens


def _check_lengths(options: SamplingOptions, num_lines: int, longest: int) -> None:
    """Refuse lengths that the model cannot write."""
    most, least = options.max_tokens, options.min_tokens
    if most is not None and most > longest * num_lines:
        refuse("max_tokens", most, f"the model writes at most {longest} tokens for each line")
    if least > longest:
        refuse("min_tokens", least, f"the model writes at most {longest} tokens for each line")
    if least and options.stop:
        refuse("min_tokens", least, "cannot be had with stop in a translation; leave one out")
    if least and num_lines > 1:
        rule = f"needs a single line, and the prompt has {num_lines}; leave it out"
        refuse("min_tokens", least, rule)


def _rules(
    options: SamplingOptions, length: int, longest: int, seed: int, line: int
) -> SentenceRules:
    """Return the rules of a sentence.

    Args:
        options: options of its request.
        length: number of its tokens, with the EOS token.
        longest: maximum number of tokens of a translation.
        seed: random seed of the request.
        line: number of the line, so that each line has random numbers of its own.
    """
    max_len = max(int(MAX_LEN_A * length + MAX_LEN_B), options.min_tokens)
    most = longest if options.max_tokens is None else min(options.max_tokens, longest)
    sampling = None
    if options.temperature > 0:
        words = f"{seed} {line}".encode()
        own = int.from_bytes(hashlib.sha256(words).digest()[:8], "little")
        topk = options.top_k if options.top_k > 0 else -1
        sampling = Sampling(options.temperature, topk, options.top_p, own)
    return SentenceRules(
        min(max_len, most),
        max(options.min_tokens, 1),
        options.repetition_penalty,
        options.logit_bias,
        sampling,
    )
