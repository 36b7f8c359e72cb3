"""The list of routes for people and programs, made from the routes themselves."""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from typing import Any

import msgspec

from jobonnx import __version__
from jobonnx.serve.operation import Operation
from jobonnx.serve.schemas import ErrorResponse, schemas

_REFUSALS = {
    "400": "The body is not valid JSON",
    "401": "The API key is missing or wrong",
    "404": "No such model",
    "408": "The body came too slowly",
    "413": "The body, or the request in tokens, is too large",
    "422": "A field is wrong; the message says which and what to do",
    "429": "Overloaded; Retry-After says when to come again",
    "500": "It failed; the service's log says why",
    "503": "Warming up, stopping, or past the deadline",
}


def document(operations: Iterable[Operation]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document."""
    references, components = schemas()
    error = {"application/json": {"schema": references[ErrorResponse.__name__]}}
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        success: dict[str, Any] = {"description": operation.summary}
        if operation.response is not None:
            success["content"] = {"application/json": {"schema": _schema(operation.response)}}
        responses = {"200": success} | {status: {"description": text, "content": error} for status, text in _REFUSALS.items()}
        described: dict[str, Any] = {
            "summary": operation.summary,
            "operationId": f"{operation.method.lower()}{operation.path.replace('/', '_').rstrip('_') or '_root'}",
            "responses": responses,
            "security": [{}] if operation.open else [{"key": []}, {}],
        }
        if operation.request is not None:
            content = {"application/json": {"schema": references[operation.request.__name__]}}
            described["requestBody"] = {"required": True, "content": content}
        paths.setdefault(operation.path, {})[operation.method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "jobonnx",
            "version": __version__,
            "description": "Job titles to vectors, and to the most similar titles.",
        },
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def docs_page(content: dict[str, Any]) -> bytes:
    """Return the document as a page that needs no script and nothing from elsewhere."""
    parts = []
    for path, methods in content["paths"].items():
        for method, operation in methods.items():
            body = operation.get("requestBody")
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation['summary'])}.</p>")
            if body is not None:
                name = body["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]
                parts.append(f'<p>Takes <a href="#{name}">{name}</a>.</p>')
    parts.append("<h1>What they take and give</h1>")
    for name, schema in content["components"]["schemas"].items():
        parts.append(f'<h2 id="{name}">{name}</h2><pre>{escape(json.dumps(schema, indent=1))}</pre>')
    parts.append("<h1>Errors</h1><p>All have OpenAI's shape, <a href='#ErrorResponse'>ErrorResponse</a>.</p><ul>")
    parts += [f"<li><code>{status}</code> {escape(text)}.</li>" for status, text in _REFUSALS.items()]
    style = (
        "body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:auto;padding:1rem;color:#1a1a1a;background:#fff}"
        "pre{overflow:auto;background:#f3f3f3;padding:.75rem}h2{font-size:1.1rem;margin:1.5rem 0 .25rem}"
        "@media(prefers-color-scheme:dark){body{color:#eee;background:#181818}pre{background:#262626}a{color:#8ab4f8}}"
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>jobonnx: routes</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{style}</style></head><body>'
        f'<h1>jobonnx {escape(content["info"]["version"])}</h1><p><a href="/openapi.json">OpenAPI document</a></p>'
        f"{''.join(parts)}</ul></body></html>"
    ).encode()


def _schema(kind: Any) -> dict[str, Any]:
    (schema,), _ = msgspec.json.schema_components([kind], ref_template="#/components/schemas/{name}")
    return schema
