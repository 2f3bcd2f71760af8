"""Fleets at a glance: how good all members are, champion against challenger, the worst of them."""

from __future__ import annotations

import json
import struct
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote

from shoal.errors import ProjectError, TrackingError
from shoal.ui.chart import histogram
from shoal.ui.drift import drift_of
from shoal.ui.fleetdata import Filter, FleetInfo, Segments, all_fleets, fleet_info, segments
from shoal.ui.page import number, render, segment_label, with_query
from shoal.ui.routes import Form, Missing, Router, whole

if TYPE_CHECKING:
    import polars as pl
    from starlette.requests import Request
    from starlette.responses import Response

    from shoal.ui.desk import Desk

__all__ = ["add_fleets"]

_PAGE = 25
_CHOICES = 60
_SORTS = {"segment", "value", "other", "change", "rows", "status"}


def add_fleets(router: Router) -> None:
    """Adds the routes of fleets."""
    router.page("/fleets", _index)
    router.page("/fleets/{model}", _fleet)
    router.page("/api/fleets/{model}/points", _points)
    router.page("/api/fleets/{model}/point", _point)
    router.action("/fleets/{model}/ask", _ask, role="viewer")
    router.action("/fleets/{model}/move", _move)


def _index(desk: Desk, request: Request) -> Response:
    shown = []
    for info in all_fleets(desk):
        if info.champion is None:
            continue
        measure = info.metric if info.metric in info.measures else next(iter(info.measures))
        try:
            found = segments(desk, info, measure, info.champion, None)
        except Missing:
            continue
        values = _finite(found.frame, "value")
        label = f"{measure} of the segments of {info.name}"
        chart = histogram(values, label=label, bins=40, width=360, height=96)
        shown.append(
            {"info": info, "measure": measure, "chart": chart, **_health(found.frame, values)}
        )
    return render(request, desk, "fleets.html", page="fleets", title="Fleets", fleets=shown)


def _finite(frame: pl.DataFrame, column: str) -> Any:
    import numpy as np

    values = frame[column].drop_nulls().to_numpy()
    return values[np.isfinite(values)]


def _health(frame: pl.DataFrame, values: Any) -> dict[str, Any]:
    import numpy as np

    counts = dict(frame.group_by("status").len().iter_rows())
    middle = {f"p{p}": float(np.percentile(values, p)) if len(values) else None for p in (50, 90)}
    return {"segments": frame.height, "counts": counts, **middle}


class _Asked:
    """What an address asks of a fleet."""

    def __init__(self, desk: Desk, model: str, query: dict[str, str]) -> None:
        self.info: FleetInfo = fleet_info(desk, model)
        info = self.info
        if info.champion is None:
            raise Missing(f"'{model}' has no version yet.")
        self.measure = query.get("metric") or info.metric or next(iter(info.measures))
        self.version = whole(query.get("version"), info.champion)
        against: int | None = None
        if query.get("against") != "none":
            other = info.challenger if self.version == info.champion else info.champion
            against = whole(query.get("against"), other) if other else None
            if query.get("against", "").isdigit():
                against = int(query["against"])
        self.against = None if against == self.version else against
        self.filter = Filter.of(query, info.by)
        self.found: Segments = segments(desk, info, self.measure, self.version, self.against)
        self.rows = self.found.only(self.filter)


