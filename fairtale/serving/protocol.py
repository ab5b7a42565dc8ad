"""A connection of uvicorn's with the limits that uvicorn lacks."""

from __future__ import annotations

import asyncio
import socket
import struct
from http import HTTPStatus
from typing import Any

import h11
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from .errors import ApiError, send_error


class GuardedProtocol(H11Protocol):
    """An HTTP/1.1 connection with limits on slow and numerous clients.

    Nothing is kept for a reader beyond what the system's own buffer of the connection holds: then
    the application waits, and when nothing was taken for ``stall_seconds``, the connection is cut.

    Args:
        max_connections: further connections are told that the service is busy, and twice as many
            are cut at once.
        head_seconds: time that a client has to send the head of a request.
        stall_seconds: time in which a reader must take what it was sent.
        options: those of uvicorn.
    """

    def __init__(
        self, *, max_connections: int, head_seconds: float, stall_seconds: float, **options: Any
    ) -> None:
        super().__init__(**options)
        self._max_connections = max_connections
        self._head_seconds = head_seconds
        self._stall_seconds = stall_seconds
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin a connection."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)
        if len(self.connections) > 2 * self._max_connections:
            transport.abort()
            return
        if len(self.connections) > self._max_connections:
            self.app = _busy
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """End a connection."""
        self._stop_head_timer()
        self._stop_stall_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what the client has sent."""
        if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._start_head_timer()
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._stop_head_timer()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._refuse(ApiError(400, f"{msg} Send HTTP/1.1 with headers below 64 KiB.", code="http"))

    def pause_writing(self) -> None:
        """Begin to wait for the reader."""
        super().pause_writing()
        self._stop_stall_timer()
        self._stall_timer = self.loop.call_later(self._stall_seconds, self._cut)

    def resume_writing(self) -> None:
        """Stop to wait for the reader."""
        self._stop_stall_timer()
        super().resume_writing()

    def _cut(self) -> None:
        """End the connection, and what the system still keeps for its reader."""
        connection = self.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(self._head_seconds, self._head_is_late)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _head_is_late(self) -> None:
        message = (
            f"the head of the request was not there within {self._head_seconds:g} s; send it faster"
        )
        self._refuse(ApiError(408, message, code="slow_head"))

    def _refuse(self, error: ApiError) -> None:
        """Send an error outside of any request, and close the connection."""
        error.headers["Connection"] = "close"
        response = error.response()
        phrase = HTTPStatus(error.status).phrase.encode()
        try:
            for event in (
                h11.Response(status_code=error.status, headers=response.raw_headers, reason=phrase),
                h11.Data(data=bytes(response.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:
            pass  # an answer has already begun
        self.transport.close()


async def _busy(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer every request of a connection beyond the limit."""
    error = ApiError(
        503,
        "too many connections (--max-connections); try again later",
        code="too_many_connections",
        headers={"Retry-After": "1"},
    )
    await send_error(send, error, close=True)
