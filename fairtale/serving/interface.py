"""Declare what the HTTP service and its engines know of each other.

An engine generates texts for one checkpoint. The HTTP layer translates between the network and an
engine, and knows nothing of models. This module imports neither torch nor a web framework.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from ..errors import UserError

FinishReason = Literal["stop", "length", "cancelled", "error"]


class RequestError(UserError):
    """A request that the engine refuses; the message names option, value, rule and remedy.

    Args:
        message: one line for the client.
        param: the field of the request that is wrong, such as ``max_tokens``; None for none.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class Overloaded(Exception):
    """The queue is full (HTTP 429).

    Args:
        message: one line for the client, with the limit that was reached.
        retry_after: seconds after which a further try is likely to succeed.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ShuttingDown(Exception):
    """The engine finishes what runs and accepts no more requests (HTTP 503)."""


@dataclass(frozen=True)
class SamplingOptions:
    """Options of one text, with the names and meanings of OpenAI's format and of vLLM.

    An engine checks the ranges in :meth:`Engine.submit`, so that every way in has the same rules.

    Args:
        max_tokens: maximum number of new tokens, at least 1, or 0 with ``prompt_logprobs``; None
            for as many as the model allows.
        min_tokens: minimum number of new tokens before the text may end.
        temperature: divisor of the logits; 0 is greedy.
        top_p: probability of the nucleus, in (0, 1]; 1 means all tokens.
        top_k: number of the most probable tokens to choose from; -1 or 0 means all tokens.
        seed: random seed; None for a different text each time.
        stop: the text ends before the first of these strings.
        logprobs: report the log-probability of each token and of this many of the most probable
            ones; None reports nothing.
        prompt_logprobs: report the same of the prompt's tokens; needs ``logprobs``.
        repetition_penalty: divides positive and multiplies negative logits of the tokens that the
            prompt or the text contains (Keskar et al. 2019, section 4.1); 1 changes nothing.
        logit_bias: token id -> value added to its logit, -100 to 100.
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    prompt_logprobs: bool = False
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class GenerationRequest:
    """A text to continue, a dialog to answer, or a sentence to translate.

    Args:
        prompt: the beginning of a story (which may be empty), a sentence, or the turns of a dialog,
            the newest last.
        options: options of the text.
    """

    prompt: str | tuple[str, ...]
    options: SamplingOptions = field(default_factory=SamplingOptions)


class TokenLogprob(NamedTuple):
    """A token with its log-probability before temperature, top-k and top-p."""

    token: str  # its text; tokens that hold a part of a character have a replacement character
    data: bytes  # its bytes in UTF-8
    logprob: float | None  # None for the first token of a prompt
    top: tuple[tuple[str, bytes, float], ...]  # the most probable tokens in the same form


class Delta(NamedTuple):
    """What a step adds to a text.

    The texts of all deltas of a request, joined, are its whole text: always whole characters, and
    never a part of a ``stop`` string. A delta may be empty except for its number of tokens.
    """

    text: str
    num_tokens: int  # generated since the last delta; an end mark counts
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None  # set in the last delta, and only there
    error: str | None = None  # the message for finish_reason "error"
    prompt: tuple[TokenLogprob, ...] | None = None  # of a request for it, set in one delta


class Limits(NamedTuple):
    """Limits of one engine, in tokens without BOS and EOS tokens, and in numbers of requests."""

    max_prompt_tokens: int
    max_new_tokens: int  # limit after the shortest prompt
    max_positions: int  # tokens of a prompt and its text together
    max_running: int  # rows of the running batch
    max_waiting: int  # requests in the queue
    max_waiting_tokens: int  # prompt and requested new tokens of the queue


class EngineStats(NamedTuple):
    """Numbers of one moment."""

    running: int
    waiting: int
    cache_used: float  # share of the preallocated cache, 0 to 1


class Ticket(Protocol):
    """An accepted request."""

    @property
    def prompt_tokens(self) -> int:
        """Return the number of tokens of the prompt."""
        ...

    def cancel(self) -> None:
        """Free the place of the request at the next step; harmless when it has ended."""
        ...


class Engine(Protocol):
    """Generate texts with one model; every method may be called from any thread."""

    @property
    def kind(self) -> Literal["story", "dialog", "translation"]:
        """Return what the model does with a prompt."""
        ...

    @property
    def limits(self) -> Limits:
        """Return the limits of requests."""
        ...

    def submit(self, request: GenerationRequest, deliver: Callable[[Delta], None]) -> Ticket:
        """Queue a request; the engine's thread calls ``deliver`` for every part of the text.

        ``deliver`` must return at once. It gets exactly one delta with a ``finish_reason``, the
        last one, also after :meth:`Ticket.cancel`.

        Raises:
            RequestError: the request breaks a rule, whoever else is served.
            Overloaded: the queue is full.
            ShuttingDown: the engine accepts no more requests.
        """
        ...

    def stats(self) -> EngineStats:
        """Return how many requests run and wait."""
        ...

    def unhealthy(self) -> str | None:
        """Return why the engine does not work (its thread is dead, or a step hangs), or None."""
        ...

    def describe(self) -> str:
        """Return one line for the start: device, dtype, rows, positions, memory of the cache."""
        ...

    def close(self, grace: float) -> None:
        """Refuse new requests, finish those that run or wait within ``grace`` seconds, and stop.

        Requests that are left then end with the reason "error". Returns when the thread has ended.
        A second call does nothing.
        """
        ...
