"""Complete the OpenAPI document with what FastAPI does not see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from .interface import Engine
from .schemas import ChatRequest, CompletionRequest

_BODIES = (CompletionRequest, ChatRequest)
_LENGTHS = {"max_tokens", "max_completion_tokens", "min_tokens"}


def openapi_document(app: FastAPI, engines: Mapping[str, Engine], key: bool) -> dict[str, Any]:
    """Return the OpenAPI document of a service.

    Args:
        app: the application with its routes.
        engines: names of the models, the values of the field ``model`` -> their engines.
        key: whether the service asks for a key.
    """
    document: dict[str, Any] = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    _, definitions = models_json_schema(
        [(body, "validation") for body in _BODIES],
        ref_template="#/components/schemas/{model}",
    )
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    schemas.update(definitions["$defs"])
    names = list(engines)
    most = max(engine.limits.max_new_tokens for engine in engines.values())
    for body in _BODIES:
        fields = schemas[body.__name__]["properties"]
        fields["model"]["enum"] = names
        for name in fields.keys() & _LENGTHS:
            _limit(fields[name], most)
    for parameter in document["paths"]["/generate"]["get"]["parameters"]:
        if parameter["name"] == "model":
            parameter["schema"] = {"type": "string", "enum": names}
        if parameter["name"] in _LENGTHS:
            _limit(parameter["schema"], most)
    parameter = document["paths"]["/v1/models/{name}"]["get"]["parameters"][0]
    parameter["schema"] = {"type": "string", "enum": names}
    for path in document["paths"].values():
        for operation in path.values():
            # FastAPI announces its own form of errors, which this service does not use
            if operation["responses"].get("422"):
                del operation["responses"]["422"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    if key:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
        document["paths"]["/health"]["get"]["security"] = []
    return document


def _limit(schema: dict[str, Any], most: int) -> None:
    """Set the maximum of a number that may be null."""
    for part in schema["anyOf"]:
        if part["type"] == "integer":
            part["maximum"] = most
