"""Pages that tell about the server and what it serves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shoal.serving.answers import answered
from shoal.serving.handlers import Scoring
from shoal.serving.open_inference import metadata
from shoal.serving.openapi import document, page
from shoal.serving.served import ServedModel

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["Pages", "empty", "version"]


@dataclass(frozen=True, kw_only=True)
class Pages:
    """Handlers of the requests that predict nothing.

    Args:
        scoring: Those that do.
    """

    scoring: Scoring

    async def listing(self, _request: Request) -> Response:
        """What is served."""
        return answered(
            [
                {
                    "name": model.name,
                    "version": model.version,
                    "aliases": self.scoring.models.aliases(model.name),
                    "versions": self.scoring.models.versions(model.name),
                    "segments": model.fleet.segments,
                    "interval": model.fleet.header.interval,
                    "default": model.name == self.scoring.default,
                    "inputs": dict(model.inputs),
                }
                for model in self.scoring.models
            ]
        )

    def _model(self, request: Request) -> ServedModel:
        path = request.path_params
        return self.scoring.model(path["name"], path.get("version"))[0]

    def _document(self) -> dict[str, Any]:
        scoring = self.scoring
        return document(scoring.models, scoring.asked, secured=scoring.tokens is not None)

    async def model_metadata(self, request: Request) -> Response:
        """``GET /v2/models/{name}``."""
        model, _ = self.scoring.model(
            request.path_params["name"], request.path_params.get("version")
        )
        return answered(metadata(model, self.scoring.models.versions(model.name)))

    async def model_ready(self, request: Request) -> Response:
        """``GET /v2/models/{name}/ready``."""
        model, _ = self.scoring.model(
            request.path_params["name"], request.path_params.get("version")
        )
        return answered({"name": model.name, "ready": True})

    async def ready(self, _request: Request) -> Response:
        """Whether requests are answered: 503 while too many wait."""
        self.scoring.gate.check()
        return answered({"ready": True})

    async def live(self, _request: Request) -> Response:
        """``GET /v2/health/live``."""
        return answered({"live": True})

    async def server(self, _request: Request) -> Response:
        """``GET /v2``."""
        import importlib.metadata

        return answered(
            {"name": "shoal", "version": importlib.metadata.version("shoal"), "extensions": []}
        )

    async def metrics_page(self, _request: Request) -> Response:
        """``GET /metrics``, in Prometheus' text format."""
        from prometheus_client import CONTENT_TYPE_LATEST
        from starlette.responses import Response

        text = self.scoring.metrics.page(self.scoring.models, self.scoring.log)
        return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})

    async def openapi(self, _request: Request) -> Response:
        """``GET /openapi.json``."""
        return answered(
            document(
                self.scoring.models, self.scoring.asked, secured=self.scoring.tokens is not None
            )
        )

    async def docs(self, _request: Request) -> Response:
        """``GET /docs``: the same for a person."""
        from starlette.responses import HTMLResponse

        return HTMLResponse(
            page(
                document(
                    self.scoring.models, self.scoring.asked, secured=self.scoring.tokens is not None
                )
            )
        )


async def empty(_request: Request) -> Response:
    """``GET /ping``."""
    from starlette.responses import Response

    return Response(b"", media_type="application/json")


async def version(_request: Request) -> Response:
    """``GET /version``: MLflow's."""
    import importlib.metadata

    from starlette.responses import PlainTextResponse

    try:
        found = importlib.metadata.version("mlflow")
    except importlib.metadata.PackageNotFoundError:  # a server of a bundle has no MLflow
        found = importlib.metadata.version("shoal")
    return PlainTextResponse(found)
