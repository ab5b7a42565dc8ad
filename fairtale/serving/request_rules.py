"""Check the options and the prompts of requests, whichever way they come."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from ..generation.row_sampling import MAX_LOGPROBS
from .interface import RequestError, SamplingOptions

MAX_STOP_STRINGS = 16
MAX_STOP_LENGTH = 256  # characters of a stop string
MAX_BIASES = 1024  # tokens with a logit_bias
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_LONGEST_VALUE = 80  # characters of a value in a message


class _Rule(NamedTuple):
    param: str
    holds: Callable[[SamplingOptions], bool]
    message: str  # the rule and the remedy


_RULES = (
    _Rule(
        "max_tokens",
        lambda o: o.max_tokens is None or o.max_tokens >= (not o.prompt_logprobs),
        "must be at least 1, or 0 together with echo and logprobs; leave it out for as many as the "
        "model allows",
    ),
    _Rule("min_tokens", lambda o: o.min_tokens >= 0, "must not be negative; 0 is no minimum"),
    _Rule(
        "min_tokens",
        lambda o: o.max_tokens is None or o.min_tokens <= o.max_tokens,
        "must not exceed max_tokens: lower it, or raise max_tokens",
    ),
    _Rule(
        "temperature",
        lambda o: 0 <= o.temperature < math.inf,
        "must be a finite number of at least 0; 0 is greedy",
    ),
    _Rule("top_p", lambda o: 0 < o.top_p <= 1, "must be above 0 and at most 1; 1 is off"),
    _Rule("top_k", lambda o: o.top_k >= -1, "must be at least 1, or -1 or 0 for all tokens"),
    _Rule(
        "seed",
        lambda o: o.seed is None or -(1 << 63) <= o.seed < 1 << 64,
        "must be an integer of 64 bits",
    ),
    _Rule(
        "repetition_penalty",
        lambda o: 0.01 <= o.repetition_penalty <= 100,
        "must be from 0.01 to 100; 1 is off, and above 1 repeats less",
    ),
    _Rule(
        "logprobs",
        lambda o: o.logprobs is None or 0 <= o.logprobs <= MAX_LOGPROBS,
        f"must be from 0 to {MAX_LOGPROBS}; leave it out for none",
    ),
    _Rule(
        "prompt_logprobs",
        lambda o: not o.prompt_logprobs or o.logprobs is not None,
        "needs logprobs; give them a number",
    ),
)


def check_options(options: SamplingOptions, num_tokens: int) -> None:
    """Refuse options that break a rule for every prompt.

    Args:
        options: options of a request.
        num_tokens: number of tokens that the model can predict.

    Raises:
        RequestError: a rule is broken; the message has option, value, rule and remedy.
    """
    for rule in _RULES:
        if not rule.holds(options):
            value = getattr(options, rule.param)
            raise RequestError(f"{rule.param} {value}: {rule.message}", rule.param)
    _check_stop(options.stop)
    biases = options.logit_bias
    if len(biases) > MAX_BIASES:
        raise RequestError(
            f"logit_bias with {len(biases)} tokens: at most {MAX_BIASES} tokens can have one; "
            "leave out the smallest",
            "logit_bias",
        )
    for token, value in biases.items():
        if not 0 <= token < num_tokens:
            raise RequestError(
                f"logit_bias of token {token}: the model has the tokens 0 to {num_tokens - 1}; "
                "leave it out",
                "logit_bias",
            )
        if not -100 <= value <= 100:
            raise RequestError(
                f"logit_bias {value} of token {token}: must be from -100 to 100", "logit_bias"
            )


def _check_stop(stop: tuple[str, ...]) -> None:
    if len(stop) > MAX_STOP_STRINGS:
        raise RequestError(
            f"stop with {len(stop)} strings: at most {MAX_STOP_STRINGS} are possible; leave some "
            "out",
            "stop",
        )
    for string in stop:
        if not string:
            raise RequestError("stop '': an empty string is in every text; leave it out", "stop")
        if len(string) > MAX_STOP_LENGTH:
            raise RequestError(
                f"stop with a string of {len(string)} characters: at most {MAX_STOP_LENGTH} are "
                "possible; a shorter beginning of it does the same",
                "stop",
            )
        check_text(string, "stop")


def check_text(text: str, param: str) -> None:
    """Refuse a text that no tokenizer takes.

    Args:
        text: a prompt, a turn of a dialog, or a stop string.
        param: name of the field, for the error.

    Raises:
        RequestError: the text has half of a surrogate pair or a control character.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = f"U+{ord(text[error.start]):04X}"
        raise RequestError(
            f"{param}: character {error.start + 1} is {code}, half of a surrogate pair, which is "
            "no text: send valid Unicode",
            param,
        ) from None
    if found := _CONTROL.search(text):
        raise RequestError(
            f"{param}: character {found.start() + 1} is the control character "
            f"U+{ord(found[0]):04X}; only tabs and line ends are possible: remove it",
            param,
        )


def tokens_beside_prompt(options: SamplingOptions, length: int, positions: int) -> int:
    """Return the maximum number of tokens of a text that shares positions with its prompt.

    Args:
        options: options of the request.
        length: number of tokens of the prompt.
        positions: number of tokens of a prompt and its text together.

    Raises:
        RequestError: the prompt leaves no room, or not as much as the options ask for.
    """
    rule = f"the model has {positions} positions, and the prompt takes {length}"
    if length > positions - (options.max_tokens != 0):
        raise RequestError(f"prompt of {length} tokens: {rule}: shorten it", "prompt")
    return tokens_within(options, positions - length, rule, " or shorten the prompt")


def tokens_within(options: SamplingOptions, room: int, rule: str, remedy: str = "") -> int:
    """Return the maximum number of tokens of a text.

    Args:
        options: options of the request.
        room: number of tokens that are possible.
        rule: why they are no more.
        remedy: what to do instead of lowering an option.

    Raises:
        RequestError: the options ask for more.
    """
    for name in ("max_tokens", "min_tokens"):
        value = getattr(options, name)
        if value is not None and value > room:
            refuse(
                name,
                value,
                f"at most {room} new tokens are possible here; {rule}: lower {name}{remedy}",
            )
    return room if options.max_tokens is None else options.max_tokens


def refuse_prompt_logprobs(rule: str) -> NoReturn:
    """Refuse the log-probabilities of a prompt, by the names that clients know.

    Raises:
        RequestError: always.
    """
    raise RequestError(f"echo with logprobs: {rule}; leave one of the two out", "prompt_logprobs")


def refuse(param: str, value: object, rule: str) -> NoReturn:
    """Refuse a request for the value of one of its options.

    Args:
        param: name of the option.
        value: its value.
        rule: the rule and the remedy.

    Raises:
        RequestError: always.
    """
    raise RequestError(f"{param} {shortened(value)}: {rule}", param)


def shortened(value: object) -> str:
    """Return a value as it is shown in a message, in one line and not too long."""
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."
