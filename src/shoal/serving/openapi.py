"""The OpenAPI document of a server, and a page of it for a person."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.serving.models import ServedModels
    from shoal.serving.served import ServedModel

__all__ = ["document", "page"]

_TYPES: dict[str, dict[str, Any]] = {
    "string": {"type": ["string", "null"]},
    "long": {"type": "integer", "format": "int64", "minimum": -(2**63), "maximum": 2**63 - 1},
    "integer": {"type": "integer", "format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1},
    "double": {"type": ["number", "null"], "format": "double"},
    "float": {"type": ["number", "null"], "format": "float"},
    "boolean": {"type": ["boolean", "null"]},
    "datetime": {"type": ["string", "null"], "format": "date-time"},
}
_ERROR = {
    "type": "object",
    "required": ["error_code", "message"],
    "properties": {"error_code": {"type": "string"}, "message": {"type": "string"}},
}
_V2_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
}
_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype", "data"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
        "datatype": {"type": "string"},
        "data": {"type": "array"},
    },
}
_INFER = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "inputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
    },
}
_SCORING_ERRORS = (400, 401, 403, 404, 408, 413, 415, 500, 503)


def document(
    models: ServedModels,
    asked: Callable[[ServedModel], Mapping[str, str]],
    *,
    secured: bool,
) -> dict[str, Any]:
    """The OpenAPI 3.1 document of what is served now.

    Args:
        models: What is served.
        asked: The columns that a request for a model brings, with their MLflow types.
        secured: Whether requests need a token.
    """
    import importlib.metadata

    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = {"Error": _ERROR, "V2Error": _V2_ERROR, "Tensor": _TENSOR}
    schemas["Infer"] = _INFER
    for model in models:
        schemas[f"{model.name}.row"] = {
            "type": "object",
            "required": list(asked(model)),
            "properties": {name: _TYPES[kind] for name, kind in asked(model).items()},
        }
        bounds = model.fleet.header.interval is not None
        paths[f"/models/{model.name}/invocations"] = {"post": _invocations(model.name, bounds)}
        paths[f"/v2/models/{model.name}/infer"] = {"post": _infer(model.name)}
        paths[f"/v2/models/{model.name}"] = {"get": _get("What the model takes and gives")}
    for path, words in (("/models", "What is served"), ("/v2", "The server")):
        paths[path] = {"get": _get(words)}
    for path in ("/v2/health/live", "/v2/health/ready", "/ready"):
        paths[path] = {"get": _get("Whether requests are answered")}
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "Shoal", "version": importlib.metadata.version("shoal")},
        "paths": paths,
        "components": {"schemas": schemas},
    }
    if secured:
        scheme = {"type": "http", "scheme": "bearer"}
        found["components"]["securitySchemes"] = {"token": scheme}
        found["security"] = [{"token": []}]
    return found


def _invocations(name: str, bounds: bool) -> dict[str, Any]:
    row = {"$ref": f"#/components/schemas/{name}.row"}
    rows = {"type": "array", "items": row, "minItems": 1}
    explain = {"name": "explain", "in": "query", "schema": {"type": "boolean"}}
    fields: dict[str, Any] = {"dataframe_records": rows}
    if bounds:
        asked = {"interval": {"type": "boolean"}}
        fields["params"] = {"type": "object", "properties": asked}
    return {
        "summary": f"Predict with {name}, in MLflow's scoring protocol",
        "parameters": [explain],
        "requestBody": _body(
            {
                "type": "object",
                "required": ["dataframe_records"],
                "properties": fields,
            }
        ),
        "responses": _answers(
            {
                "type": "object",
                "required": ["predictions"],
                "properties": {"predictions": {"type": "array"}},
            },
            "Error",
        ),
    }


def _infer(name: str) -> dict[str, Any]:
    answer = {
        "type": "object",
        "required": ["model_name", "outputs"],
        "properties": {
            "model_name": {"type": "string"},
            "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
        },
    }
    return {
        "summary": f"Predict with {name}, in the Open Inference Protocol",
        "requestBody": _body({"$ref": "#/components/schemas/Infer"}),
        "responses": _answers(answer, "V2Error"),
    }


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _get(words: str) -> dict[str, Any]:
    answers = {"200": {"description": words, "content": {"application/json": {}}}}
    errors = {str(code): {"description": "Refused"} for code in (401, 403, 404, 503)}
    return {"summary": words, "responses": answers | errors}


def _answers(schema: dict[str, Any], error: str) -> dict[str, Any]:
    good = {"description": "Predictions", "content": {"application/json": {"schema": schema}}}
    reference = {"$ref": f"#/components/schemas/{error}"}
    wrong = {"description": "Refused", "content": {"application/json": {"schema": reference}}}
    return {"200": good} | {str(code): wrong for code in _SCORING_ERRORS}


def page(found: Mapping[str, Any]) -> str:
    """The document as one HTML page that loads nothing."""
    blocks = []
    for path, methods in found["paths"].items():
        for method, what in methods.items():
            example = _example(what, found)
            shown = f"<pre>{html.escape(example)}</pre>" if example else ""
            blocks.append(
                f"<section><h2><b>{method.upper()}</b> {html.escape(path)}</h2>"
                f"<p>{html.escape(what['summary'])}</p>{shown}</section>"
            )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Shoal</title><style>"
        "body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem}"
        "h2{font-size:1rem;font-family:monospace}b{color:#06c}"
        "pre{background:#f3f5f7;padding:1rem;overflow:auto}</style>"
        f"<h1>Shoal {html.escape(found['info']['version'])}</h1>{''.join(blocks)}"
        '<p><a href="/openapi.json">openapi.json</a></p></html>'
    )


def _example(what: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    body = what.get("requestBody")
    if body is None:
        return None
    schema = body["content"]["application/json"]["schema"]
    rows = schema.get("properties", {}).get("dataframe_records")
    if rows is None:
        return None
    row = found["components"]["schemas"][rows["items"]["$ref"].rpartition("/")[2]]
    values = {"integer": 1, "number": 1.5, "boolean": True, "string": "text"}
    kinds = {
        name: kind["type"][0] if isinstance(kind["type"], list) else kind["type"]
        for name, kind in row["properties"].items()
    }
    example = {name: values[kind] for name, kind in kinds.items()}
    return json.dumps({"dataframe_records": [example]}, indent=1)
