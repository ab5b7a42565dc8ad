"""Write texts in OpenAI's format, as a whole or as the chunks of a stream."""

from __future__ import annotations

import codecs
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from .interface import Delta, TokenLogprob
from .openai_requests import Job

_LOWEST = -9999.0  # stands for the logarithm of 0, which JSON does not have


def _finite(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, _LOWEST)


class TextBuilder:
    """The parts of one text so far, joined."""

    def __init__(self, echo: str = "") -> None:
        self._texts = [echo]
        self.of_prompt: tuple[TokenLogprob, ...] = ()
        self.logprobs: list[TokenLogprob] = []
        self.num_tokens = 0
        self.finish_reason: str | None = None

    def add(self, delta: Delta) -> None:
        """Append what a step has added."""
        self._texts.append(delta.text)
        self.of_prompt = delta.prompt or self.of_prompt
        self.logprobs += delta.logprobs
        self.num_tokens += delta.num_tokens
        self.finish_reason = delta.finish_reason

    @property
    def text(self) -> str:
        """Return the text."""
        return "".join(self._texts)


class Reply(ABC):
    """The answer to one request.

    Args:
        job: the texts.
    """

    prefix: str  # of the ids of answers
    whole_object: str
    chunk_object: str

    def __init__(self, job: Job) -> None:
        self.job = job
        self._base = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": job.model,
        }
        self.builders = [TextBuilder(echo) for echo in job.echoes or [""] * len(job.requests)]

    @abstractmethod
    def choice(self, index: int, builder: TextBuilder) -> dict[str, Any]:
        """Return a whole text."""

    @abstractmethod
    def chunks_before(self, index: int) -> Iterator[dict[str, Any]]:
        """Yield the choices of chunks that precede the first delta of a text."""

    @abstractmethod
    def chunk_choice(self, index: int, delta: Delta) -> dict[str, Any]:
        """Return the choice of a chunk."""

    def usage(self, prompt_tokens: Sequence[int]) -> dict[str, int]:
        """Return the numbers of tokens; a prompt counts once, however many texts it has."""
        prompt = sum(prompt_tokens[:: self.job.per_prompt])
        made = sum(builder.num_tokens for builder in self.builders)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": made,
            "total_tokens": prompt + made,
        }

    def whole(self, prompt_tokens: Sequence[int]) -> dict[str, Any]:
        """Return the answer of a request without ``stream``."""
        return {
            **self._base,
            "object": self.whole_object,
            "choices": [self.choice(i, builder) for i, builder in enumerate(self.builders)],
            "usage": self.usage(prompt_tokens),
        }

    def first_chunks(self) -> Iterator[dict[str, Any]]:
        """Yield the chunks that precede all deltas."""
        for index in range(len(self.builders)):
            for choice in self.chunks_before(index):
                yield self._chunk([choice])

    def chunk(self, index: int, delta: Delta) -> dict[str, Any] | None:
        """Return the chunk for a delta, or None if the client would see nothing of it."""
        # without what may be large, and is sent
        self.builders[index].add(delta._replace(logprobs=(), prompt=None))
        if not (delta.text or delta.logprobs or delta.finish_reason or delta.prompt is not None):
            return None
        return self._chunk([self.chunk_choice(index, delta)])

    def usage_chunk(self, prompt_tokens: Sequence[int]) -> dict[str, Any]:
        """Return the last chunk of a stream with ``include_usage``."""
        return {**self._chunk([]), "usage": self.usage(prompt_tokens)}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chunk = {**self._base, "object": self.chunk_object, "choices": choices}
        if self.job.include_usage:
            chunk["usage"] = None
        return chunk


