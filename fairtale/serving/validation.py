"""Turn pydantic's errors into one line that names option, value, rule and remedy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from .errors import ApiError

_MAX_NAMED = 5  # errors in one message
_MAX_VALUE = 60  # characters of a value that a message repeats
# pydantic's words -> ours
_WORDS = {
    "Input should be": "must be",
    "List should have": "must have",
    "Dictionary should have": "must have",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "greater than": "above",
    "less than": "below",
    " after validation,": ",",
}


def validation_error(errors: Sequence[Any]) -> ApiError:
    """Return the answer to a request that breaks the schema.

    Args:
        errors: pydantic's or FastAPI's descriptions of the errors.
    """
    ordered = sorted(errors, key=lambda error: error["type"] == "missing")
    lines = [_describe(error) for error in ordered[:_MAX_NAMED]]
    if len(ordered) > _MAX_NAMED:
        lines.append(f"and {len(ordered) - _MAX_NAMED} further errors")
    if any(error["type"] != "rule" for error in ordered):
        lines.append("GET /docs describes the options")
    code = "unknown_field" if ordered[0]["type"] == "extra_forbidden" else "invalid_value"
    return ApiError(400, "; ".join(lines), _name(ordered[0]) or None, code)


def _name(error: Any) -> str:
    """Return the path to a field, such as ``messages[0].content``."""
    path = ""
    for step in error["loc"]:
        if isinstance(step, int):
            path += f"[{step}]"
        elif step not in ("body", "query"):
            path += f".{step[:_MAX_VALUE]}" if path else step[:_MAX_VALUE]
    return path


def _describe(error: Any) -> str:
    name, kind = _name(error), error["type"]
    if kind == "missing":
        return f"{name}: is missing; give it" if name else "the body is empty; send a JSON object"
    if kind == "extra_forbidden":
        return f"{name}: no such option; leave it out"
    rule = str(error["msg"])
    for theirs, ours in _WORDS.items():
        rule = rule.replace(theirs, ours)
    if kind in ("model_attributes_type", "model_type", "dict_type"):
        rule = "must be a JSON object"
    if kind == "string_unicode":
        rule = "must be text in UTF-8, without halves of surrogate pairs"
    value = _shown(error.get("input"))
    return f"{' '.join(filter(None, (name or 'the body', value)))}: {rule}"


def _shown(value: Any) -> str:
    """Return a short value as JSON; lists and objects are not repeated."""
    if isinstance(value, dict | list | bytes):
        return ""
    if isinstance(value, int) and abs(value) >= 10**_MAX_VALUE:
        return f"of more than {_MAX_VALUE} digits"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _MAX_VALUE else f"{text[:_MAX_VALUE]}..."
