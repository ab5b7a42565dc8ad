"""The page ``/docs``: the OpenAPI document for people, without a script or an address outside."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; } code, pre { font-family: ui-monospace, monospace; }
pre { overflow-x: auto; padding: .75rem; border: 1px solid #8886; border-radius: .4rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0;
  border-bottom: 1px solid #8884; }
"""
_EXAMPLES: Mapping[str, tuple[str, Any]] = {
    "/v1/completions": ("POST", {"prompt": "Once upon a time", "max_tokens": 40}),
    "/v1/chat/completions": (
        "POST",
        {"messages": [{"role": "user", "content": "How are you?"}], "stream": True},
    ),
}


def docs_page(document: Mapping[str, Any]) -> str:
    """Return the page for an OpenAPI document."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(document['info']['title'])}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(document['info']['title'])}</h1>",
        f"<p>{escape(document['info'].get('description', ''))}</p>",
        '<p>For programs: <a href="/openapi.json">openapi.json</a>. To talk: '
        '<a href="/">the page</a>.</p>',
    ]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts += _route(method.upper(), path, operation, document)
    return "\n".join([*parts, "</body></html>"])


def _route(
    method: str, path: str, operation: Mapping[str, Any], document: Mapping[str, Any]
) -> Iterator[str]:
    yield f"<h2><code>{method} {escape(path)}</code></h2>"
    yield f"<p>{escape(operation.get('description', ''))}</p>"
    rows = [
        (p["name"], p["schema"], p.get("description", ""), p["required"])
        for p in operation.get("parameters", ())
    ]
    body = operation.get("requestBody")
    if body:
        schema = _resolve(body["content"]["application/json"]["schema"], document)
        needed = schema.get("required", ())
        rows += [
            (name, field, field.get("description", ""), name in needed)
            for name, field in schema["properties"].items()
            if field.get("type") or not _is_neutral(field)
        ]
    if rows:
        yield '<div class="wide"><table><tr><th>field<th>type<th>meaning</tr>'
        for name, field, text, required in rows:
            mark = " (required)" if required else ""
            kind = escape(_type(field, document))
            yield f"<tr><td><code>{escape(name)}</code>{mark}<td>{kind}<td>{escape(text)}</tr>"
        yield "</table></div>"
    if body and path in _EXAMPLES:
        verb, content = _EXAMPLES[path]
        schema = _resolve(body["content"]["application/json"]["schema"], document)
        model = schema["properties"]["model"]["enum"][0]
        text = json.dumps({"model": model, **content})
        command = f"curl -N http://127.0.0.1:8000{path} -H 'Content-Type: application/json' \\\n"
        yield f"<pre>{escape(command)}  -d '{escape(text)}'</pre>"


def _resolve(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    found: Mapping[str, Any] = document["components"]["schemas"][name] if name else schema
    return found


def _is_neutral(field: Mapping[str, Any]) -> bool:
    """Tell whether a field of OpenAI's format is only accepted with its neutral values."""
    return "enum" in field and "type" not in field


def _type(schema: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    """Return a short name for the values of a field."""
    schema = _resolve(schema, document)
    if "enum" in schema:
        return " or ".join(json.dumps(value) for value in schema["enum"])
    if "anyOf" in schema:
        kinds = [_type(part, document) for part in schema["anyOf"] if part.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'], document)}"
    bounds = [
        f"{word} {schema[name]}"
        for name, word in (
            ("minimum", "at least"),
            ("exclusiveMinimum", "above"),
            ("maximum", "at most"),
        )
        if name in schema and abs(schema[name]) < 2**31 - 1
    ]
    return ", ".join([schema.get("type", "any"), *bounds])
