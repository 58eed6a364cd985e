"""The document of all endpoints, made from the table of routes and the models of messages."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from host.serve.endpoints import Endpoint
from host.serve.messages import ErrorAnswer
from host.serve.service import Service

JSON = "application/json"
SCHEMAS = "#/components/schemas/{model}"
PARAMETER = re.compile(r"{(\w+)(?::path)?}")

MEDIA: dict[str, dict[str, Any]] = {
    JSON: {"type": "object"},
    "text/event-stream": {  # of each event
        "type": "object",
        "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
        "required": ["data"],
    },
}
"""Schemas of answers that are none of `messages`; others are text."""


def document(service: Service, endpoints: Iterable[Endpoint]) -> dict[str, Any]:
    """In the form of OpenAPI 3.1."""
    endpoints = tuple(endpoints)
    kinds: set[type[BaseModel]] = {ErrorAnswer}
    for each in endpoints:
        kinds.update(kind for kind in (each.asks, each.answers) if kind)
    ordered = sorted(kinds, key=lambda kind: kind.__name__)
    _, schemas = models_json_schema(
        [(kind, "validation") for kind in ordered], ref_template=SCHEMAS
    )
    paths: dict[str, dict[str, Any]] = {}
    for each in endpoints:
        paths.setdefault(PARAMETER.sub(r"{\1}", each.path), {})[each.method.lower()] = _operation(
            each, bool(service.keys)
        )
    result: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "Tritstream", "version": version("tritstream")},
        "paths": paths,
        "components": {"schemas": schemas["$defs"]},
    }
    if service.keys:
        result["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return result


def _operation(endpoint: Endpoint, keys: bool) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if endpoint.answers:
        content |= _json(endpoint.answers)
    if endpoint.media:
        schema = MEDIA.get(endpoint.media, {"type": "string"})
        content[endpoint.media] = {"schema": schema}
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "responses": {
            "200": {"description": "The answer", "content": content},
            "default": {"description": "What is wrong", "content": _json(ErrorAnswer)},
        },
    }
    if endpoint.asks:
        operation["requestBody"] = {"required": True, "content": _json(endpoint.asks)}
    if names := PARAMETER.findall(endpoint.path):
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ]
    if keys and not endpoint.open:
        operation["security"] = [{"key": []}]
    return operation


def _json(kind: type[BaseModel]) -> dict[str, Any]:
    return {JSON: {"schema": {"$ref": SCHEMAS.format(model=kind.__name__)}}}
