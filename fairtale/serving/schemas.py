"""The requests that the service accepts, in OpenAI's format; every other field is refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from .schema_types import (
    MAX_CHOICES,
    MAX_LOGPROBS,
    TEXT_SCHEMA,
    LogitBias,
    Prompts,
    Stops,
    Text,
    neutral,
)


class Strict(BaseModel):
    """An object without unknown fields, whose values are not converted from other types."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(Strict):
    """Options of a stream."""

    include_usage: bool | None = Field(None, description="send the numbers of tokens at the end")
    include_obfuscation: neutral(False) = None  # type: ignore[valid-type]


class Sampling(Strict):
    """Options that completions and chat share."""

    model: str = Field(description="name of a model, as GET /v1/models lists them")
    n: int | None = Field(
        None, ge=1, le=MAX_CHOICES, description="number of texts for each prompt (default: 1)"
    )
    temperature: float | None = Field(
        None,
        ge=0,
        le=2,
        description="divisor of the logits; 0 is greedy (default: 1, and 0 for translations)",
    )
    top_p: float | None = Field(
        None, gt=0, le=1, description="probability of the nucleus; 1 means all tokens (default: 1)"
    )
    top_k: int | None = Field(
        None,
        ge=-1,
        le=2**31 - 1,
        description="number of the most probable tokens to choose from; -1 or 0 means all "
        "(default: -1)",
    )
    max_tokens: int | None = Field(
        None,
        ge=1,
        le=2**31 - 1,
        description="maximum number of new tokens (default: what the model has room for)",
    )
    min_tokens: int | None = Field(
        None,
        ge=0,
        le=2**31 - 1,
        description="number of new tokens before the text may end (default: 0)",
    )
    stop: Stops | None = Field(None, description="the text ends before the first of these strings")
    seed: int | None = Field(
        None,
        ge=-(2**63),
        le=2**63 - 1,
        description="the same seed gives the same text; choice i of n has the seed plus i",
    )
    repetition_penalty: float | None = Field(
        None,
        gt=0,
        le=10,
        description="above 1, tokens of the prompt and the text become less probable (default: 1)",
    )
    logit_bias: LogitBias | None = Field(
        None, description="token id -> value that is added to its logit"
    )
    stream: bool | None = Field(None, description="send the text as it is made (default: false)")
    stream_options: StreamOptions | None = None
    user: Text | None = Field(None, description="accepted for OpenAI's clients; has no effect")
    frequency_penalty: neutral(0, 0.0) = None  # type: ignore[valid-type]
    presence_penalty: neutral(0, 0.0) = None  # type: ignore[valid-type]
    store: neutral(False) = None  # type: ignore[valid-type]
    metadata: neutral({}) = None  # type: ignore[valid-type]
    service_tier: neutral("auto", "default") = None  # type: ignore[valid-type]


class CompletionRequest(Sampling):
    """A text to continue, to answer or to translate."""

    prompt: Prompts = Field(
        description="the beginning of a story, which may be empty; a sentence to translate; or the "
        "turns of a dialog, separated by tabs"
    )
    logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_LOGPROBS,
        description="report log-probabilities of the tokens and of this many alternatives",
    )
    echo: bool | None = Field(
        None,
        description="begin the text with the prompt (default: false); with logprobs, those of the "
        "prompt's tokens come first",
    )
    max_tokens: int | None = Field(
        None,
        ge=0,
        le=2**31 - 1,
        description="maximum number of new tokens (default: what the model has room for); 0 only "
        "scores the prompt, with echo and logprobs",
    )
    best_of: neutral(1) = None  # type: ignore[valid-type]
    suffix: neutral("") = None  # type: ignore[valid-type]


class TextPart(Strict):
    """A part of a message's content."""

    type: Literal["text"]
    text: Text


def _as_parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


Content = Annotated[
    list[TextPart],
    Field(min_length=1),
    BeforeValidator(_as_parts),
    WithJsonSchema(
        {
            "anyOf": [
                TEXT_SCHEMA,
                {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"type": {"const": "text"}, "text": TEXT_SCHEMA},
                        "required": ["type", "text"],
                        "additionalProperties": False,
                    },
                    "minItems": 1,
                },
            ]
        }
    ),
]


class Message(Strict):
    """What somebody has said."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    name: neutral() = None  # type: ignore[valid-type]
    refusal: neutral() = None  # type: ignore[valid-type]
    annotations: neutral([]) = None  # type: ignore[valid-type]
    audio: neutral() = None  # type: ignore[valid-type]
    function_call: neutral() = None  # type: ignore[valid-type]
    tool_calls: neutral([]) = None  # type: ignore[valid-type]

    @property
    def text(self) -> str:
        """Return the content as one text."""
        return "".join(part.text for part in self.content)


class ChatRequest(Sampling):
    """A conversation to go on with."""

    messages: list[Message] = Field(min_length=1, max_length=10_000)
    max_completion_tokens: int | None = Field(
        None, ge=1, le=2**31 - 1, description="the newer name of max_tokens"
    )
    logprobs: bool | None = Field(
        None, description="report log-probabilities of the tokens (default: false)"
    )
    top_logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_LOGPROBS,
        description="report this many alternatives of each token; needs logprobs",
    )
    response_format: neutral({"type": "text"}) = None  # type: ignore[valid-type]
    modalities: neutral(["text"]) = None  # type: ignore[valid-type]
    tools: neutral([]) = None  # type: ignore[valid-type]
    tool_choice: neutral("none", "auto") = None  # type: ignore[valid-type]
    parallel_tool_calls: neutral(False, True) = None  # type: ignore[valid-type]
    functions: neutral([]) = None  # type: ignore[valid-type]
    reasoning_effort: neutral() = None  # type: ignore[valid-type]


class GenerateQuery(BaseModel):
    """The query of ``GET /generate``."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    sentence: Text = Field(description="as the prompt of /v1/completions")
    model: str | None = Field(None, description="name of a model (default: the first)")
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=2**31 - 1)
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