class CompletionReply(Reply):
    """The answer of ``/v1/completions``."""

    prefix = "cmpl"
    whole_object = chunk_object = "text_completion"

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._echoes = [builder.text for builder in self.builders]
        self._offsets = [TextOffsets(len(echo)) for echo in self._echoes]

    def choice(self, index: int, builder: TextBuilder) -> dict[str, Any]:
        """Return a whole text."""
        of_prompt, logprobs = builder.of_prompt, builder.logprobs
        return self._choice(index, builder.text, of_prompt, logprobs, builder.finish_reason)

    def chunks_before(self, index: int) -> Iterator[dict[str, Any]]:
        """Yield the prompt, if it is echoed without log-probabilities, which take time."""
        echo = self._echoes[index]
        if echo and not self.job.requests[index].options.prompt_logprobs:
            yield self._choice(index, echo, (), (), None)

    def chunk_choice(self, index: int, delta: Delta) -> dict[str, Any]:
        """Return the choice of a chunk."""
        text = delta.text if delta.prompt is None else self._echoes[index] + delta.text
        of_prompt, logprobs = delta.prompt or (), delta.logprobs
        return self._choice(index, text, of_prompt, logprobs, delta.finish_reason)

    def _choice(
        self,
        index: int,
        text: str,
        of_prompt: Sequence[TokenLogprob],
        logprobs: Sequence[TokenLogprob],
        finish: str | None,
    ) -> dict[str, Any]:
        asked = self.job.requests[index].options.logprobs
        found = None
        if asked is not None:
            found = _logprobs_of([*of_prompt, *logprobs], with_top=asked > 0)
            # tokens of a prompt may begin with a space that the prompt does not have
            before, echo = TextOffsets(), len(self._echoes[index])
            own = [before.next(token.data) for token in of_prompt]
            own = [max(0, offset + echo - before.count) for offset in own]
            offsets = self._offsets[index]
            found["text_offset"] = [*own, *(offsets.next(token.data) for token in logprobs)]
        return {"index": index, "text": text, "logprobs": found, "finish_reason": finish}


def _logprobs_of(tokens: Sequence[TokenLogprob], with_top: bool) -> dict[str, Any]:
    top = [
        None if token.logprob is None else {text: _finite(value) for text, _, value in token.top}
        for token in tokens
    ]
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [_finite(token.logprob) for token in tokens],
        "top_logprobs": top if with_top else None,
    }


class TextOffsets:
    """Count the characters before each token of a text, some of which hold parts of characters.

    Args:
        count: number of characters before the next token.
    """

    def __init__(self, count: int = 0) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.count = count

    def next(self, data: bytes) -> int:
        """Return the number of whole characters before the token of these bytes."""
        offset = self.count
        self.count += len(self._decoder.decode(data))
        return offset


class ChatReply(Reply):
    """The answer of ``/v1/chat/completions``."""

    prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def choice(self, index: int, builder: TextBuilder) -> dict[str, Any]:
        """Return a whole text as a message."""
        message = {"role": "assistant", "content": builder.text}
        return self._choice(index, "message", message, builder.logprobs, builder.finish_reason)

    def chunks_before(self, index: int) -> Iterator[dict[str, Any]]:
        """Yield the role of the message."""
        yield self._choice(index, "delta", {"role": "assistant", "content": ""}, (), None)

    def chunk_choice(self, index: int, delta: Delta) -> dict[str, Any]:
        """Return the choice of a chunk."""
        content = {"content": delta.text} if delta.text else {}
        return self._choice(index, "delta", content, delta.logprobs, delta.finish_reason)

    def _choice(
        self,
        index: int,
        name: str,
        content: dict[str, str],
        tokens: Sequence[TokenLogprob],
        finish: str | None,
    ) -> dict[str, Any]:
        asked = self.job.requests[index].options.logprobs is not None
        logprobs = {"content": [_token(token) for token in tokens]} if asked else None
        return {"index": index, name: content, "logprobs": logprobs, "finish_reason": finish}


def _token(token: TokenLogprob) -> dict[str, Any]:
    own = _alternative(token.token, token.data, token.logprob)
    return {**own, "top_logprobs": [_alternative(*other) for other in token.top]}


def _alternative(text: str, data: bytes, logprob: float | None) -> dict[str, Any]:
    return {"token": text, "logprob": _finite(logprob), "bytes": list(data)}


class PlainReply(ChatReply):
    """The answer of ``/generate``.

    Args:
        job: one text.
        sentence: what the client gave.
    """

    def __init__(self, job: Job, sentence: str) -> None:
        super().__init__(job)
        self._sentence = sentence

    def whole(self, prompt_tokens: Sequence[int]) -> dict[str, Any]:
        """Return the answer."""
        return {"input": self._sentence, "response": self.builders[0].text}
