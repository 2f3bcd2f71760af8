"""The catalog: tables by schema, and each table's page."""

from __future__ import annotations

import json
from itertools import groupby
from typing import TYPE_CHECKING, Any

from shoal.errors import ShoalError, TableError
from shoal.lake import file_layout, summarise
from shoal.ui.chart import trend
from shoal.ui.page import clock, number, render
from shoal.ui.routes import Form, Router, whole
from shoal.ui.tabledata import OPERATORS, Sample, history, quality, sample, users

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from shoal.lake import Table
    from shoal.ui.desk import Desk

__all__ = ["add_catalog"]

_ORDER = {"bronze": 0, "silver": 1, "gold": 2, "shoal": 9}
_PAGE = 50
_TABS = {
    "columns": "Columns",
    "rows": "Rows",
    "profile": "Profile",
    "versions": "Versions",
    "quality": "Quality",
    "files": "Files",
}


def add_catalog(router: Router) -> None:
    """Adds the catalog's routes."""
    router.page("/catalog", _index)
    router.page("/catalog/{name}", _table)
    router.page("/catalog/{name}/diff", _diff)
    router.page("/catalog/{name}/restore", _ask_restore)
    router.action("/catalog/{name}/restore", _restore)


def _index(desk: Desk, request: Request) -> Response:
    wanted = request.query_params.get("q", "").strip().lower()
    found = [s for s in desk.summaries() if wanted in f"{s.name} {s.comment}".lower()]

    def schema(one: Any) -> str:
        return str(one.name.partition(".")[0])

    ordered = sorted(found, key=lambda s: (_ORDER.get(schema(s), 5), s.name))
    groups = [(key, list(part)) for key, part in groupby(ordered, key=schema)]
    total = {
        "tables": len(found),
        "rows": sum(s.rows for s in found),
        "bytes": sum(s.bytes for s in found),
    }
    return render(
        request, desk, "catalog.html", page="catalog", title="Catalog", groups=groups,
        total=total, wanted=request.query_params.get("q", ""),
    )  # fmt: skip


