"""Check the options of a request, with the same rules for every engine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NoReturn

from .interface import RequestError, SamplingOptions

MAX_STOPS = 16  # strings
MAX_STOP_LENGTH = 256  # characters
MAX_LOGPROBS = 20
MAX_BIASES = 1024
BIAS_RANGE = 100.0


def refuse(param: str, value: Any, rule: str) -> NoReturn:
    """Refuse a request for the value of one of its options.

    Args:
        param: name of the option.
        value: what was given.
        rule: the rule and the remedy.

    Raises:
        RequestError: always.
    """
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    raise RequestError(f"{param} {shown}: {rule}", param)


def check_options(options: SamplingOptions, vocab_size: int) -> None:
    """Refuse options that are out of range for every model.

    Args:
        options: options of the request.
        vocab_size: V; tokens are numbered from 0.

    Raises:
        RequestError: an option breaks a rule.
    """
    for param, value, holds, rule in _ranges(options):
        if not holds:
            refuse(param, value, rule)
    least, most = options.min_tokens, options.max_tokens
    if most is not None and least > most:
        refuse("min_tokens", least, f"must not be above max_tokens, which is {most}")
    _check_stops(options.stop)
    if len(options.logit_bias) > MAX_BIASES:
        count = len(options.logit_bias)
        raise RequestError(
            f"logit_bias with {count} tokens: give at most {MAX_BIASES}", "logit_bias"
        )
    for token, bias in options.logit_bias.items():
        if not 0 <= token < vocab_size:
            refuse("logit_bias", token, f"must be a token of the model, 0 to {vocab_size - 1}")
        if not -BIAS_RANGE <= bias <= BIAS_RANGE:
            refuse("logit_bias", bias, f"must be from {-BIAS_RANGE:g} to {BIAS_RANGE:g}")


def _ranges(options: SamplingOptions) -> Iterator[tuple[str, Any, bool, str]]:
    """Yield name, value, whether the value is in its range, and the rule."""
    most, temperature = options.max_tokens, options.temperature
    yield "max_tokens", most, most is None or most >= 1, "must be at least 1"
    yield "min_tokens", options.min_tokens, options.min_tokens >= 0, "must not be negative"
    in_range = 0 <= temperature < math.inf
    yield "temperature", temperature, in_range, "must be 0 (greedy) or above, and finite"
    yield "top_p", options.top_p, 0 < options.top_p <= 1, "must be above 0 and at most 1"
    yield "top_k", options.top_k, options.top_k >= -1, "must be at least 1, or -1 for all tokens"
    seed = options.seed
    in_range = seed is None or -(1 << 63) <= seed < 1 << 64
    yield "seed", seed, in_range, "must be a 64-bit integer"
    count = options.logprobs
    in_range = count is None or 0 <= count <= MAX_LOGPROBS
    yield "logprobs", count, in_range, f"must be from 0 to {MAX_LOGPROBS}"
    penalty = options.repetition_penalty
    yield "repetition_penalty", penalty, 0 < penalty < math.inf, "must be above 0 and finite"


def _check_stops(stops: tuple[str, ...]) -> None:
    if len(stops) > MAX_STOPS:
        raise RequestError(f"stop with {len(stops)} strings: give at most {MAX_STOPS}", "stop")
    for stop in stops:
        if not 1 <= len(stop) <= MAX_STOP_LENGTH:
            refuse("stop", stop, f"each string must have 1 to {MAX_STOP_LENGTH} characters")
