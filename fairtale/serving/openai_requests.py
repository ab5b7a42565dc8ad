"""Turn requests in OpenAI's format into requests of an engine.

A dialog's turns, a story's beginning and a sentence are made of a conversation's messages thus:

dialog       every message is a turn, also the first one of the role system; the last is the user's.
story        the messages, whatever their roles, are one text that is continued; a space comes
             between two where neither side has white space.
translation  the last message, which is the user's, is translated; earlier ones have no influence,
             and one of the role system is refused, because a translator takes no instructions.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from .errors import ApiError
from .interface import Engine, GenerationRequest, SamplingOptions
from .schema_types import MAX_CHOICES
from .schemas import ChatRequest, CompletionRequest, GenerateQuery, Message, Sampling

Kind = Literal["story", "dialog", "translation"]


@dataclass(frozen=True)
class Job:
    """The texts that one HTTP request asks for.

    Args:
        model: name of the model, as the client gave it.
        requests: a request for each text; those of one prompt follow each other.
        per_prompt: number of texts of each prompt.
        stream: whether the texts are sent as they are made.
        include_usage: whether a stream ends with the numbers of tokens.
        echoes: what precedes the text of each request.
        names: the engine's names of options -> those of the client.
    """

    model: str
    requests: tuple[GenerationRequest, ...]
    per_prompt: int = 1
    stream: bool = False
    include_usage: bool = False
    echoes: tuple[str, ...] = ()
    names: dict[str, str] = field(default_factory=dict)


def completion_job(body: CompletionRequest, engine: Engine) -> Job:
    """Return the texts that a request for completions asks for.

    Raises:
        ApiError: the options contradict each other, or the model cannot take the prompt.
    """
    options = _options(body, engine.kind, body.max_tokens, body.logprobs)
    options = replace(options, prompt_logprobs=bool(body.echo) and body.logprobs is not None)
    prompts = [prompt_of(text, engine.kind) for text in body.prompt]
    per_prompt = body.n or 1
    echoes = tuple(text for text in body.prompt for _ in range(per_prompt)) if body.echo else ()
    job = _job(body, prompts, options, engine)
    return replace(job, echoes=echoes, names={"prompt_logprobs": "echo"})


def chat_job(body: ChatRequest, engine: Engine) -> Job:
    """Return the texts that a request of a chat asks for.

    Raises:
        ApiError: the options contradict each other, or the model cannot take the messages.
    """
    if body.top_logprobs is not None and not body.logprobs:
        raise _refused(
            "top_logprobs",
            f"top_logprobs {body.top_logprobs}: needs logprobs; set logprobs to true",
        )
    most, newer = body.max_tokens, body.max_completion_tokens
    if None not in (most, newer) and most != newer:
        raise _refused(
            "max_tokens",
            f"max_tokens {most}: contradicts max_completion_tokens {newer}; give one of them",
        )
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    options = _options(body, engine.kind, most or newer, logprobs)
    job = _job(body, [conversation(body.messages, engine.kind)], options, engine)
    names = {"prompt": "messages", "logprobs": "top_logprobs"}
    if most is None:
        names["max_tokens"] = "max_completion_tokens"
    return replace(job, names=names)


def generate_job(query: GenerateQuery, model: str, engine: Engine) -> Job:
    """Return the text that ``/generate`` asks for.

    Raises:
        ApiError: the model cannot take the sentence.
    """
    prompt = prompt_of(query.sentence, engine.kind, "sentence")
    request = GenerationRequest(prompt, _sampling(query, engine.kind))
    return Job(model, (request,), names={"prompt": "sentence"})


def _job(
    body: Sampling,
    prompts: list[str | tuple[str, ...]],
    options: SamplingOptions,
    engine: Engine,
) -> Job:
    per_prompt = body.n or 1
    count, most = per_prompt * len(prompts), min(MAX_CHOICES, engine.limits.max_waiting)
    if count > most:
        raise _refused(
            "n",
            f"n {per_prompt}: with {len(prompts)} prompts this makes {count} texts, and a request "
            f"may ask for {most}; send several requests",
        )
    if body.stream_options is not None and not body.stream:
        raise _refused(
            "stream_options", "stream_options: needs stream; leave it out, or set stream to true"
        )
    choices = [_seeded(options, number) for number in range(per_prompt)]
    return Job(
        model=body.model,
        requests=tuple(GenerationRequest(p, choice) for p in prompts for choice in choices),
        per_prompt=per_prompt,
        stream=bool(body.stream),
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
    )


def _seeded(options: SamplingOptions, number: int) -> SamplingOptions:
    """Return the options of choice ``number`` of several."""
    if options.seed is None or not number:
        return options
    return replace(options, seed=(options.seed + number + 2**63) % 2**64 - 2**63)


def _options(
    body: Sampling, kind: Kind, max_tokens: int | None, logprobs: int | None
) -> SamplingOptions:
    least = body.min_tokens or 0
    if max_tokens is not None and least > max_tokens:
        raise _refused(
            "min_tokens",
            f"min_tokens {least}: is above max_tokens {max_tokens}; lower it",
        )
    return replace(
        _sampling(body, kind),
        max_tokens=max_tokens,
        min_tokens=least,
        stop=tuple(body.stop or ()),
        logprobs=logprobs,
        repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
        logit_bias={int(token): float(bias) for token, bias in (body.logit_bias or {}).items()},
    )


def _sampling(body: Sampling | GenerateQuery, kind: Kind) -> SamplingOptions:
    temperature = default_temperature(kind) if body.temperature is None else body.temperature
    return SamplingOptions(
        max_tokens=body.max_tokens,
        temperature=float(temperature),
        top_p=1.0 if body.top_p is None else float(body.top_p),
        top_k=-1 if body.top_k is None else body.top_k,
        seed=body.seed,
    )


def default_temperature(kind: Kind) -> float:
    """Return the temperature of a request that gives none: a translation is not drawn by lot."""
    return 0.0 if kind == "translation" else 1.0


def prompt_of(text: str, kind: Kind, param: str = "prompt") -> str | tuple[str, ...]:
    """Return the prompt of an engine from one text.

    Args:
        text: a story's beginning, a sentence, or the turns of a dialog, separated by tabs.
        kind: what the model does with it.
        param: name of the field that holds the text.

    Raises:
        ApiError: the model needs a text, and there is none.
    """
    if kind == "story":
        return text
    if kind == "translation":
        _need_text(text, param, "a sentence to translate")
        return text
    turns = tuple(text.split("\t"))
    for turn in turns:
        _need_text(turn, param, "a dialog's turn")
    return turns


def conversation(messages: list[Message], kind: Kind) -> str | tuple[str, ...]:
    """Return the prompt of an engine from the messages of a chat; see the head of this module.

    Raises:
        ApiError: the model cannot go on with these messages.
    """
    if kind == "story":
        return _joined([message.text for message in messages])
    last = f"messages[{len(messages) - 1}]"
    if messages[-1].role != "user":
        raise _refused(
            f"{last}.role",
            f"{last}.role {messages[-1].role!r}: the last message must be the user's; add one",
        )
    if kind == "translation":
        for number, message in enumerate(messages):
            if message.role in ("system", "developer"):
                raise _refused(
                    f"messages[{number}].role",
                    f"messages[{number}].role {message.role!r}: a translation model takes no "
                    "instructions; leave the message out",
                )
        _need_text(messages[-1].text, f"{last}.content", "a sentence to translate")
        return messages[-1].text
    for number, message in enumerate(messages):
        _need_text(message.text, f"messages[{number}].content", "a dialog's turn")
    return tuple(message.text for message in messages)


def _joined(texts: list[str]) -> str:
    whole = ""
    for text in texts:
        apart = whole and text and not (whole[-1].isspace() or text[0].isspace())
        whole += f" {text}" if apart else text
    return whole


def _need_text(text: str, param: str, what: str) -> None:
    if not text.strip():
        raise _refused(param, f"{param} {text[:20]!r}: {what} must not be empty; write something")


def _refused(param: str, message: str) -> ApiError:
    return ApiError(400, message, param, "invalid_value")