def _fleet(desk: Desk, request: Request) -> Response:
    import polars as pl

    query = dict(request.query_params)
    asked = _Asked(desk, request.path_params["model"], query)
    info, found, rows = asked.info, asked.found, asked.rows
    page = whole(query.get("page"), 1, low=1)
    sort, descending = query.get("sort", ""), "desc" in query
    if sort in _SORTS:
        order = pl.col("other") - pl.col("value") if sort == "change" else pl.col(sort)
        ordered = rows.sort(order, descending=descending, nulls_last=True)
    else:
        ordered, sort = found.worst_first(rows), ""
    values, base = _finite(rows, "value"), _finite(found.frame, "value")
    label = f"{info.measures[asked.measure]} over {len(values):,} segments"

    def bar(low: float, high: float) -> str:
        return with_query(request, min=f"{low:.9g}", max=f"{high:.9g}", page=None)

    chart = histogram(values, label=label, href=bar, width=520, height=250)
    verdicts = dict(found.frame.group_by("verdict").len().iter_rows())
    tab = query.get("tab", "segments")
    more: dict[str, Any] = {}
    if tab == "versions":
        more = {"moves": _moves(desk, info.name), "runs": _metrics_of(desk, info)}
    if tab == "card":
        more = {"card": _card(desk, f"{info.name}/{asked.version}")}
    return render(
        request, desk, "fleet.html", page="fleets", title=info.name, info=info, asked=asked,
        found=found, health=_health(rows, values), everything=len(base), chart=chart,
        shown=ordered.slice((page - 1) * _PAGE, _PAGE).to_dicts(), number=page,
        pages=-(-rows.height // _PAGE), total=rows.height, sort=sort, descending=descending,
        choices=_choices(found.frame, info), verdicts=verdicts, tab=tab, query=_Query(query),
        drift=drift_of(desk, info.name), points=f"/api/fleets/{quote(info.name)}/points?"
        + str(request.url.query), **more,
    )  # fmt: skip


class _Query(dict[str, str]):
    """An address's query, in which what is not given is empty."""

    def __missing__(self, key: str) -> str:
        return ""


def _choices(frame: pl.DataFrame, info: FleetInfo) -> dict[str, list[str]]:
    """The values of key columns that have few."""
    found = {}
    for name in info.by:
        if name in frame.columns and frame[name].n_unique() <= _CHOICES:
            texts = frame[name].unique().drop_nulls().sort().to_list()
            found[name] = [str(text) for text in texts]
    return found


def _moves(desk: Desk, model: str) -> list[Any]:
    from shoal.workspace.audit import TABLE

    return desk.kept(("moves", model), lambda: desk.space.audit.moves(model)[::-1], TABLE)


def _metrics_of(desk: Desk, info: FleetInfo) -> dict[int, Any]:
    """What the tracked run of each of the newest versions measured."""
    found = {}
    for version in info.versions[:50]:
        if version.run_id:
            read = partial(desk.space.tracker.run, version.run_id)
            found[version.version] = desk.cache.get(("run", version.run_id), "ended", read)
    return found


def _card(desk: Desk, ref: str) -> list[tuple[str, Any]]:
    """A model card's blocks."""
    from shoal.ui.markdown import blocks

    text = desk.cache.get(("card", ref), "written", lambda: desk.space.tracker.card(ref))
    return blocks(text)


def _points(desk: Desk, request: Request) -> Response:
    """The scatter's points: a count, then x, y (float32), their rows (uint32) and marks (uint8)."""
    import numpy as np
    import polars as pl
    from starlette.responses import Response as Answer

    asked = _Asked(desk, request.path_params["model"], dict(request.query_params))
    both = asked.rows.filter(pl.col("value").is_finite() & pl.col("other").is_finite())
    codes = {"won": 1, "lost": 2, "tied": 3}
    marks = both["verdict"].replace_strict(codes, default=0, return_dtype=pl.UInt8)
    parts = [
        both["value"].to_numpy().astype("<f4").tobytes(),
        both["other"].to_numpy().astype("<f4").tobytes(),
        both["row"].to_numpy().astype("<u4").tobytes(),
        np.asarray(marks).tobytes(),
    ]
    return Answer(
        struct.pack("<I", both.height) + b"".join(parts), media_type="application/octet-stream"
    )


def _point(desk: Desk, request: Request) -> Response:
    """What the point under the pointer is."""
    from starlette.responses import JSONResponse

    asked = _Asked(desk, request.path_params["model"], dict(request.query_params))
    at = whole(request.query_params.get("row"), -1)
    if not 0 <= at < asked.found.frame.height:
        raise Missing("There is no such point.")
    row = asked.found.frame.row(at, named=True)
    return JSONResponse(
        {
            "label": segment_label(row["segment"]),
            "href": f"/fleets/{quote(asked.info.name)}/segment?key={quote(row['segment'])}",
            "value": number(row["value"]),
            "other": number(row["other"]),
            "verdict": row["verdict"],
            "rows": number(row["rows"]),
        }
    )


def _chosen(desk: Desk, model: str, form: Form) -> tuple[_Asked, list[str]]:
    """The segments that a form names: those that were ticked, or all that its filter lets pass."""
    query = dict(parse_qsl(form.one.get("query", "")))
    asked = _Asked(desk, model, query)
    if form.one.get("which") == "matching":
        return asked, asked.rows["segment"].to_list()
    ticked = form.many.get("segment", [])
    known = set(asked.found.frame["segment"].to_list())
    if strange := [key for key in ticked if key not in known]:
        raise Missing(f"'{model}' has no segment {strange[0]}.")
    return asked, ticked


def _ask(desk: Desk, request: Request, form: Form) -> Response:
    """The evidence for a promotion or rollback of some segments, before it is confirmed."""
    import polars as pl

    model = request.path_params["model"]
    asked, keys = _chosen(desk, model, form)
    kind = form.one.get("kind", "promote")
    info = asked.info
    if info.champion is None or (kind == "promote" and info.challenger is None):
        raise TrackingError(f"'{model}' has no challenger.", hint=f"shoal train {model}")
    version = info.challenger if kind == "promote" else None
    whole_fleet = form.one.get("which") == "all"
    if not keys and not whole_fleet:
        raise Missing("No segment was chosen.", hint="Tick some, or take all that match.")
    against = info.champion if kind == "promote" else None
    found = segments(desk, info, info.metric, version or info.champion, against)
    rows = found.frame if whole_fleet else found.frame.filter(pl.col("segment").is_in(keys))
    evidence = {
        "verdicts": dict(rows.group_by("verdict").len().iter_rows()),
        "value": rows["value"].mean(),
        "other": rows["other"].mean(),
        "worse": rows.filter(pl.col("verdict") == "lost").head(10).to_dicts(),
        "segments": rows.height,
    }
    return render(
        request, desk, "move.html", page="fleets", title=f"{kind} {model}", info=info, kind=kind,
        keys=[] if whole_fleet else keys, whole_fleet=whole_fleet, version=version,
        evidence=evidence, found=found, gate=_gate(desk, model) if kind == "promote" else "",
        keys_json=json.dumps([] if whole_fleet else keys), back=form.one.get("query", ""),
    )  # fmt: skip


def _gate(desk: Desk, model: str) -> str:
    try:
        declared = desk.models().get(model)
    except ProjectError:
        return ""
    return "" if declared is None else declared.promote_if or ""


def _move(desk: Desk, request: Request, form: Form) -> Response:
    from starlette.responses import RedirectResponse

    model = request.path_params["model"]
    info = fleet_info(desk, model)
    keys = json.loads(form.one.get("keys", "[]"))
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise Missing("No segment was chosen.")
    visitor = request.state.visitor
    why = form.one.get("why", "").strip() or f"in the workspace, by an {visitor.role}"
    seen = whole(form.one.get("champion"), -1)
    if info.champion != seen:
        raise TrackingError(
            f"The champion of '{model}' is version {info.champion} now; the page knew {seen}. "
            "Nothing was changed.",
            hint="Look at the evidence again.",
        )
    with desk.alone():
        desk.models()
        if form.one.get("kind") == "rollback":
            done = desk.space.rollback(model, segments=keys, why=why)
        else:
            version = whole(form.one.get("version"), -1)
            force = form.one.get("force") == "1"
            done = desk.space.promote(model, version, segments=keys, why=why, force=force)
    desk.cache.forget("pointers", ("versions", model))
    return RedirectResponse(f"/fleets/{quote(model)}?tab=versions&moved={done.move.version}", 303)
