"""A segment's page."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from shoal.ui.chart import trend
from shoal.ui.drift import drift_of_segment
from shoal.ui.fleetdata import fleet_info
from shoal.ui.page import render, segment_label
from shoal.ui.routes import Missing, Router, whole
from shoal.ui.segmentdata import member_history, member_of, segment_rows, series

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from shoal.ui.desk import Desk

__all__ = ["add_segment"]


def add_segment(router: Router) -> None:
    """Adds the routes of segments."""
    router.page("/fleets/{model}/segment", _segment)
    router.page("/api/fleets/{model}/series", _series)


def _segment(desk: Desk, request: Request) -> Response:
    info = fleet_info(desk, request.path_params["model"])
    key = request.query_params.get("key", "")
    if info.champion is None:
        raise Missing(f"'{info.name}' has no version yet.")
    version = whole(request.query_params.get("version"), info.champion)
    other = info.challenger if version == info.champion else info.champion
    member = member_of(desk, info, version, key)
    past = member_history(desk, info, key)
    points = [(f"version {p['fleet_version']}", p["value"]) for p in reversed(past)]
    known = [value for _, value in points if value is not None]
    chart = ""
    if len(known) > 1:
        label = f"{info.metric} over the versions"
        chart = trend(points, label=label, low=min(0.0, *known), high=max(known))
    rows = segment_rows(desk, info, key)
    address = f"/api/fleets/{quote(info.name)}/series?key={quote(key)}&version={version}"
    return render(
        request, desk, "segment.html", page="fleets", title=f"{segment_label(key)} of {info.name}",
        info=info, key=key, member=member, version=version, other=other, past=past, chart=chart,
        rows=rows.tail(12).reverse(), count=rows.height,
        drift=drift_of_segment(desk, info.name, key),
        series=address + (f"&against={other}" if other else ""),
    )  # fmt: skip


def _series(desk: Desk, request: Request) -> Response:
    from starlette.responses import JSONResponse

    info = fleet_info(desk, request.path_params["model"])
    asked = request.query_params
    version = whole(asked.get("version"), info.champion or 0)
    against = whole(asked.get("against"), 0) or None
    return JSONResponse(series(desk, info, asked.get("key", ""), version, against))
