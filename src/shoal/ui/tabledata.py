"""What a table's page shows, read from the lake."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shoal.errors import ShoalError, TableError
from shoal.pipeline import EXPECTATIONS, LINEAGE, stored_edges

if TYPE_CHECKING:
    import polars as pl

    from shoal.lake import Table
    from shoal.pipeline import Edge
    from shoal.ui.desk import Desk

__all__ = ["OPERATORS", "Sample", "Users", "edges", "history", "quality", "sample", "users"]

OPERATORS = {
    "eq": "is",
    "ne": "is not",
    "gt": "is more than",
    "ge": "is at least",
    "lt": "is less than",
    "le": "is at most",
    "has": "contains",
    "null": "is missing",
    "some": "is there",
}


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Some rows of a version.

    Args:
        columns: Their names.
        rows: Their values.
        numeric: Columns that hold numbers.
        matching: How many rows the filter lets through; None without a filter.
    """

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    numeric: frozenset[str]
    matching: int | None


def sample(
    table: Table,
    version: int,
    *,
    column: str = "",
    operator: str = "eq",
    value: str = "",
    sort: str = "",
    descending: bool = False,
    limit: int = 50,
    offset: int = 0,
) -> Sample:
    """Rows of a version.

    Args:
        table: The table.
        version: The version.
        column: Filter by this column; none without.
        operator: One of `OPERATORS`.
        value: What it is compared with, as text.
        sort: Order by this column.
        descending: The highest first.
        limit: At most so many.
        offset: Leave out so many.

    Raises:
        TableError: There is no such column, or the value does not fit it.
    """
    import polars as pl

    frame = table.scan(version)
    schema = frame.collect_schema()
    matching = None
    if column and operator in OPERATORS and (value or operator in {"null", "some"}):
        frame = frame.filter(_condition(schema, table.name, column, operator, value))
        matching = frame.select(pl.len()).collect().item()
    if sort:
        _known(schema, table.name, sort)
        frame = frame.sort(sort, descending=descending, nulls_last=True, maintain_order=True)
    rows = frame.slice(offset, limit).collect()
    numeric = frozenset(name for name, kind in schema.items() if kind.is_numeric())
    return Sample(columns=tuple(rows.columns), rows=rows.rows(), numeric=numeric, matching=matching)


def _known(schema: pl.Schema, table: str, column: str) -> pl.DataType:
    if column not in schema:
        raise TableError(f"{table} has no column '{column}' in this version.")
    return schema[column]


def _condition(schema: pl.Schema, table: str, column: str, operator: str, value: str) -> pl.Expr:
    import polars as pl

    kind, found = _known(schema, table, column), pl.col(column)
    if operator == "null":
        return found.is_null()
    if operator == "some":
        return found.is_not_null()
    if operator == "has":
        if kind.is_nested() or kind == pl.Binary:
            raise TableError(f"'{column}' holds {kind}: it cannot be searched.")
        return found.cast(pl.String).str.to_lowercase().str.contains(value.lower(), literal=True)
    wanted = pl.lit(_literal(column, kind, value))
    return {
        "eq": found == wanted,
        "ne": found != wanted,
        "gt": found > wanted,
        "ge": found >= wanted,
        "lt": found < wanted,
        "le": found <= wanted,
    }[operator]


def _literal(column: str, kind: pl.DataType, value: str) -> Any:
    """The text as a value of the column's type."""
    import polars as pl

    try:
        if kind.is_integer() or kind.is_float() or kind.is_decimal():
            number = float(value)
            return int(value) if kind.is_integer() and number.is_integer() else number
        if kind == pl.Boolean:
            return {"true": True, "1": True, "false": False, "0": False}[value.strip().lower()]
        if kind == pl.Date:
            return dt.date.fromisoformat(value.strip())
        if isinstance(kind, pl.Datetime):
            moment = dt.datetime.fromisoformat(value.strip())
            zone = dt.UTC if kind.time_zone else None
            return moment.replace(tzinfo=moment.tzinfo or zone) if zone else moment
    except (ValueError, KeyError):
        raise TableError(f"'{value}' does not fit '{column}', which holds {kind}.") from None
    if kind != pl.String:
        raise TableError(f"'{column}' holds {kind}: it can be searched for what is missing only.")
    return value


