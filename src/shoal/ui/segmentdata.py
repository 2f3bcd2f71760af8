"""One segment: its rows, what versions forecast for them, and how its members came about."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from shoal.errors import ShoalError, TableError
from shoal.ui.fleetdata import FleetInfo, members
from shoal.ui.routes import Missing

if TYPE_CHECKING:
    import polars as pl

    from shoal.ui.desk import Desk

__all__ = ["member_history", "member_of", "segment_rows", "series"]

_LAST = 1_500


def values_of(info: FleetInfo, key: str) -> list[str | None]:
    """A key's values.

    Raises:
        Missing: It is no key of this fleet.
    """
    try:
        values = json.loads(key)
    except ValueError:
        values = None
    good = isinstance(values, list) and all(isinstance(v, str | None) for v in values)
    if not good or len(values) != len(info.by):
        raise Missing(f"'{info.name}' has no segment {key}.")
    return list(values)


def member_of(desk: Desk, info: FleetInfo, version: int, key: str) -> dict[str, Any]:
    """A segment's member in a version.

    Raises:
        Missing: The version has no such segment.
    """
    import polars as pl

    frame = members(desk, info.name, info.fleet_version(version))
    found = frame.filter(pl.col("segment") == key).to_dicts()
    if not found:
        raise Missing(f"Version {version} of '{info.name}' has no segment {key}.")
    return found[0]


def member_history(desk: Desk, info: FleetInfo, key: str) -> list[dict[str, Any]]:
    """A segment's members in all versions, the newest first, each with its registered version."""
    import polars as pl

    table = desk.table(f"shoal.fleet_{info.name}")

    def read() -> list[dict[str, Any]]:
        frame = table.scan()
        names = frame.collect_schema().names()
        wanted = ["fleet_version", "status", "uses", "model_used", "reason", "error", "rows_train"]
        wanted += ["origin_version", "trained_on_version", "trained_at", "core_seconds"]
        if info.metric in names:
            wanted.append(info.metric)
        found = frame.filter((pl.col("segment") == key) & (pl.col("level") == 0))
        return found.select(wanted).sort("fleet_version", descending=True).collect().to_dicts()

    rows = desk.kept(("member", info.name, key), read, table.name)
    numbers = {v.tags.get("shoal.fleet_version"): v for v in info.versions}
    return [
        {**row, "registered": numbers.get(str(row["fleet_version"])), "value": row.get(info.metric)}
        for row in rows
    ]


def segment_rows(desk: Desk, info: FleetInfo, key: str) -> pl.DataFrame:
    """A segment's rows in the table that it learns from, the last in time at the end.

    Raises:
        Missing: There is no such table, or the key is none of this fleet.
    """
    import polars as pl

    values = values_of(info, key)
    table = desk.table(info.table)

    def read() -> pl.DataFrame:
        frame = table.scan()
        schema = frame.collect_schema()
        for name, value in zip(info.by, values, strict=True):
            column = pl.col(name) if schema[name] == pl.String else pl.col(name).cast(pl.String)
            frame = frame.filter(column.is_null() if value is None else column == value)
        if info.time in schema:
            return frame.sort(info.time, nulls_last=False).tail(_LAST).collect()
        return frame.tail(_LAST).collect()

    return desk.kept(("segment", info.name, key), read, table.name)


def series(
    desk: Desk, info: FleetInfo, key: str, version: int, against: int | None
) -> dict[str, Any]:
    """What happened, what a version says of it with its interval, and what another says.

    Args:
        desk: The desk.
        info: The fleet.
        key: The segment.
        version: A version.
        against: Another, or None.

    Returns:
        ``t`` (seconds since 1970, or places in the order of rows), ``actual``, ``forecast``,
        ``lower``, ``upper``, ``other``, each a list as long as the rows; ``notes`` says what could
        not be told.
    """
    import polars as pl

    rows = segment_rows(desk, info, key)
    found: dict[str, Any] = {"timed": False, "notes": [], "t": list(range(rows.height))}
    if info.time in rows.columns and rows[info.time].dtype.is_temporal():
        moments = rows[info.time].cast(pl.Datetime("us"))
        found["t"] = [t / 1e6 if t is not None else None for t in moments.dt.epoch("us").to_list()]
        found["timed"] = True
    target = rows[info.target] if info.target in rows.columns else pl.Series([None] * rows.height)
    numeric = target.dtype.is_numeric() or target.dtype == pl.Boolean
    found["actual"] = _plain(target.cast(pl.Float64) if numeric else target)
    found["numeric"] = numeric
    for name, number in (("forecast", version), ("other", against)):
        found[name] = None
        if number is None:
            continue
        try:
            fleet = desk.fleet(info.name, number)
            bounds = name == "forecast" and fleet.header.interval is not None
            told = fleet.predict(rows.to_arrow(), interval=bounds)
        except (ShoalError, TableError) as error:
            found["notes"].append(f"Version {number} cannot predict these rows: {error.message}")
            continue
        found[name] = _numbers(told.column("prediction"))
        if bounds:
            found["lower"] = _numbers(told.column("prediction_lower"))
            found["upper"] = _numbers(told.column("prediction_upper"))
            found["cover"] = fleet.header.interval
    return found


def _plain(values: pl.Series) -> list[Any]:
    return (values.fill_nan(None) if values.dtype.is_float() else values).to_list()


def _numbers(column: Any) -> list[Any]:
    import polars as pl

    return _plain(pl.Series(column.to_pylist()))
