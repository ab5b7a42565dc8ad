"""Log requests without their content: method, path without query string, status, seconds."""

from __future__ import annotations

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import one_line
from .metrics import Metrics

_LOG = logging.getLogger("fairtale.access")
_MAX_PATH = 200  # characters
_QUIET = frozenset({"/health", "/metrics"})  # asked every few seconds, and no news


class AccessLog:
    """Log each request when it ends, and count those that are refused.

    Args:
        app: the application.
        metrics: where refusals are counted.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, start = 0, time.monotonic()

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            if status >= 400:
                self._metrics.refused.labels(str(status)).inc()
            if scope["path"] not in _QUIET:
                seconds = time.monotonic() - start
                line = f"{scope['method']} {scope['path'][:_MAX_PATH]}"
                _LOG.info("%s %s %.3fs", one_line(line), status or "hung up", seconds)
