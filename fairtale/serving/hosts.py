"""Answer only to the names under which a service without a key is meant to be reached.

A web page of another site cannot call the service, for browsers do not let it; unless its server
lets its own name point to this machine (DNS rebinding). Then the name stands in the header Host.
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import one_line
from .errors import ApiError, send_error

LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


class HostMiddleware:
    """Refuse requests that were sent to another name.

    Args:
        app: the application.
        hosts: the names, without ports.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http":
            given = Headers(scope=scope).get("host", "")
            if _name(given) not in self._hosts:
                message = (
                    f"Host {one_line(given)[:80]!r}: the service answers only to "
                    f"{', '.join(sorted(self._hosts))}; start it with --allow-host for other names"
                )
                await send_error(send, ApiError(421, message, code="unknown_host"), close=True)
                return
        await self._app(scope, receive, send)


def _name(host: str) -> str | None:
    """Return the name in a header Host, without the port."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
