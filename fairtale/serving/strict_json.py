"""Read JSON strictly: what is ambiguous or no JSON is refused instead of guessed."""

from __future__ import annotations

import json
from typing import Any

from .errors import ApiError


def strict_json(body: bytes) -> Any:
    """Return the value of a JSON text in UTF-8.

    Raises:
        ApiError: it is no JSON; or it holds a name twice in one object, NaN, an infinite number, a
            number of more than 4,300 digits, or too many levels.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _refused(f"byte {error.start} is not UTF-8; send JSON in UTF-8") from None
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise _refused(f"{error.msg} (line {error.lineno}, column {error.colno})") from None
    except RecursionError:
        raise _refused("too many levels of brackets; a request needs fewer than ten") from None
    except ValueError:  # Python's limit on the digits of integers
        raise _refused("a number has more than 4,300 digits") from None


def _refused(why: str) -> ApiError:
    return ApiError(400, f"the body is not valid JSON: {why}", code="invalid_json")


def _no_constant(name: str) -> None:
    raise _refused(f"{name} is not a number of JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        last = {name: place for place, (name, _) in enumerate(pairs)}
        twice = next(name for place, (name, _) in enumerate(pairs) if last[name] > place)
        raise _refused(f"the name {twice[:40]!r} is given twice in an object")
    return found
