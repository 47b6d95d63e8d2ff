"""``/openapi.json`` and ``/docs``, both made from the table of routes and the bodies' tables."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mbuild import __version__

if TYPE_CHECKING:
    from mbuild.server.service import Endpoint
    from mbuild.server.shapes import Body

_ERROR = {
    "description": "What is wrong",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {"error": {}},
                "required": ["error"],
            }
        }
    },
}
_ERRORS = ("400", "403", "404", "413", "500", "501", "502", "503")
_DIGEST_PATTERN = "^sha256[:-][0-9a-f]{64}$"
_SUCCESS = {
    "200": {"description": "Done"},
    "201": {"description": "Stored"},
}


def describe(routes: Sequence[Endpoint]) -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    paths: dict[str, dict[str, Any]] = {}
    bodies: dict[str, Any] = {}
    for row in routes:
        path = re.sub(r":path\}", "}", row.path)
        for method in row.methods:
            paths.setdefault(path, {})[method.lower()] = _operation(row, method)
        if row.body is not None:
            bodies[row.body.name] = schema(row.body)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mbuild",
            "version": __version__,
            "description": "Ollama's model-management API.",
        },
        "paths": paths,
        "components": {"schemas": bodies},
    }


def schema(body: Body) -> dict[str, Any]:
    """A body as a JSON schema."""
    return {
        "type": "object",
        "properties": {name: dict(kind.schema) for name, kind in body.fields.items()},
        "required": list(body.required),
        "example": dict(body.example),
    }


def _operation(row: Endpoint, method: str) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": row.summary,
        "operationId": re.sub(r"\W+", "_", f"{method.lower()}{row.path}").strip("_"),
        "responses": {**_SUCCESS, **dict.fromkeys(_ERRORS, _ERROR)},
    }
    parameters = re.findall(r"\{(\w+)", row.path)
    if parameters:
        operation["parameters"] = [
            {
                "name": name,
                "in": "path",
                "required": True,
                "schema": {"type": "string"}
                | ({"pattern": _DIGEST_PATTERN} if name == "digest" else {}),
            }
            for name in parameters
        ]
    if row.body is not None:
        reference = {"$ref": f"#/components/schemas/{row.body.name}"}
        content: dict[str, Any] = {"application/json": {"schema": reference}}
        operation["requestBody"] = {"required": True, "content": content}
    elif row.binary:
        content = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""The page's Content-Security-Policy: it loads nothing from elsewhere."""

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    "code,pre{background:#8881;padding:.1em .3em}h2{font-size:1em;margin:2em 0 .3em}"
    "td,th{text-align:left;padding:.1em 1em .1em 0;vertical-align:top}"
)


def page(routes: Sequence[Endpoint]) -> str:
    """The same as a page for people."""
    sections = "".join(_section(row) for row in routes)
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>mbuild: API</title>"
        f"<style>{_STYLE}</style><h1>mbuild {html.escape(__version__)}: API</h1>"
        "<p>Ollama's model-management API. As OpenAPI: "
        f'<a href="/openapi.json">openapi.json</a></p>{sections}</html>'
    )


def _section(row: Endpoint) -> str:
    head = f"{' | '.join(row.methods)} {re.sub(':path', '', row.path)}"
    parts = [f"<h2><code>{html.escape(head)}</code></h2><p>{html.escape(row.summary)}</p>"]
    if row.body is not None:
        cells = "".join(
            f"<tr><td><code>{name}</code></td><td>{html.escape(_type_name(kind.schema))}</td>"
            f"<td>{'required' if name in row.body.required else ''}</td></tr>"
            for name, kind in row.body.fields.items()
        )
        example = html.escape(json.dumps(row.body.example))
        parts.append(f"<table>{cells}</table><pre>{example}</pre>")
    return "".join(parts)


def _type_name(field: Any) -> str:
    if "oneOf" in field:
        return " or ".join(_type_name(option) for option in field["oneOf"])
    return str(field.get("type", "anything"))
