"""The web application: routes, limits and answers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shoal.errors import RequestError, ShoalError
from shoal.serving.convert import arrow_table
from shoal.serving.models import ServedModel, ServedModels
from shoal.serving.protocol import read_csv, read_json

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["create_app"]

_MIB = 1024 * 1024
_DISCARDED = 16  # a body may be so many times too large before the connection is cut
_log = logging.getLogger(__name__)


def create_app(
    models: ServedModels,
    *,
    default: str | None,
    max_body: int = 16 * _MIB,
    body_seconds: float = 60.0,
    concurrency: int = 4,
) -> Starlette:
    """Makes the web application; `serve` runs it.

    ``POST /invocations`` and ``POST /models/{name}/invocations`` answer MLflow's scoring protocol:
    200 ``{"predictions": [...]}``, in row order, null where there is no prediction, with the
    header ``shoal-model: name/version``; otherwise ``{"error_code", "message"}`` with 400 for a
    wrong request, 404 for a model that is not served, 408 for a body that does not arrive, 413
    for one that is too large and 415 for a content type other than JSON and CSV. ``GET /ping``
    and ``/health`` are 200 with an empty body, ``/version`` MLflow's version, ``/models`` what is
    served.

    Args:
        models: What to serve.
        default: The model of ``/invocations``; None means the only one, if there is only one.
        max_body: Largest accepted body, in bytes.
        body_seconds: How long a body may take to arrive.
        concurrency: How many requests are predicted at the same time; others wait.

    Raises:
        RequestError: ``default`` is not served.
    """
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.routing import Route

    if default is None and len(models) == 1:
        default = next(iter(models)).name
    if default is not None and models.get(default) is None:
        raise RequestError(
            f"The default model '{default}' is not among the served ones.",
            hint=f"Did you mean '{models.nearest(default)}'?" if models.nearest(default) else None,
        )
    scoring = _Scoring(models, default, max_body, body_seconds, concurrency)
    return Starlette(
        routes=[
            Route("/invocations", scoring.invocations, methods=["POST"]),
            Route("/models/{name}/invocations", scoring.invocations, methods=["POST"]),
            Route("/ping", _ping),
            Route("/health", _ping),
            Route("/version", _version),
            Route("/models", scoring.listing),
        ],
        exception_handlers={HTTPException: _http_error, Exception: _failed},
    )


class _Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class _Scoring:
    def __init__(
        self,
        models: ServedModels,
        default: str | None,
        max_body: int,
        body_seconds: float,
        concurrency: int,
    ) -> None:
        import anyio

        self.models = models
        self.default = default
        self.max_body = max_body
        self.body_seconds = body_seconds
        self.limiter = anyio.CapacityLimiter(concurrency)

    async def invocations(self, request: Request) -> Response:
        import anyio
        from starlette.responses import Response

        try:
            model = self._model(request.path_params.get("name", self.default))
            kind = _content_type(request.headers.get("content-type"))
            body = await self._body(request)
            # Parsing and predicting keep a core busy; in a thread they leave /ping answering.
            answer = await anyio.to_thread.run_sync(
                _predict, model, kind, body, limiter=self.limiter
            )
        except _Refused as refused:
            return _error(refused.status, refused.code, refused.message)
        except RequestError as error:
            return _error(400, "BAD_REQUEST", error.message)
        except ShoalError as error:  # a broken artifact is no fault of the request
            _log.error("%s/%s cannot be used: %s", model.name, model.version, error)
            return _failure()
        return Response(
            answer,
            media_type="application/json",
            headers={"shoal-model": f"{model.name}/{model.version}"},
        )

    def _model(self, name: str | None) -> ServedModel:
        served = ", ".join(sorted(model.name for model in self.models))
        if name is None:
            raise _Refused(
                404,
                "RESOURCE_DOES_NOT_EXIST",
                "This server has no default model; post to /models/NAME/invocations. "
                f"Models: {served}.",
            )
        model = self.models.get(name)
        if model is None:
            raise _Refused(
                404,
                "RESOURCE_DOES_NOT_EXIST",
                f"The model '{name[:100]}' is not served here. Models: {served}.",
            )
        return model

    async def _body(self, request: Request) -> bytes:
        """Reads the body, keeping no more than the limit.

        What is too large is read on and thrown away, up to a point: most clients send everything
        before they read an answer, and would only see a broken connection.
        """
        import anyio
        from starlette.requests import ClientDisconnect

        parts: list[bytes] = []
        size = 0
        try:
            with anyio.fail_after(self.body_seconds):
                async for part in request.stream():
                    size += len(part)
                    if size <= self.max_body:
                        parts.append(part)
                    elif size > _DISCARDED * self.max_body:
                        break
        except ClientDisconnect:
            raise _Refused(400, "BAD_REQUEST", "The client went away.") from None
        except TimeoutError:
            raise _Refused(
                408,
                "REQUEST_TIMEOUT",
                f"The body did not arrive within {self.body_seconds:g} seconds.",
            ) from None
        if size > self.max_body:
            raise _Refused(
                413,
                "REQUEST_TOO_LARGE",
                f"The body is larger than {self.max_body} bytes; send fewer rows per request.",
            )
        return b"".join(parts)

    async def listing(self, _request: Request) -> Response:
        import orjson
        from starlette.responses import Response

        found = [
            {
                "name": model.name,
                "version": model.version,
                "segments": model.fleet.segments,
                "default": model.name == self.default,
                "inputs": dict(model.inputs),
            }
            for model in self.models
        ]
        return Response(orjson.dumps(found), media_type="application/json")


def _content_type(header: str | None) -> Callable[[bytes, ServedModel], Any]:
    """The reader for a content type, with the parameters that MLflow allows."""
    kind, *pairs = [part.strip() for part in (header or "").split(";")]
    parameters = {
        name.strip().lower(): value.strip().strip('"')
        for name, _, value in (pair.partition("=") for pair in pairs if pair)
    }
    if parameters.pop("charset", "utf-8").lower() not in {"utf-8", "utf8"}:
        raise _Refused(415, "UNSUPPORTED_MEDIA_TYPE", "The server only reads UTF-8.")
    if parameters:
        names = ", ".join(sorted(parameters))[:100]
        raise _Refused(
            415, "UNSUPPORTED_MEDIA_TYPE", f"Unrecognized content type parameters: {names}."
        )
    if kind.lower() == "application/json":
        return lambda body, model: read_json(body, list(model.inputs))
    if kind.lower() == "text/csv":
        return lambda body, model: read_csv(body, model.inputs)
    raise _Refused(
        415,
        "UNSUPPORTED_MEDIA_TYPE",
        f"The content type is {kind[:100] or 'missing'}; expected application/json or text/csv.",
    )


def _predict(model: ServedModel, read: Callable[[bytes, ServedModel], Any], body: bytes) -> bytes:
    import orjson

    rows = arrow_table(read(body, model), model.inputs)
    try:
        predictions = model.fleet.predict(rows).column("prediction").to_pylist()
    except ShoalError:  # the request's fault, or that of a broken artifact: then 500
        raise
    except Exception as error:  # an estimator may refuse values in any way; MLflow answers 400
        _log.debug("%s/%s could not predict", model.name, model.version, exc_info=True)
        raise RequestError(
            f"The model cannot predict these values: {type(error).__name__}: {error}"
        ) from error
    return orjson.dumps({"predictions": predictions})  # orjson writes NaN as null


async def _ping(_request: Request) -> Response:
    from starlette.responses import Response

    return Response(b"", media_type="application/json")


async def _version(_request: Request) -> Response:
    import importlib.metadata

    from starlette.responses import PlainTextResponse

    return PlainTextResponse(importlib.metadata.version("mlflow"))


async def _http_error(_request: Request, error: Exception) -> Response:
    """Unknown paths and methods, in the same shape as every other error."""
    from starlette.exceptions import HTTPException

    assert isinstance(error, HTTPException)
    code = {404: "RESOURCE_DOES_NOT_EXIST", 405: "METHOD_NOT_ALLOWED"}.get(
        error.status_code, "BAD_REQUEST"
    )
    return _error(error.status_code, code, str(error.detail), dict(error.headers or {}))


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    import orjson
    from starlette.responses import Response

    text = message.encode("utf-8", "replace").decode()  # a lone surrogate cannot be sent
    return Response(
        orjson.dumps({"error_code": code, "message": text}),
        status_code=status,
        media_type="application/json",
        headers=headers,
    )


async def _failed(_request: Request, _fault: Exception) -> Response:
    """A fault of the server; Starlette logs it."""
    return _failure()


def _failure() -> Response:
    return _error(500, "INTERNAL_ERROR", "The server failed; its log says why.")
