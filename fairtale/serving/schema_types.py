"""Types of the fields of requests: texts, stop strings, and options that must be neutral."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, GetPydanticSchema, WithJsonSchema
from pydantic_core import PydanticCustomError, core_schema

# The control characters of Unicode (Cc) except tab and line ends.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
TEXT_PATTERN = r"^[^\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]*$"

MAX_STOPS = 16
MAX_STOP_LENGTH = 256  # characters
MAX_CHOICES = 128  # texts of one request
MAX_LOGPROBS = 20
MAX_BIASES = 1024


def check_text(text: str) -> str:
    """Refuse characters that are no text.

    Raises:
        PydanticCustomError: there is a control character or a lone surrogate.
    """
    found = _CONTROL.search(text)
    if found:
        raise _error(
            f"character {found.start()} is the control character U+{ord(found[0]):04X}; only tabs "
            "and line ends are accepted: remove it"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _error(
            f"character {error.start} is half of a surrogate pair, U+{ord(text[error.start]):04X}, "
            "and no character: send text as UTF-8"
        ) from None
    return text


def _error(message: str) -> PydanticCustomError:
    return PydanticCustomError("rule", "{message}", {"message": message})  # braces stay untouched


def _raw_text(value: Any) -> str:
    # pydantic's own message for a string with a lone surrogate does not say what is wrong with it
    if not isinstance(value, str):
        raise _error("must be a string")
    return check_text(value)


TEXT_SCHEMA = {"type": "string", "pattern": TEXT_PATTERN}
Text = Annotated[
    str,
    GetPydanticSchema(
        lambda _source, _handler: core_schema.no_info_plain_validator_function(_raw_text)
    ),
    WithJsonSchema(TEXT_SCHEMA),
]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _no_token_ids(value: Any) -> Any:
    if isinstance(value, list) and value and all(isinstance(x, int | list) for x in value):
        raise _error("arrays of token ids are not accepted; send text")
    return _as_list(value)


Prompts = Annotated[
    list[Text],
    Field(min_length=1, max_length=MAX_CHOICES),
    BeforeValidator(_no_token_ids),
    WithJsonSchema(
        {
            "anyOf": [
                TEXT_SCHEMA,
                {
                    "type": "array",
                    "items": TEXT_SCHEMA,
                    "minItems": 1,
                    "maxItems": MAX_CHOICES,
                },
            ]
        }
    ),
]


def _check_stops(stops: list[str]) -> list[str]:
    for stop in stops:
        if not 1 <= len(stop) <= MAX_STOP_LENGTH:
            raise _error(
                f"a string of {len(stop)} characters; each must have 1 to {MAX_STOP_LENGTH}"
            )
    return stops


_STOP_SCHEMA = {**TEXT_SCHEMA, "minLength": 1, "maxLength": MAX_STOP_LENGTH}
Stops = Annotated[
    list[Text],
    Field(max_length=MAX_STOPS),
    AfterValidator(_check_stops),
    BeforeValidator(_as_list),
    WithJsonSchema(
        {"anyOf": [_STOP_SCHEMA, {"type": "array", "items": _STOP_SCHEMA, "maxItems": MAX_STOPS}]}
    ),
]


def _check_biases(biases: dict[str, float]) -> dict[str, float]:
    for token, bias in biases.items():
        if not re.fullmatch(r"[0-9]{1,9}", token):
            raise _error(f"the name {token[:40]!r} is not the id of a token, such as '42'")
        if not -100 <= bias <= 100:
            raise _error(f"{bias} for token {token}; a bias must be between -100 and 100")
    return biases


LogitBias = Annotated[
    dict[str, float],
    Field(max_length=MAX_BIASES),
    AfterValidator(_check_biases),
    WithJsonSchema(
        {
            "type": "object",
            "patternProperties": {
                "^[0-9]{1,9}$": {"type": "number", "minimum": -100, "maximum": 100}
            },
            "additionalProperties": False,
            "maxProperties": MAX_BIASES,
        }
    ),
]


def neutral(*values: Any) -> Any:
    """Return the type of a field that this service lacks, which may only have these values.

    Clients send such fields with their neutral values; another value would be ignored silently.
    """

    def check(value: Any) -> Any:
        allowed = (None, *values)
        if not any(type(value) is type(one) and value == one for one in allowed):
            raise _error("this service does not have the option; leave it out")
        return value

    return Annotated[Any, AfterValidator(check), WithJsonSchema({"enum": [*values, None]})]