def _table(desk: Desk, request: Request) -> Response:
    table = desk.table(request.path_params["name"])
    newest = desk.summary(table)
    asked = request.query_params
    entries = history(desk, table)
    numbers = [entry["version"] for entry in entries]
    version = whole(asked.get("version"), newest.version, high=newest.version)
    if version != newest.version and version not in numbers:
        raise TableError(f"{table.name} has no version {version} in its log.")
    tab = asked.get("tab", "columns")
    summary = newest
    if version != newest.version:
        key = ("summary", table.name, version)
        summary = desk.kept(key, lambda: summarise(table, version), table.name)
    values: dict[str, Any] = {}
    if tab == "rows":
        values = _rows(desk, request, table, version)
    elif tab == "profile":
        against = whole(asked.get("against"), -1, high=newest.version)
        values = {"against": against if against >= 0 else None}
    elif tab == "versions":
        page = whole(asked.get("page"), 1, low=1)
        values = {
            "shown": entries[(page - 1) * _PAGE : page * _PAGE],
            "number": page,
            "pages": -(-len(entries) // _PAGE),
        }
    elif tab == "quality":
        values = {"expectations": [_drawn(one) for one in quality(desk, table.name)]}
    elif tab == "files":
        values = _files(desk, table, version)
    names = {str(e["version"]): f"{e['version']} · {clock(e['at'])}" for e in entries}
    return render(
        request, desk, "table.html", page="catalog", title=table.name, table=table,
        summary=summary, newest=newest, version=version, oldest=min(numbers, default=0),
        entries=entries, tab=tab if tab in _TABS else "columns", tabs=_TABS,
        users=users(desk, table.name), names=json.dumps(names), **values,
    )  # fmt: skip


def _rows(desk: Desk, request: Request, table: Table, version: int) -> dict[str, Any]:
    asked = request.query_params
    page = whole(asked.get("page"), 1, low=1, high=100_000)
    operator = asked.get("op", "eq")
    wanted: dict[str, Any] = {
        "column": asked.get("column", ""),
        "operator": operator if operator in OPERATORS else "eq",
        "value": asked.get("value", ""),
        "sort": asked.get("sort", ""),
        "descending": "desc" in asked,
        "offset": (page - 1) * _PAGE,
    }

    def read() -> Sample:
        return sample(table, version, limit=_PAGE, **wanted)

    wrong = ""
    try:
        rows = desk.rows(table, (version, *wanted.values()), read)
    except TableError as error:
        if error.message.startswith("'") or " no column " in error.message:
            rows, wrong = sample(table, version, limit=_PAGE), error.message
        else:
            raise
    return {
        "sample": rows, "wrong": wrong, "operators": OPERATORS, "page_number": page,
        "asked": {name: asked.get(name, "") for name in ("column", "op", "value", "sort")},
        "descending": "desc" in asked,
    }  # fmt: skip


def _drawn(one: dict[str, Any]) -> dict[str, Any]:
    points = [
        (
            f"{clock(run['at'])}: {run['failed']:,} of {run['failed'] + run['passed']:,} broke it",
            None if run["rate"] is None else 100 * run["rate"],
        )
        for run in one["runs"]
    ]
    rates = [value for _, value in points if value is not None]
    low = min(rates, default=0.0)
    low = 0.0 if low < 50 else 50.0 if low < 90 else 90.0 if low < 99 else 99.0
    text = f"Share of rows that met {one['name']} in {len(points)} runs"
    return {**one, "chart": trend(points, label=text, low=low, high=100.0, unit="%")}


def _files(desk: Desk, table: Table, version: int) -> dict[str, Any]:
    def read() -> dict[str, Any]:
        files = file_layout(table, version)
        parts: dict[str, list[int]] = {}
        for file in files:
            key = ", ".join(f"{k}={v}" for k, v in file.partition.items()) or "all"
            part = parts.setdefault(key, [0, 0, 0])
            part[0] += 1
            part[1] += file.rows or 0
            part[2] += file.bytes
        small = sum(1 for file in files if file.bytes < 16_000_000)
        return {
            "files": files[:200], "count": len(files), "partitions": sorted(parts.items())[:200],
            "partition_count": len(parts), "small": small,
            "mean": sum(f.bytes for f in files) / len(files) if files else 0,
        }  # fmt: skip

    return desk.kept(("files", table.name, version), read, table.name)


def _diff(desk: Desk, request: Request) -> Response:
    table = desk.table(request.path_params["name"])
    newest, asked = desk.summary(table), request.query_params
    after = whole(asked.get("to"), newest.version, high=newest.version)
    before = whole(asked.get("from"), max(after - 1, 0), high=newest.version)
    key = tuple(name for name in asked.getlist("key") if name)

    def read() -> Any:
        return desk.space.maintenance.diff(table.name, before, after, key=list(key), limit=25)

    found, wrong = None, None
    try:
        found = desk.kept(("diff", table.name, before, after, key), read, table.name)
    except ShoalError as error:
        wrong = error
    kept: dict[str, list[Any]] = {}
    if found is not None:
        for change in found.sample:
            kept.setdefault(change.kind, []).append(change)
    return render(
        request, desk, "diff.html", page="catalog", title=f"{table.name}: versions {before} and "
        f"{after}", table=table, before=before, after=after, newest=newest, key=key, diff=found,
        wrong=wrong, changes=kept, entries=history(desk, table),
    )  # fmt: skip


def _ask_restore(desk: Desk, request: Request) -> Response:
    table = desk.table(request.path_params["name"])
    version = whole(request.query_params.get("version"), -1)
    plan, notes = desk.space.maintenance.restore(table.name, version, dry_run=True)
    return render(
        request, desk, "restore.html", page="catalog", title=f"Restore {table.name}", table=table,
        plan=plan, notes=notes, version=version,
    )  # fmt: skip


def _restore(desk: Desk, request: Request, form: Form) -> Response:
    from starlette.responses import RedirectResponse

    table = desk.table(request.path_params["name"])
    version = whole(form.one.get("version"), -1)
    expected = whole(form.one.get("newest"), -1)
    if table.version() != expected:
        raise TableError(
            f"{table.name} has a newer version than the page knew ({number(expected)}); nothing "
            "was changed.",
            hint="Look at its versions again.",
        )
    with desk.alone():
        done, _ = desk.space.maintenance.restore(table.name, version)
    to = done.before if done.version is None else done.version
    return RedirectResponse(f"/catalog/{table.name}?tab=versions&restored={to}", 303)