def history(desk: Desk, table: Table) -> list[dict[str, Any]]:
    """The table's commits, newest first, each with what a person wants to know of it."""

    def read() -> list[dict[str, Any]]:
        return [_told(entry) for entry in table.history()]

    return desk.kept(("history", table.name), read, table.name)


def _told(entry: Mapping[str, Any]) -> dict[str, Any]:
    metrics = entry.get("operationMetrics") or {}
    mode = (entry.get("operationParameters") or {}).get("mode", "")
    what = entry.get("shoal.refresh") or entry.get("shoal") or ""
    operation = str(entry.get("operation", "")).lower()
    rows = entry.get("shoal.rows") or metrics.get("num_added_rows") or metrics.get("numOutputRows")
    return {
        "version": int(entry["version"]),
        "at": entry.get("timestamp"),
        "operation": f"{operation} ({what})" if what else operation,
        "mode": "" if mode in {"ErrorIfExists", "Append"} else mode,
        "rows": int(rows) if rows is not None and str(rows).isdigit() else None,
        "inputs": str(entry.get("shoal.inputs", "")),
        "kind": str(entry.get("shoal.kind", "")).replace("_", " ").lower(),
        "run": str(entry.get("shoal.run", "")),
    }


def quality(desk: Desk, name: str) -> list[dict[str, Any]]:
    """Each expectation of a table over the runs, the newest last."""
    return [found for found in all_quality(desk) if found["table"] == name]


def all_quality(desk: Desk) -> list[dict[str, Any]]:
    """Each expectation of all tables; those that broke most in their last run come first."""

    def read() -> list[dict[str, Any]]:
        table = desk.find(EXPECTATIONS)
        if table is None:
            return []
        rows = table.scan().sort("dataset", "expectation", "at").collect()
        found = []
        keys = ["dataset", "expectation"]
        for (dataset, expectation), part in rows.group_by(keys, maintain_order=True):
            runs = part.tail(60).to_dicts()
            for run in runs:
                total = run["passed"] + run["failed"]
                run["rate"] = run["passed"] / total if total else None
            last = runs[-1]
            found.append(
                {
                    "table": dataset,
                    "name": expectation,
                    "condition": last["condition"],
                    "action": last["action"],
                    "runs": runs,
                    "passed": int(part["passed"].sum()),
                    "failed": int(part["failed"].sum()),
                    "last": last,
                }
            )
        return sorted(found, key=lambda one: -one["last"]["failed"])

    return desk.kept("quality", read, EXPECTATIONS)


def edges(desk: Desk) -> list[Edge]:
    """The lineage that runs kept, in an order of its own: the graph is drawn by it."""

    def read() -> list[Edge]:
        found = stored_edges(desk.space.lake)
        return sorted(found, key=lambda edge: (edge.table, edge.source))

    return desk.kept("edges", read, LINEAGE)


@dataclass(frozen=True, kw_only=True)
class Users:
    """Who has to do with a table.

    Args:
        sources: What it is made from: tables, ``files:...``, ``topic:...``.
        readers: Tables that are made from it.
        models: Models that learn from it, and those whose predictions it holds.
        flows: Flows that write it.
    """

    sources: tuple[str, ...]
    readers: tuple[str, ...]
    models: tuple[str, ...]
    flows: tuple[str, ...]


def users(desk: Desk, name: str) -> Users:
    """Who reads and writes a table."""
    found = edges(desk)
    learning = {model for model, table in learned_tables(desk).items() if table == name}
    return Users(
        sources=tuple(sorted({edge.source for edge in found if edge.table == name})),
        readers=tuple(sorted({edge.table for edge in found if edge.source == name})),
        models=tuple(sorted(learning)),
        flows=tuple(sorted({edge.flow for edge in found if edge.table == name})),
    )


def learned_tables(desk: Desk) -> dict[str, str]:
    """Each registered model, and the table that its newest version learned from."""
    found = {}
    for model in desk.pointers():
        try:
            versions = desk.versions(model)
        except ShoalError:
            continue
        table = next((v.tags["shoal.table"] for v in versions if "shoal.table" in v.tags), None)
        if table is not None:
            found[model] = table
    return found
