"""The web application: routes and answers."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from shoal.errors import RequestError, ShoalError
from shoal.serving.answers import Refused, failure, refusal
from shoal.serving.bodies import body_of, reader
from shoal.serving.convert import arrow_table
from shoal.serving.gate import Gate
from shoal.serving.metrics import Metrics
from shoal.serving.models import ServedModels
from shoal.serving.open_inference import metadata, read_infer, tensor
from shoal.serving.openapi import document, page
from shoal.serving.protocol import Columns
from shoal.serving.quick import Quick
from shoal.serving.scoring import Asked, Scored, predict, score
from shoal.serving.served import ServedModel
from shoal.serving.traffic import Traffic

if TYPE_CHECKING:
    import pyarrow as pa
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from shoal.serving.log import InferenceLog
    from shoal.serving.lookup import Lookup
    from shoal.serving.tokens import Tokens

__all__ = ["create_app"]

_MIB = 1024 * 1024
_log = logging.getLogger(__name__)


def create_app(
    models: ServedModels,
    *,
    default: str | None,
    max_body: int = 16 * _MIB,
    max_rows: int = 100_000,
    body_seconds: float = 60.0,
    concurrency: int = 4,
    queue: int = 256,
    tokens: Tokens | None = None,
    log: InferenceLog | None = None,
    lookups: Mapping[str, Lookup] | None = None,
) -> Starlette:
    """Makes the web application; `serve` runs it.

    ``POST /invocations`` and ``POST /models/{name}/invocations`` answer MLflow's scoring protocol:
    200 ``{"predictions": [...]}``, in row order, null where there is no prediction, with the
    header ``shoal-model: name/version``; otherwise ``{"error_code", "message"}`` with 400 for a
    wrong request, 401 and 403 where tokens are asked for, 404 for a model that is not served, 408
    for a body that does not arrive, 413 for one that is too large, 415 for a content type other
    than JSON and CSV and 503 where too many requests wait. ``/models/{name}@{alias}/invocations``
    and ``/models/{name}/{version}/invocations`` ask one version. The query ``explain=true`` adds
    which member predicted each row; the parameter ``interval`` (``"params": {"interval": true}``)
    makes each prediction an object with its bounds. Below ``/v2`` is the Open Inference Protocol.
    ``GET /ping``, ``/health``, ``/ready``, ``/version``, ``/models``, ``/metrics``,
    ``/openapi.json`` and ``/docs`` tell about the server.

    Args:
        models: What to serve.
        default: The model of ``/invocations``; None means the only one, if there is only one.
        max_body: Largest accepted body, in bytes.
        max_rows: Most rows in one request.
        body_seconds: How long a body may take to arrive.
        concurrency: How many requests are predicted at the same time.
        queue: How many more may wait.
        tokens: Who may ask; None lets everyone.
        log: Where predictions are logged; open while the application runs.
        lookups: For each model, where columns come from that a request leaves out.

    Raises:
        RequestError: ``default`` is not served.
    """
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.routing import Route

    if default is None and len(models) == 1:
        default = next(iter(models)).name
    if default is not None and models.get(default) is None:
        raise RequestError(
            f"The default model '{default}' is not among the served ones.",
            hint=f"Did you mean '{models.nearest(default)}'?" if models.nearest(default) else None,
        )
    app = _App(
        models=models,
        default=default,
        gate=Gate(concurrency=concurrency, queue=queue),
        limits={"largest": max_body, "seconds": body_seconds},
        max_rows=max_rows,
        tokens=tokens,
        log=log,
        lookups=lookups or {},
    )
    score_, read, free = app.guarded("score"), app.guarded("read"), app.guarded(None)
    named, numbered = "/models/{name}", "/models/{name}/{version:int}"
    v2, v2_version = "/v2/models/{name}", "/v2/models/{name}/versions/{version:int}"
    quick = (
        Middleware(
            Quick,
            models=models,
            default=default,
            metrics=app.metrics,
            tokens=tokens,
            seconds=body_seconds,
        ),
    )
    made = Starlette(
        # What is logged or looked up takes the usual way.
        middleware=quick if log is None and not lookups else (),
        routes=[
            *(
                Route(f"{prefix}/invocations", score_(app.invocations), methods=["POST"])
                for prefix in ("", named, numbered)
            ),
            *(
                Route(f"{prefix}/infer", score_(app.infer), methods=["POST"])
                for prefix in (v2, v2_version)
            ),
            *(Route(prefix, read(app.model_metadata)) for prefix in (v2, v2_version)),
            *(Route(f"{prefix}/ready", free(app.model_ready)) for prefix in (v2, v2_version)),
            *(Route(path, _empty) for path in ("/ping", "/health")),
            *(Route(path, free(app.ready)) for path in ("/ready", "/v2/health/ready")),
            Route("/v2/health/live", free(app.live)),
            Route("/v2", read(app.server)),
            Route("/version", _version),
            Route("/models", read(app.listing)),
            Route("/metrics", read(app.metrics_page)),
            Route("/openapi.json", read(app.openapi)),
            Route("/docs", read(app.docs)),
        ],
        exception_handlers={HTTPException: _http_error, Exception: _failed},
    )
    made.state.publish = partial(app.metrics.publish, models, log)  # for worker processes
    return made


Handler = Callable[["Request"], Awaitable["Response"]]


class _App:
    def __init__(
        self,
        *,
        models: ServedModels,
        default: str | None,
        gate: Gate,
        limits: Mapping[str, Any],
        max_rows: int,
        tokens: Tokens | None,
        log: InferenceLog | None,
        lookups: Mapping[str, Lookup],
    ) -> None:
        self.models = models
        self.default = default
        self.gate = gate
        self.limits = limits
        self.max_rows = max_rows
        self.tokens = tokens
        self.log = log
        self.lookups = lookups
        self.metrics = Metrics()

    def guarded(self, scope: str | None) -> Callable[[Handler], Handler]:
        """Handlers that need a scope, and whose refusals are answers."""

        def guard(handler: Handler) -> Handler:
            async def answer(request: Request) -> Response:
                try:
                    if scope is not None and self.tokens is not None:
                        self.tokens.check(request.headers.get("authorization"), scope)
                    return await handler(request)
                except Refused as refused:
                    return refusal(request.url.path, refused)

            return answer

        return guard

    async def invocations(self, request: Request) -> Response:
        """MLflow's scoring protocol."""
        read = reader(request.headers.get("content-type"))
        explain = request.query_params.get("explain", "").lower() in {"1", "true"}

        def answer(scored: Scored) -> dict[str, Any]:
            answers = scored.answers
            content = {"predictions": _predictions(answers)}
            if explain:
                for name in ("segment", "model_used", "fallback"):
                    content[name] = answers.column(name).to_pylist()
            return content

        return await self._score(
            request, lambda body, model: read(body, self._asked(model)), answer
        )

    async def infer(self, request: Request) -> Response:
        """The Open Inference Protocol."""
        if request.headers.get("inference-header-content-length"):
            raise Refused(400, "The binary tensor extension is not spoken here; send JSON.")
        ident: str | None = None

        def read(body: bytes, model: ServedModel) -> Columns:
            nonlocal ident
            columns, ident = read_infer(body, self._asked(model))
            return columns

        def answer(scored: Scored) -> dict[str, Any]:
            return tensor(scored.model, scored.answers.column("prediction"), ident)

        return await self._score(request, read, answer)

    async def _score(
        self,
        request: Request,
        read: Callable[[bytes, ServedModel], Columns],
        answer: Callable[[Scored], dict[str, Any]],
    ) -> Response:
        import orjson
        from starlette.background import BackgroundTask
        from starlette.responses import Response

        path = request.path_params
        model, free = self._model(path.get("name", self.default), path.get("version"))
        ident = request.headers.get("x-request-id", "")[:200] or str(uuid.uuid4())
        explain = self.log is not None or "explain" in request.query_params

        def rows(body: bytes, version: ServedModel) -> Asked:
            found = read(body, version)
            if found.rows > self.max_rows:
                raise Refused(
                    413, f"The request has {found.rows} rows; send at most {self.max_rows} at once."
                )
            asked = arrow_table(found, self._asked(version))
            lookup = self.lookups.get(version.name)
            filled = asked if lookup is None else lookup.fill(asked, version.inputs)
            return Asked(filled, found.interval)

        def work(body: bytes) -> tuple[Scored, bytes]:
            scored = score(
                self.models,
                model,
                lambda version: rows(body, version),
                free=free,
                explain=explain,
                request=ident,
            )
            return scored, orjson.dumps(answer(scored))  # orjson writes NaN as null

        try:
            if self.log is not None:
                self.log.admit()
            body = await body_of(request, **self.limits)
            # Parsing and predicting keep a core busy; in a thread they leave /ping answering.
            scored, content = await self.gate.run(work, body)
        except Refused as refused:
            self.metrics.count(model.name, model.version, refused.status)
            raise
        except RequestError as error:
            self.metrics.count(model.name, model.version, 400)
            raise Refused(400, error.message) from error
        except ShoalError as error:  # a broken artifact is no fault of the request
            self.metrics.count(model.name, model.version, 500)
            _log.error("%s/%s cannot be used: %s", model.name, model.version, error)
            raise failure() from error
        self.metrics.count(model.name, scored.model.version, 200)
        self.metrics.scored(scored)
        if self.log is not None:
            self.log.add(scored)
        used = ", ".join(f"{part.model.name}/{part.model.version}" for part in scored.parts)
        return Response(
            content,
            media_type="application/json",
            headers={"shoal-model": used, "x-request-id": _printable(ident)},
            background=BackgroundTask(self._shadow, scored) if free else None,
        )

    async def _shadow(self, scored: Scored) -> None:
        """Lets a shadow predict the same rows, for the log, after the answer was sent."""
        rule = Traffic.from_tags(self.models.tags(scored.model.name))
        if rule is None or not rule.shadow or self.log is None or not rule.takes(scored.request):
            return
        other = self.models.get(scored.model.name, alias=rule.alias)
        if other is None or other.inputs != scored.model.inputs:
            return
        rows = scored.parts[0].rows

        def work() -> Scored:
            part = predict(other, "shadow", rows, explain=True)
            return Scored(
                request=scored.request, received=scored.received, seconds=0.0, parts=(part,)
            )

        try:
            self.log.add(await self.gate.run(work))
        except (Refused, ShoalError) as error:
            _log.warning("%s/%s cast no shadow: %s", other.name, other.version, error)

    def _model(self, name: str | None, version: int | None) -> tuple[ServedModel, bool]:
        """The version that a path asks for, and whether it left the choice to the server."""
        served = ", ".join(sorted(model.name for model in self.models))
        if name is None:
            raise Refused(
                404,
                "This server has no default model; post to /models/NAME/invocations. "
                f"Models: {served}.",
            )
        name, _, alias = name.partition("@")
        model = self.models.get(name, alias=alias or None, version=version)
        if model is not None:
            return model, not alias and version is None
        if self.models.get(name) is None:
            raise Refused(404, f"The model '{name[:100]}' is not served here. Models: {served}.")
        aliases = ", ".join(sorted(self.models.aliases(name))) or "none"
        versions = ", ".join(map(str, self.models.versions(name)))
        asked = f"version {version}" if version is not None else f"alias '{alias[:100]}'"
        raise Refused(
            404,
            f"'{name}' is served here without {asked}. Aliases: {aliases}; versions: {versions}.",
        )

    def _asked(self, model: ServedModel) -> Mapping[str, str]:
        """The columns that a request for a model must bring."""
        lookup = self.lookups.get(model.name)
        return model.inputs if lookup is None else lookup.asked(model.inputs)

    async def listing(self, _request: Request) -> Response:
        """What is served."""
        return _json(
            [
                {
                    "name": model.name,
                    "version": model.version,
                    "aliases": self.models.aliases(model.name),
                    "versions": self.models.versions(model.name),
                    "segments": model.fleet.segments,
                    "interval": model.fleet.header.interval,
                    "default": model.name == self.default,
                    "inputs": dict(model.inputs),
                }
                for model in self.models
            ]
        )

    async def model_metadata(self, request: Request) -> Response:
        """``GET /v2/models/{name}``."""
        model, _ = self._model(request.path_params["name"], request.path_params.get("version"))
        return _json(metadata(model, self.models.versions(model.name)))

    async def model_ready(self, request: Request) -> Response:
        """``GET /v2/models/{name}/ready``."""
        model, _ = self._model(request.path_params["name"], request.path_params.get("version"))
        return _json({"name": model.name, "ready": True})

    async def ready(self, _request: Request) -> Response:
        """Whether requests are answered: 503 while too many wait."""
        self.gate.check()
        return _json({"ready": True})

    async def live(self, _request: Request) -> Response:
        """``GET /v2/health/live``."""
        return _json({"live": True})

    async def server(self, _request: Request) -> Response:
        """``GET /v2``."""
        import importlib.metadata

        return _json(
            {"name": "shoal", "version": importlib.metadata.version("shoal"), "extensions": []}
        )

    async def metrics_page(self, _request: Request) -> Response:
        """``GET /metrics``, in Prometheus' text format."""
        from prometheus_client import CONTENT_TYPE_LATEST
        from starlette.responses import Response

        text = self.metrics.page(self.models, self.log)
        return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})

    async def openapi(self, _request: Request) -> Response:
        """``GET /openapi.json``."""
        return _json(document(self.models, self._asked, secured=self.tokens is not None))

    async def docs(self, _request: Request) -> Response:
        """``GET /docs``: the same for a person."""
        from starlette.responses import HTMLResponse

        return HTMLResponse(
            page(document(self.models, self._asked, secured=self.tokens is not None))
        )


