"""Limit the size and the time of a request's body, and the number of requests."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError, send_error

_MAX_DISCARDED = 64 * 2**20  # bytes of a body that is too long


class _HungUp(Exception):
    """The client has gone before the end of its request."""


class BodyMiddleware:
    """Read the whole body before the application sees a request.

    A body that is too long is read on, and thrown away, for a while: many clients look for an
    answer only when they have sent everything.

    Args:
        app: the application.
        max_bytes: maximum length of a body.
        seconds: time that a client has to send it.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its body, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._seconds):
                body = await self._read(Headers(scope=scope), receive)
        except TimeoutError:
            message = (
                f"the body was not there within {self._seconds:g} s; send it faster, or less of it"
            )
            await send_error(send, ApiError(408, message, code="slow_body"), close=True)
            return
        except ApiError as error:
            await send_error(send, error, close=True)
            return
        except _HungUp:
            return
        await self._app(scope, _replay(body, receive), send)

    async def _read(self, headers: Headers, receive: Receive) -> bytes:
        announced = headers.get("content-length", "")
        length = int(announced) if announced.isdecimal() else 0
        if length > self._max_bytes and "expect" in headers:
            raise self._too_long(length)  # the client waits for permission
        body, received, more = bytearray(), 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _HungUp
            more = message.get("more_body", False)
            received += len(message.get("body", b""))
            if max(length, received) <= self._max_bytes:
                body += message.get("body", b"")
            else:
                body.clear()
                if received > _MAX_DISCARDED:
                    break
        if max(length, received) > self._max_bytes:
            raise self._too_long(max(length, received))
        return bytes(body)

    def _too_long(self, length: int) -> ApiError:
        message = (
            f"the body has {length:,} bytes or more, and {self._max_bytes:,} are accepted "
            "(--max-body); send less"
        )
        return ApiError(413, message, code="request_too_large")


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives the body first, and then what the client does next."""
    sent = False

    async def replayed() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
