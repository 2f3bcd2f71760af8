"""Endpoints: what is served, how it goes, and a form to try a request."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from shoal.errors import RequestError, Unavailable
from shoal.serving import Client, Traffic
from shoal.ui.chart import spark
from shoal.ui.fleetdata import all_fleets, fleet_info
from shoal.ui.page import render
from shoal.ui.routes import Form, Missing, Router
from shoal.ui.serverdata import Servers, body_of, logged

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from shoal.models import Fleet
    from shoal.ui.desk import Desk

__all__ = ["add_endpoints"]


def add_endpoints(router: Router, servers: Servers) -> None:
    """Adds the routes of endpoints.

    Args:
        router: Where to.
        servers: The scoring servers that are looked at.
    """
    made = _Endpoints(servers)
    router.page("/endpoints", made.index)
    router.page("/part/server", made.server)
    router.page("/part/try", made.form)
    router.action("/endpoints/servers", made.add)
    router.action("/part/answer", made.answer, role="viewer")


class _Endpoints:
    def __init__(self, servers: Servers) -> None:
        self._servers = servers

    def index(self, desk: Desk, request: Request) -> Response:
        """All served models."""
        shown: list[dict[str, Any]] = []
        for info in all_fleets(desk):
            if info.champion is None:
                continue
            figures = logged(desk, info.name)
            chart = "" if figures is None else spark(figures.trend, label="Predictions", low=0)
            rule = Traffic.from_tags(info.tags)
            shown.append({"info": info, "figures": figures, "chart": chart, "traffic": rule})
        names = [one["info"].name for one in shown]
        model = request.query_params.get("model", "")
        return render(
            request, desk, "endpoints.html", page="endpoints", title="Endpoints", shown=shown,
            servers=self._servers.urls, model=model if model in names else next(iter(names), ""),
            names=names,
        )  # fmt: skip

    def server(self, desk: Desk, request: Request) -> Response:
        """A server's figures now."""
        try:
            found = self._servers.look(request.query_params.get("url", ""))
        except Unavailable as error:  # which is an answer, too
            return render(request, desk, "part_error.html", error=error)
        return render(request, desk, "part_server.html", s=found)

    def add(self, desk: Desk, request: Request, form: Form) -> Response:
        """One more server to look at."""
        from starlette.responses import RedirectResponse

        _ = desk, request
        self._servers.add(form.one.get("url", ""))
        return RedirectResponse("/endpoints", 303)

    def form(self, desk: Desk, request: Request) -> Response:
        """The fields of a model's request, filled with an example."""
        info = fleet_info(desk, request.query_params.get("model", ""))
        number = info.champion or 0
        fleet = desk.fleet(info.name, number)
        ref = f"{info.name}/{number}"
        example = desk.cache.get(
            ("example", ref), "written", lambda: desk.space.tracker.input_example(ref)
        )
        first = example.slice(0, 1).to_pylist()[0] if example.num_rows else {}
        fields = [(name, "text", first.get(name)) for name in fleet.header.by]
        fields += [(f.name, f.dtype, first.get(f.name)) for f in fleet.header.features]
        return render(
            request, desk, "part_try.html", info=info, fields=fields, servers=self._servers.urls,
            keys=len(fleet.header.by),
        )  # fmt: skip

    def answer(self, desk: Desk, request: Request, form: Form) -> Response:
        """A prediction, by a server or by the registered version opened here."""
        info = fleet_info(desk, form.one.get("model", ""))
        alias, url = form.one.get("alias", "champion"), form.one.get("server", "")
        if alias not in info.aliases:
            raise Missing(f"'{info.name}' has no alias '{alias}'.")
        fleet = desk.fleet(info.name, info.aliases[alias])
        values = _values(fleet, form.one)
        begun = time.perf_counter()
        if url:
            if url not in self._servers.urls:
                raise RequestError(f"'{url}' is none of the servers that are looked at.")
            told = _asked(url, f"{info.name}@{alias}", values, fleet)
        else:
            told = _here(fleet, values)
        took = time.perf_counter() - begun
        target = url or "http://127.0.0.1:5001"
        curl = (
            f"curl {target}/models/{quote(info.name)}@{alias}/invocations "
            f"-H 'content-type: application/json' -d '{body_of(values)}'"
        )
        return render(
            request, desk, "part_answer.html", told=told, seconds=took, url=url, alias=alias,
            version=info.aliases[alias], info=info, curl=curl,
        )  # fmt: skip


def _values(fleet: Fleet, given: Mapping[str, str]) -> dict[str, Any]:
    """A row of a form's texts.

    Raises:
        RequestError: A text does not fit its column.
    """
    found: dict[str, Any] = {name: given.get(f"v.{name}", "") for name in fleet.header.by}
    for feature in fleet.header.features:
        text = given.get(f"v.{feature.name}", "").strip()
        kind = feature.dtype
        if not text:
            found[feature.name] = None
        elif kind == "bool":
            found[feature.name] = text.lower() in {"1", "true", "yes"}
        elif kind.startswith(("int", "uint", "float", "double", "half", "decimal")):
            try:
                found[feature.name] = int(text) if kind.startswith(("int", "uint")) else float(text)
            except ValueError:
                raise RequestError(f"'{text}' is no number for '{feature.name}'.") from None
        else:
            found[feature.name] = text
    return found


def _asked(url: str, model: str, values: dict[str, Any], fleet: Fleet) -> dict[str, Any]:
    import os

    with Client(url, model=model, token=os.environ.get("SHOAL_TOKEN"), timeout=10) as client:
        (found,) = client.explain([values], interval=fleet.header.interval is not None)
    prediction = found.pop("prediction")
    bounds = prediction if isinstance(prediction, dict) else {"prediction": prediction}
    return {**found, **bounds}


def _here(fleet: Fleet, values: dict[str, Any]) -> dict[str, Any]:
    import pyarrow as pa

    types = {f.name: f.dtype for f in fleet.header.features}
    columns = {}
    for name, value in values.items():
        column = pa.array([value])
        if pa.types.is_null(column.type):
            column = column.cast(pa.float64() if name in types else pa.string())
        elif "date" in types.get(name, "") or "timestamp" in types.get(name, ""):
            try:
                column = column.cast(pa.timestamp("us"))
            except pa.ArrowInvalid as error:
                raise RequestError(f"'{value}' is no time for '{name}'.") from error
        columns[name] = column
    rows = fleet.predict(
        pa.table(columns), explain=True, interval=fleet.header.interval is not None
    )
    found: dict[str, Any] = rows.to_pylist()[0]
    return found
