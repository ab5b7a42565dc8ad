"""Report every error in OpenAI's format: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import Send

from ..errors import UserError, one_line
from .interface import Overloaded, RequestError, ShuttingDown

_LOG = logging.getLogger(__name__)
_MAX_MESSAGE = 1000  # characters; a message quotes parts of the request

# status -> type, as OpenAI's clients know them
_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable",
    504: "timeout_error",
}


class ApiError(Exception):
    """An answer that is not a text.

    Args:
        status: HTTP status.
        message: one line that names option, value, rule and remedy.
        param: the field of the request that is wrong; None for none.
        code: a word for programs; None for none.
        headers: further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """Return the JSON object that describes the error."""
        message = one_line(self.message)
        if len(message) > _MAX_MESSAGE:
            message = f"{message[:_MAX_MESSAGE]} ..."
        kind = _TYPES.get(self.status, "invalid_request_error")
        error = {"message": message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> Response:
        """Return the HTTP response."""
        return JsonResponse(self.body(), self.status, self.headers)


class JsonResponse(Response):
    """JSON in UTF-8.

    A lone surrogate, which UTF-8 cannot hold, is written as JSON's escape of it. NaN and infinite
    numbers, which JSON does not have, are refused.
    """

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return to_json(content)


def to_json(content: Any) -> bytes:
    """Return compact JSON in UTF-8."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


def api_error(error: Exception, names: Mapping[str, str] | None = None) -> ApiError:
    """Return what a client is told about an error; faults of the service are logged.

    Args:
        error: what :meth:`Engine.submit` or a route raised.
        names: the engine's names of options -> the client's names, where they differ.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UserError):
        param = error.param if isinstance(error, RequestError) else None
        return ApiError(400, str(error), (names or {}).get(param or "", param), "invalid_value")
    if isinstance(error, Overloaded):
        seconds = str(max(1, math.ceil(error.retry_after)))
        return ApiError(
            429,
            f"{error}; try again in {seconds} s",
            code="overloaded",
            headers={"Retry-After": seconds},
        )
    if isinstance(error, ShuttingDown):
        return shutting_down()
    _LOG.error("a request has failed", exc_info=error)
    return ApiError(500, "an error inside the service; its log has the details", code="internal")


def shutting_down() -> ApiError:
    """Return the answer of a service that finishes its last requests."""
    return ApiError(
        503,
        "the service is stopping; try again when it has been restarted",
        code="shutting_down",
        headers={"Retry-After": "5", "Connection": "close"},
    )


async def send_error(send: Send, error: ApiError, close: bool = False) -> None:
    """Send an error from a middleware.

    Args:
        send: ASGI's ``send``.
        error: the error.
        close: whether the connection ends, because the rest of the request was not read.
    """
    if close:
        error.headers["Connection"] = "close"
    response = error.response()
    start = {"type": "http.response.start", "status": error.status, "headers": response.raw_headers}
    await send(start)
    await send({"type": "http.response.body", "body": response.body})
