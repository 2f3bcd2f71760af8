"""The web application: routes and answers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from shoal.errors import RequestError
from shoal.serving.answers import Refused, failure, refusal
from shoal.serving.gate import Gate
from shoal.serving.handlers import Scoring
from shoal.serving.metrics import Metrics
from shoal.serving.models import ServedModels
from shoal.serving.pages import Pages, empty, version
from shoal.serving.quick import Quick

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    from shoal.serving.log import InferenceLog
    from shoal.serving.lookup import Lookup
    from shoal.serving.tokens import Tokens

__all__ = ["create_app"]

_MIB = 1024 * 1024


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

    if default is None and len(models) == 1:
        default = next(iter(models)).name
    if default is not None and models.get(default) is None:
        raise RequestError(
            f"The default model '{default}' is not among the served ones.",
            hint=f"Did you mean '{models.nearest(default)}'?" if models.nearest(default) else None,
        )
    metrics = Metrics()
    scoring = Scoring(
        models=models,
        default=default,
        gate=Gate(concurrency=concurrency, queue=queue),
        limits={"largest": max_body, "seconds": body_seconds},
        max_rows=max_rows,
        tokens=tokens,
        log=log,
        lookups=lookups or {},
        metrics=metrics,
    )
    quick = None
    if log is None and not lookups:  # what is logged or looked up takes the usual way
        quick = Quick(
            models=models, default=default, metrics=metrics, tokens=tokens, seconds=body_seconds
        )
    made = Starlette(
        middleware=() if quick is None else (Middleware(quick.before),),
        routes=_routes(scoring, Pages(scoring=scoring)),
        exception_handlers={HTTPException: _http_error, Exception: _failed},
    )
    made.state.quick = quick
    made.state.publish = partial(metrics.publish, models, log)  # for worker processes
    return made


def _routes(scoring: Scoring, pages: Pages) -> list[Route]:
    from starlette.routing import Route

    score, read, free = (scoring.guarded(scope) for scope in ("score", "read", None))
    named, numbered = "/models/{name}", "/models/{name}/{version:int}"
    v2, v2_version = "/v2/models/{name}", "/v2/models/{name}/versions/{version:int}"
    return [
        *(
            Route(f"{prefix}/invocations", score(scoring.invocations), methods=["POST"])
            for prefix in ("", named, numbered)
        ),
        *(
            Route(f"{prefix}/infer", score(scoring.infer), methods=["POST"])
            for prefix in (v2, v2_version)
        ),
        *(Route(prefix, read(pages.model_metadata)) for prefix in (v2, v2_version)),
        *(Route(f"{prefix}/ready", free(pages.model_ready)) for prefix in (v2, v2_version)),
        *(Route(path, empty) for path in ("/ping", "/health")),
        *(Route(path, free(pages.ready)) for path in ("/ready", "/v2/health/ready")),
        Route("/v2/health/live", free(pages.live)),
        Route("/v2", read(pages.server)),
        Route("/version", version),
        Route("/models", read(pages.listing)),
        Route("/metrics", read(pages.metrics_page)),
        Route("/openapi.json", read(pages.openapi)),
        Route("/docs", read(pages.docs)),
    ]


async def _http_error(request: Request, error: Exception) -> Response:
    """Unknown paths and methods, in the same shape as every other error."""
    from starlette.exceptions import HTTPException

    assert isinstance(error, HTTPException)
    refused = Refused(error.status_code, str(error.detail), error.headers)
    return refusal(request.url.path, refused)


async def _failed(request: Request, _fault: Exception) -> Response:
    """A fault of the server; Starlette logs it."""
    return refusal(request.url.path, failure())
