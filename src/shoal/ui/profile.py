"""A table's columns at a version: what they hold, how that moved from another, and over windows."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shoal.ui.chart import bars, shape, spark
from shoal.ui.drift import drift_of
from shoal.ui.page import clock, number, render, short_value
from shoal.ui.routes import Router, whole

if TYPE_CHECKING:
    import pyarrow as pa
    from markupsafe import Markup
    from starlette.requests import Request
    from starlette.responses import Response

    from shoal.lake import Table
    from shoal.ui.desk import Desk

__all__ = ["add_profile"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """What one column holds.

    Args:
        name: Its name.
        type: Its type.
        missing: Share of nulls and NaNs.
        low: Least value, as text.
        high: Greatest.
        middle: Mean and standard deviation, or the most frequent values.
        chart: How its values are distributed.
        moved: What ``psi``, ``ks``, ``js``, ``chi2``, ``p`` and ``baseline_missing`` say of how it
            differs from the other version; None without one.
    """

    name: str
    type: str
    missing: float
    low: str
    high: str
    middle: str
    chart: Markup
    moved: dict[str, Any] | None

    @property
    def drifted(self) -> bool:
        """It moved far, and more than by chance."""
        from shoal.workspace.profiles import clearly_moved

        return self.moved is not None and clearly_moved(self.moved)


def add_profile(router: Router) -> None:
    """Adds the profile's route."""
    router.page("/part/profile/{name}", _part)


def _part(desk: Desk, request: Request) -> Response:
    from shoal.workspace.profiles import moved as moves

    table = desk.table(request.path_params["name"])
    newest = desk.summary(table)
    asked = request.query_params
    version = whole(asked.get("version"), newest.version, high=newest.version)
    against = whole(asked.get("against"), -1, high=newest.version)
    found = _profile(desk, table, version)
    moved: dict[str, dict[str, Any]] = {}
    if against >= 0 and against != version:
        moved = moves(_profile(desk, table, against), found)
    fields = {field.name: field.type for field in table.schema(version)}
    columns = [_column(one, fields[one["column"]], moved) for one in found.to_pylist()]
    left = [name for name in fields if name not in {column.name for column in columns}]
    rows = found.column("rows")[0].as_py() if found.num_rows else 0
    return render(
        request, desk, "part_profile.html", table=table, columns=columns, left=left,
        version=version, against=against if moved else None, rows=rows,
        whole=desk.summary(table).rows if version == newest.version else None,
        watched=_watched(desk, table.name),
    )  # fmt: skip


def _profile(desk: Desk, table: Table, version: int) -> pa.Table:
    """Sketches of all columns that can be sketched; a version never changes."""
    from shoal.workspace.profiles import sketched

    key = ("profile", table.name, version)
    return desk.kept(key, lambda: sketched(table, version), table.name)


def _column(one: dict[str, Any], kind: pa.DataType, moved: dict[str, dict[str, Any]]) -> Column:
    import numpy as np
    import pyarrow as pa

    known = one["rows"] - one["missing"]
    low = high = middle = ""
    if one["kind"] == "number":
        points = np.array(one["points"] or [], dtype=np.float64)
        finite = points[np.isfinite(points)]
        chart = shape(finite, label=f"Values of {one['column']}")
        moment = pa.types.is_temporal(kind)
        if known:
            low, high = (_told(one[side], kind) for side in ("low", "high"))
            middle = f"mean {_told(one['mean'], kind)}"
            if not moment and one["std"] is not None:
                middle += f", std {_told(one['std'], kind)}"
    else:
        labels, counts = one["labels"] or [], one["counts"] or []
        chart = bars(
            [(str(name), count) for name, count in zip(labels, counts, strict=True)][:5],
            label=f"Most frequent values of {one['column']}",
        )
        if labels and known:
            middle = f"{short_value(labels[0])} in {counts[0] / known:.0%}"
    return Column(
        name=one["column"],
        type=str(kind),
        missing=one["missing"] / one["rows"] if one["rows"] else 0.0,
        low=low,
        high=high,
        middle=middle,
        chart=chart,
        moved=moved.get(one["column"]),
    )


def _told(value: float | None, kind: pa.DataType) -> str:
    import pyarrow as pa

    if value is None:
        return ""
    if not pa.types.is_temporal(kind):
        return number(value, 5)
    try:
        moment = dt.datetime.fromtimestamp(value, dt.UTC)
    except (OverflowError, ValueError, OSError):  # beyond the year 9999
        return number(value, 5)
    return f"{moment:%Y-%m-%d}" if pa.types.is_date(kind) else clock(moment)


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A table's windows.

    Args:
        drift: The last one.
        trends: Each column, its last PSI and how that went; over segments, the largest.
    """

    drift: Any
    trends: list[tuple[str, float | None, Markup]]


def _watched(desk: Desk, name: str) -> Watched | None:
    """What `shoal monitor` found of a table; None where it was never watched."""
    import polars as pl

    from shoal.workspace.watch import table_key

    key = table_key(name)
    found = drift_of(desk, key)
    table = desk.find(f"shoal.drift_{key}")
    if found is None or table is None:
        return None

    def read() -> list[tuple[str, float | None, Markup]]:
        rows = table.scan().filter(pl.col("check") != "window", pl.col("column").is_not_null())
        each = rows.group_by("column", "window").agg(pl.col("psi").max()).sort("window").collect()
        told = []
        for (column,), part in sorted(each.group_by("column"), key=lambda pair: str(pair[0][0])):
            values = part["psi"].to_list()[-60:]
            label = f"Largest PSI of {column} in {len(values)} windows"
            told.append((str(column), values[-1], spark(values, label=label, low=0.0)))
        return told

    return Watched(drift=found, trends=desk.kept(("trends", key), read, table.name))
