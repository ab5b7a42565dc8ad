"""What a running service consists of: its models, its options, and whether it is stopping."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from .errors import ApiError, shutting_down
from .interface import Engine
from .metrics import Metrics
from .openai_replies import Reply
from .openai_requests import Job
from .responses import Running, TextResponse


@dataclass(frozen=True)
class AppOptions:
    """Options of the HTTP application.

    Args:
        api_key: key that every route but ``/health`` asks for; None for an open service.
        allow_origins: origins of web pages, besides the service's own, that may call the service.
        allow_hosts: names under which the service may be called; None for any.
        max_body: maximum length of a request's body in bytes.
        body_seconds: time that a client has to send it.
        request_timeout: seconds within which a request must be answered.
        log_requests: whether prompts and texts are logged.
    """

    api_key: str | None = field(default=None, repr=False)
    allow_origins: tuple[str, ...] = ()
    allow_hosts: tuple[str, ...] | None = None
    max_body: int = 2**20
    body_seconds: float = 30.0
    request_timeout: float = 600.0
    log_requests: bool = False


class Service:
    """The models behind one address.

    Args:
        engines: name -> engine; the first is the default of ``/generate``.
        options: options.
    """

    def __init__(self, engines: Mapping[str, Engine], options: AppOptions) -> None:
        self.engines = dict(engines)
        self.options = options
        self.metrics = Metrics(self.engines)
        self.created = int(time.time())
        self.stopping = False

    def engine(self, name: str) -> Engine:
        """Return the engine of a model.

        Raises:
            ApiError: there is no such model, or the service is stopping.
        """
        if self.stopping:
            raise shutting_down()
        if name not in self.engines:
            listed = ", ".join(self.engines)
            message = f"model {name[:80]!r}: there is no such model; give one of: {listed}"
            raise ApiError(404, message, "model", "model_not_found")
        return self.engines[name]

    def response(self, reply: Reply) -> TextResponse:
        """Return the response that makes the texts of a reply."""
        return TextResponse(reply, self.running(reply.job))

    def running(self, job: Job) -> Running:
        """Return the model of a job."""
        return Running(
            self.engines[job.model],
            self.metrics.models[job.model],
            self.options.request_timeout,
            self.options.log_requests,
        )

    def unhealthy(self) -> str | None:
        """Return why the service does not work, or None."""
        if self.stopping:
            return "the service is stopping"
        for name, engine in self.engines.items():
            reason = engine.unhealthy()
            if reason:
                return f"{name}: {reason}"
        return None

    def close(self, grace: float) -> None:
        """Let every engine finish what runs, all of them within ``grace`` seconds."""
        self.stopping = True
        until = time.monotonic() + grace
        for engine in self.engines.values():
            engine.close(max(until - time.monotonic(), 0.0))
