"""Ask for the service's key on every route but ``/health``."""

from __future__ import annotations

import base64
import binascii
import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from .errors import ApiError, send_error

OPEN_PATHS = frozenset({"/health"})
BROWSER_PATHS = frozenset({"/", "/docs"})  # where a browser asks its user for the key


class KeyMiddleware:
    """Refuse requests without the key.

    Programs send ``Authorization: Bearer KEY``, as OpenAI's clients do. A browser that opens the
    page asks its user, and sends the key as the password of HTTP's basic scheme with any name.

    Args:
        app: the application.
        key: the key.
    """

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or self._knows(scope):
            await self._app(scope, receive, send)
            return
        asked = 'Bearer realm="fairtale"'
        if scope["path"] in BROWSER_PATHS:
            # alone, because Chromium reads only the first of several challenges in a header
            asked = 'Basic realm="fairtale: any name, and the key as password"'
        message = "the key of this service is missing or wrong; send 'Authorization: Bearer KEY'"
        headers = {"WWW-Authenticate": asked}
        error = ApiError(401, message, code="invalid_api_key", headers=headers)
        await send_error(send, error, close=True)

    def _knows(self, scope: Scope) -> bool:
        given = _key_in(Headers(scope=scope).get("authorization", ""))
        return hmac.compare_digest(given, self._key)  # takes as long for every wrong key


def _key_in(authorization: str) -> bytes:
    """Return the key in a header, or nothing if there is none."""
    scheme, _, value = authorization.strip().partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode("latin-1")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return b""
