"""What watching keeps: ``shoal.drift_<model>``, ``shoal.profiles_<model>``, ``shoal.alerts``.

A window is one commit of the drift table: a row for each finding, and one whose check is
``window`` that says how far the model's table was read. Its number is the commit's application
transaction, so of two that watch at once one wins, and a window is never counted twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    import polars as pl

    from shoal.lake import Lake, Table

__all__ = [
    "ALERTS",
    "Window",
    "alerts_table",
    "drift_table",
    "last_window",
    "profiles_table",
    "table_key",
]

ALERTS = "shoal.alerts"

FINDING = pa.schema(
    [
        ("window", pa.int64()),
        ("at", pa.timestamp("us", "UTC")),
        ("model_version", pa.int64()),
        ("check", pa.string()),
        ("segment", pa.string()),
        ("column", pa.string()),
        ("rows", pa.int64()),
        ("baseline_rows", pa.int64()),
        ("ks", pa.float64()),
        ("psi", pa.float64()),
        ("js", pa.float64()),
        ("chi2", pa.float64()),
        ("missing", pa.float64()),
        ("baseline_missing", pa.float64()),
        ("outside", pa.float64()),
        ("value", pa.float64()),
        ("reference", pa.float64()),
        ("p", pa.float64()),
        ("q", pa.float64()),
        ("effect", pa.float64()),
        ("weight", pa.float64()),
        ("score", pa.float64()),
        ("over", pa.bool_()),
        ("streak", pa.int64()),
        ("alarm", pa.bool_()),
        ("changed", pa.string()),
        ("details", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Window:
    """The last window of a model.

    Attributes:
        number: Its number.
        table_id: Delta id of the table that windows come from.
        table_version: The version that it ended with.
        truth_version: The version of the model's own table then.
        states: Streak and alarm of each finding, by check, segment and column; also those of
            earlier windows whose segments had no rows since.
    """

    number: int
    table_id: str
    table_version: int
    truth_version: int
    states: Mapping[tuple[str, str, str], tuple[int, bool]]


def table_key(table: str) -> str:
    """Under which name the windows of a table are kept, where a model's has its own."""
    return f"table_{table.replace('.', '__')}"


def drift_table(lake: Lake, model: str) -> Table:
    """The findings of a model's windows."""
    return lake.table(f"shoal.drift_{model}")


def profiles_table(lake: Lake, model: str) -> Table:
    """The sketches of a model's baselines and windows."""
    return lake.table(f"shoal.profiles_{model}")


def alerts_table(lake: Lake) -> Table:
    """The alerts of all models: one row when one is made, another when it was delivered."""
    return lake.table(ALERTS)


def last_window(lake: Lake, model: str) -> Window | None:
    """The last window of a model; None before the first."""
    import polars as pl

    table = drift_table(lake, model)
    if not table.exists():
        return None
    rows = table.scan()
    newest = rows.filter(pl.col("check") == "window").sort("window").tail(1).collect()
    if not newest.height:
        return None
    (row,) = newest.to_dicts()
    said = json.loads(row["details"])
    return Window(
        number=row["window"],
        table_id=said["table_id"],
        table_version=said["table_version"],
        truth_version=said.get("truth_version", said["table_version"]),
        states=_states(rows),
    )


def _states(rows: pl.LazyFrame) -> dict[tuple[str, str, str], tuple[int, bool]]:
    import polars as pl

    keys = ["check", "segment", "column"]
    newest = (
        rows.filter(pl.col("check") != "window")
        .sort("window")
        .group_by(keys)
        .agg(pl.col("streak").last(), pl.col("alarm").last())
        .collect()
    )
    return {
        (check, segment, column): (streak, alarm)
        for check, segment, column, streak, alarm in newest.iter_rows()
    }


def findings(columns: Mapping[str, Any], rows: int) -> pa.Table:
    """A table of schema `FINDING`; columns that are not given are null."""
    made = []
    for field in FINDING:
        values = columns.get(field.name)
        if values is None:
            made.append(pa.nulls(rows, field.type))
        elif isinstance(values, pa.Array | pa.ChunkedArray):
            made.append(values.cast(field.type))
        elif isinstance(values, list | np.ndarray):
            made.append(pa.array(values, field.type, from_pandas=True))
        else:
            made.append(pa.repeat(pa.scalar(values, field.type), rows))
    return pa.table(made, schema=FINDING)
