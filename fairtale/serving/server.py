"""Listen on an address, serve an application, and stop without losing what runs."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

import uvicorn

from ..errors import UserError
from .app import App
from .protocol import GuardedProtocol

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SEND_BUFFER = 2**17  # bytes, of which Linux makes the double
# Longer than clients keep idle connections: the client must close first, or its next request may
# meet a connection that is being closed.
_KEEP_ALIVE_SECONDS = 75
_LAST_WRITES_SECONDS = 5  # what clients may still read after the last text has been made


@dataclass(frozen=True)
class ServerOptions:
    """Options of the server.

    Args:
        host: address or name to listen on.
        port: port; 0 for any that is free.
        grace: seconds in which requests are finished after SIGTERM.
        max_connections: number of open connections.
        head_seconds: time that a client has to send the head of a request.
        stall_seconds: time in which a reader must take what it was sent.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    grace: float = 30.0
    max_connections: int = 512
    head_seconds: float = 10.0
    stall_seconds: float = 30.0


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address.

    Raises:
        UserError: the address is not this machine's, or the port is in use or reserved.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Connections inherit it; the system would keep megabytes for each slow reader.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            bound.bind(address)
        except BaseException:
            bound.close()
            raise
    except (OSError, UnicodeError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"--host {host} --port {port}: cannot listen there ({reason}); give another port, or 0 "
            "for any that is free"
        ) from None
    bound.setblocking(False)
    return bound


def address_of(bound: socket.socket) -> str:
    """Return the address of a socket as a URL."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(bound: socket.socket) -> bool:
    """Tell whether only this machine can reach a socket."""
    host = bound.getsockname()[0]
    return host == "::1" or host.startswith("127.")


def serve(
    app: App, bound: socket.socket, options: ServerOptions, started: Callable[[], None]
) -> None:
    """Serve until SIGTERM or SIGINT; a second signal ends the process at once.

    After the first signal ``/health`` fails and new requests are refused; what runs or waits is
    finished within the grace.

    Args:
        app: the application; its engines are closed at the end.
        bound: the socket; it is closed at the end.
        options: options.
        started: called when requests are accepted.
    """
    protocol = functools.partial(
        GuardedProtocol,
        max_connections=options.max_connections,
        head_seconds=options.head_seconds,
        stall_seconds=options.stall_seconds,
    )
    config = uvicorn.Config(
        app,
        http=protocol,  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_LAST_WRITES_SECONDS,
    )
    _Server(config, app, options.grace, started).run(sockets=[bound])


class _Server(uvicorn.Server):
    """A server that closes the engines before it closes its connections."""

    def __init__(
        self, config: uvicorn.Config, app: App, grace: float, started: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._service = app.service
        self._grace = grace
        self._on_start = started
        self._closing: threading.Thread | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        self._on_start()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while the server runs."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop in good order, or at once when asked a second time."""
        if self._closing is not None:
            signal.signal(sig, signal.SIG_DFL)
            os.kill(os.getpid(), sig)
            return
        self._service.stopping = True
        # A signal handler must not wait for the locks of the engines.
        self._closing = threading.Thread(target=self._close, name="closing", daemon=True)
        self._closing.start()

    def _close(self) -> None:
        try:
            self._service.close(self._grace)
        finally:
            self.should_exit = True
