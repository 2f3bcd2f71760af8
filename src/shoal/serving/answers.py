"""Answers other than 200, in the shape of the protocol that was spoken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa
    from starlette.responses import Response

__all__ = ["Refused", "answered", "dumped", "failure", "json_values", "refusal"]

# MLflow's names of errors, by status.
_CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    405: "METHOD_NOT_ALLOWED",
    408: "REQUEST_TIMEOUT",
    413: "REQUEST_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    429: "REQUEST_LIMIT_EXCEEDED",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
}


class Refused(Exception):
    """A request that gets an answer other than 200.

    Args:
        status: HTTP status.
        message: What was found and what was expected.
        headers: More headers of the answer.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})


def refusal(path: str, refused: Refused) -> Response:
    """The answer to a refused request.

    Args:
        path: The request's path: those below ``/v2`` are the Open Inference Protocol's, whose
            errors are ``{"error": ...}``; others MLflow's, ``{"error_code", "message"}``.
        refused: What to say.
    """
    import orjson
    from starlette.responses import Response

    text = refused.message.encode("utf-8", "replace").decode()  # a lone surrogate cannot be sent
    code = _CODES.get(refused.status, "BAD_REQUEST")
    shapes = {True: {"error": text}, False: {"error_code": code, "message": text}}
    return Response(
        orjson.dumps(shapes[path.startswith("/v2")]),
        status_code=refused.status,
        media_type="application/json",
        headers=refused.headers,
    )


def failure() -> Refused:
    """A fault of the server; its log has the details."""
    return Refused(500, "The server failed; its log says why.")


def json_values(column: pa.Array | pa.ChunkedArray) -> Any:
    """A column's values, as `dumped` takes them; missing ones become null."""
    import pyarrow as pa

    from shoal.models.columns import numbers

    return (
        numbers(column, missing=float("nan")) if column.type == pa.float64() else column.to_pylist()
    )


def dumped(content: object) -> bytes:
    """JSON; NaN is null, which is what JSON has for it."""
    import orjson

    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def answered(content: object) -> Response:
    """An answer of JSON."""
    from starlette.responses import Response

    return Response(dumped(content), media_type="application/json")
