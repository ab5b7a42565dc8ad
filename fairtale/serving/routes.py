"""The routes of the service."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qsl

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ValidationError
from starlette.responses import HTMLResponse, Response

from . import reply_schemas as replies
from .docs_page import docs_page
from .errors import ApiError, JsonResponse
from .interface import Engine
from .openai_replies import ChatReply, CompletionReply, PlainReply
from .openai_requests import chat_job, completion_job, generate_job
from .page import page
from .schemas import ChatRequest, CompletionRequest, GenerateQuery
from .service import Service
from .strict_json import strict_json
from .validation import validation_error

_DOCS_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
BodyT = TypeVar("BodyT", bound=BaseModel)


async def read_body(request: Request, schema: type[BodyT]) -> BodyT:
    """Return the body of a request.

    Raises:
        ApiError: it is not JSON, or not of the schema.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        message = f"content-type {kind!r}: must be application/json; send this header"
        raise ApiError(415, message, code="unsupported_media_type")
    content = strict_json(await request.body())
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        raise validation_error(error.errors(include_url=False, include_context=False)) from None


def check_query(request: Request) -> None:
    """Refuse a query string that is ambiguous or not UTF-8.

    Raises:
        ApiError: it is.
    """
    text = request.scope["query_string"].decode("latin-1")
    try:
        names = [name for name, _ in parse_qsl(text, keep_blank_values=True, errors="strict")]
    except UnicodeDecodeError:
        raise ApiError(
            400, "the query is not UTF-8; encode it as UTF-8", code="invalid_value"
        ) from None
    for name in set(names):
        if names.count(name) > 1:
            raise ApiError(
                400, f"{name[:60]}: is given twice; give it once", name[:60], "invalid_value"
            )


def body_of(schema: type[BaseModel]) -> dict[str, Any]:
    """Return the part of the OpenAPI document that describes the body of a route."""
    reference = {"$ref": f"#/components/schemas/{schema.__name__}"}
    content = {"application/json": {"schema": reference}}
    return {"requestBody": {"required": True, "content": content}}


def events_of(reply: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """Return the description of an answer that may be a stream."""
    return {
        200: {
            "model": reply,
            "description": "The texts; with stream, server-sent events",
            "content": {"text/event-stream": {}},
        }
    }


def make_router(service: Service) -> APIRouter:
    """Return the routes of a service."""
    router = APIRouter(redirect_slashes=False, responses=_errors(401))
    _add_text_routes(router, service)
    _add_other_routes(router, service)
    return router


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": replies.ErrorReply} for status in statuses}


def _add_text_routes(router: APIRouter, service: Service) -> None:
    refusals = _errors(400, 404, 408, 413, 415, 429, 500, 503, 504)

    @router.post(
        "/v1/completions",
        openapi_extra=body_of(CompletionRequest),
        responses={**events_of(replies.CompletionObject), **refusals},
    )
    async def completions(request: Request) -> Response:
        """Continue a text, answer a dialog, or translate a sentence."""
        body = await read_body(request, CompletionRequest)
        job = completion_job(body, service.engine(body.model))
        return service.response(CompletionReply(job))

    @router.post(
        "/v1/chat/completions",
        openapi_extra=body_of(ChatRequest),
        responses={**events_of(replies.ChatObject), **refusals},
    )
    async def chat(request: Request) -> Response:
        """Go on with a conversation."""
        body = await read_body(request, ChatRequest)
        job = chat_job(body, service.engine(body.model))
        return service.response(ChatReply(job))

    @router.get(
        "/generate",
        responses={200: {"model": replies.GenerateReply}, **refusals},
    )
    async def generate(request: Request, query: Annotated[GenerateQuery, Query()]) -> Response:
        """Answer, continue or translate a sentence."""
        check_query(request)
        model = next(iter(service.engines)) if query.model is None else query.model
        job = generate_job(query, model, service.engine(model))
        return service.response(PlainReply(job, query.sentence))


def _add_other_routes(router: APIRouter, service: Service) -> None:
    def describe(name: str, engine: Engine) -> dict[str, Any]:
        limits = engine.limits
        return {
            "id": name,
            "object": "model",
            "created": service.created,
            "owned_by": "fairtale",
            "kind": engine.kind,
            "max_model_len": limits.max_positions,
            "max_prompt_tokens": limits.max_prompt_tokens,
            "max_new_tokens": limits.max_new_tokens,
        }

    @router.get("/v1/models", responses={200: {"model": replies.ModelList}})
    async def models() -> Response:
        """List the models."""
        data = [describe(name, engine) for name, engine in service.engines.items()]
        return JsonResponse({"object": "list", "data": data})

    @router.get(
        "/v1/models/{name:path}", responses={200: {"model": replies.ModelObject}, **_errors(404)}
    )
    async def model(name: str) -> Response:
        """Describe a model."""
        return JsonResponse(describe(name, service.engine(name)))

    @router.get("/health", responses={200: {"model": replies.Health}, **_errors(503)})
    async def health() -> Response:
        """Tell whether every engine works; needs no key."""
        reason = service.unhealthy()
        if reason:
            raise ApiError(503, reason, code="unhealthy", headers={"Retry-After": "5"})
        return JsonResponse({"status": "ok"})

    @router.get("/metrics", responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Return numbers for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @router.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        """Describe the routes for people."""
        return HTMLResponse(docs_page(request.app.openapi()), headers=_DOCS_HEADERS)

    @router.get("/", include_in_schema=False)
    async def web_page() -> Response:
        """Return the web page."""
        return Response(page().body, headers=dict(page().headers))
