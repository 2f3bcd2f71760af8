"""Handlers of the requests that predict."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shoal.errors import RequestError, ShoalError
from shoal.serving.answers import Refused, dumped, failure, json_values, refusal
from shoal.serving.bodies import body_of, reader
from shoal.serving.convert import arrow_table
from shoal.serving.gate import Gate
from shoal.serving.metrics import Metrics
from shoal.serving.models import ServedModels
from shoal.serving.open_inference import read_infer, tensor
from shoal.serving.protocol import Columns
from shoal.serving.scoring import Asked, Scored, predict, score
from shoal.serving.served import ServedModel
from shoal.serving.traffic import Traffic

if TYPE_CHECKING:
    import pyarrow as pa
    from starlette.requests import Request
    from starlette.responses import Response

    from shoal.serving.log import InferenceLog
    from shoal.serving.lookup import Lookup
    from shoal.serving.tokens import Tokens

__all__ = ["Handler", "Scoring"]

_log = logging.getLogger(__name__)

Handler = Callable[["Request"], Awaitable["Response"]]


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """What the handlers share; see `create_app`."""

    models: ServedModels
    default: str | None
    gate: Gate
    limits: Mapping[str, Any]
    max_rows: int
    tokens: Tokens | None
    log: InferenceLog | None
    lookups: Mapping[str, Lookup]
    metrics: Metrics

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

        return await self._score(request, lambda body, model: read(body, self.asked(model)), answer)

    async def infer(self, request: Request) -> Response:
        """The Open Inference Protocol."""
        if request.headers.get("inference-header-content-length"):
            raise Refused(400, "The binary tensor extension is not spoken here; send JSON.")
        ident: str | None = None

        def read(body: bytes, model: ServedModel) -> Columns:
            nonlocal ident
            columns, ident = read_infer(body, self.asked(model))
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
        from starlette.background import BackgroundTask
        from starlette.responses import Response

        path = request.path_params
        model, free = self.model(path.get("name", self.default), path.get("version"))
        ident = request.headers.get("x-request-id", "")[:200] or str(uuid.uuid4())
        explain = self.log is not None or "explain" in request.query_params

        def rows(body: bytes, version: ServedModel) -> Asked:
            found = read(body, version)
            if found.rows > self.max_rows:
                raise Refused(
                    413, f"The request has {found.rows} rows; send at most {self.max_rows} at once."
                )
            asked = arrow_table(found, self.asked(version))
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
            return scored, dumped(answer(scored))

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

    def model(self, name: str | None, version: int | None) -> tuple[ServedModel, bool]:
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

    def asked(self, model: ServedModel) -> Mapping[str, str]:
        """The columns that a request for a model must bring."""
        lookup = self.lookups.get(model.name)
        return model.inputs if lookup is None else lookup.asked(model.inputs)


def _predictions(answers: pa.Table) -> Any:
    """A value for each row, or with intervals an object, as MLflow answers a data frame."""
    bounds = [name for name in answers.column_names if name.startswith("prediction")]
    if len(bounds) == 1:
        return json_values(answers.column("prediction"))
    rows: list[Any] = answers.select(bounds).to_pylist()
    return rows


def _printable(ident: str) -> str:
    return "".join(c for c in ident if " " <= c <= "~")
