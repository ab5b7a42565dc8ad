"""The forms of answers, for the OpenAPI document."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Finish = Literal["stop", "length"] | None


class Object(BaseModel):
    """An object without further fields."""

    model_config = ConfigDict(extra="forbid")


class ErrorDetail(Object):
    """What is wrong, and what to do."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(Object):
    """Every answer with a status of 400 and above."""

    error: ErrorDetail


class Usage(Object):
    """Numbers of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionLogprobs(Object):
    """Log-probabilities of the tokens of a completion."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(Object):
    """A text."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Finish


class CompletionObject(Object):
    """The answer of POST /v1/completions."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


class Alternative(Object):
    """A token that was probable."""

    token: str
    logprob: float
    bytes: list[int]


class TokenDetail(Alternative):
    """A token of a message."""

    top_logprobs: list[Alternative]


class ChatLogprobs(Object):
    """Log-probabilities of the tokens of a message."""

    content: list[TokenDetail]


class ReplyMessage(Object):
    """A message."""

    role: Literal["assistant"]
    content: str


class ChatChoice(Object):
    """A message of several."""

    index: int
    message: ReplyMessage
    logprobs: ChatLogprobs | None
    finish_reason: Finish


class ChatObject(Object):
    """The answer of POST /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class ModelObject(Object):
    """A model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    kind: Literal["story", "dialog", "translation"]
    max_model_len: int
    max_prompt_tokens: int
    max_new_tokens: int


class ModelList(Object):
    """The answer of GET /v1/models."""

    object: Literal["list"]
    data: list[ModelObject]


class GenerateReply(Object):
    """The answer of GET /generate."""

    input: str
    response: str


class Health(Object):
    """The answer of GET /health of a service that works."""

    status: Literal["ok"]