def _predictions(answers: pa.Table) -> list[Any]:
    """A value for each row, or with intervals an object, as MLflow answers a data frame."""
    bounds = [name for name in answers.column_names if name.startswith("prediction")]
    if len(bounds) == 1:
        values: list[Any] = answers.column("prediction").to_pylist()
        return values
    rows: list[Any] = answers.select(bounds).to_pylist()
    return rows


def _printable(ident: str) -> str:
    return "".join(c for c in ident if " " <= c <= "~")


def _json(content: object) -> Response:
    import orjson
    from starlette.responses import Response

    return Response(orjson.dumps(content), media_type="application/json")


async def _empty(_request: Request) -> Response:
    from starlette.responses import Response

    return Response(b"", media_type="application/json")


async def _version(_request: Request) -> Response:
    import importlib.metadata

    from starlette.responses import PlainTextResponse

    try:
        found = importlib.metadata.version("mlflow")
    except importlib.metadata.PackageNotFoundError:  # a server of a bundle has no MLflow
        found = importlib.metadata.version("shoal")
    return PlainTextResponse(found)


async def _http_error(request: Request, error: Exception) -> Response:
    """Unknown paths and methods, in the same shape as every other error."""
    from starlette.exceptions import HTTPException

    assert isinstance(error, HTTPException)
    refused = Refused(error.status_code, str(error.detail), error.headers)
    return refusal(request.url.path, refused)


async def _failed(request: Request, _fault: Exception) -> Response:
    """A fault of the server; Starlette logs it."""
    return refusal(request.url.path, failure())
