"""The HTTP application: routes, errors, and the layers that every request passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from .access_log import AccessLog
from .auth import KeyMiddleware
from .errors import ApiError, api_error
from .hosts import HostMiddleware
from .interface import Engine
from .limits import BodyMiddleware
from .openapi import openapi_document
from .routes import make_router
from .service import AppOptions, Service
from .validation import validation_error

_DESCRIPTION = (
    "Text generators behind OpenAI's format. Every error has the form of ErrorReply; a field that "
    "is not listed is refused."
)


def create_app(engines: Mapping[str, Engine], options: AppOptions | None = None) -> App:
    """Return the application that serves engines.

    Args:
        engines: name of a model -> its engine; at least one.
        options: options; None for the defaults.
    """
    return App(Service(engines, options or AppOptions()))


class App:
    """The application, for ASGI.

    Attributes:
        service: the models, and whether they are stopping.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        options = service.options
        inner: ASGIApp = _fastapi(service)
        # Each layer is plain ASGI: Starlette's BaseHTTPMiddleware hides that a client has gone.
        inner = BodyMiddleware(inner, options.max_body, options.body_seconds)
        if options.api_key is not None:
            inner = KeyMiddleware(inner, options.api_key)
        if options.allow_origins:
            inner = CORSMiddleware(
                inner,
                allow_origins=list(options.allow_origins),
                allow_methods=["GET", "POST"],
                allow_headers=["Authorization", "Content-Type"],
            )
        if options.allow_hosts is not None:
            inner = HostMiddleware(inner, options.allow_hosts)
        self._app = AccessLog(inner, service.metrics)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        await self._app(scope, receive, send)


def _fastapi(service: Service) -> FastAPI:
    app = FastAPI(
        title="fairtale serve",
        version="1",
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.include_router(make_router(service))
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_any_error)
    document = openapi_document(app, service.engines, service.options.api_key is not None)
    app.openapi = lambda: document  # type: ignore[method-assign]
    return app


async def _on_api_error(request: Request, error: Exception) -> Response:
    return api_error(error).response()


async def _on_any_error(request: Request, error: Exception) -> Response:
    return api_error(error).response()


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return validation_error(error.errors()).response()


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Answer an unknown route or method, which Starlette reports."""
    assert isinstance(error, HTTPException)
    path, method = request.url.path[:200], request.method[:20]
    message = {
        404: f"{method} {path}: there is no such route; GET /docs lists the routes",
        405: f"{method} {path}: the route has other methods; GET /docs lists them",
    }.get(error.status_code, str(error.detail))
    code = {404: "route_not_found", 405: "method_not_allowed"}.get(error.status_code)
    return ApiError(error.status_code, message, code=code, headers=error.headers).response()
