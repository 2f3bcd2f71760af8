"""A training in numbers and texts, for the tracked run."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from shoal.models import ModelDeclaration
from shoal.models.metrics import metric_error, metric_values
from shoal.training.members import Members

if TYPE_CHECKING:
    import pyarrow as pa

# What a summary reads of the members besides the declared metric; their states are the bulk.
_READ = (
    "level", "status", "origin_version", "rows_train", "rows_holdout", "rows_dropped",
    "core_seconds", "data_bytes", "state_bytes",
)  # fmt: skip

__all__ = ["declared_params", "summarise"]


def summarise(
    members: Members, metrics: Collection[str], metric: str, *, rows: int, fit_seconds: float
) -> dict[str, float]:
    """The fleet's metrics: pooled over all held-out rows, spread over segments, counts and times.

    Args:
        members: The fleet's members.
        metrics: The measured metrics.
        metric: The declared one.
        rows: Rows in the training table.
        fit_seconds: Wall-clock time of fitting.
    """
    read = [*_READ, *(c for c in members.table.column_names if c == metric)]
    whole = members.table.select(read)
    table = whole.filter(np.asarray(whole.column("level")) == 0)
    status = _counts(table)
    # What was carried over cost nothing this time.
    now = whole.filter(whole.column("origin_version").is_null())
    found: dict[str, float] = {
        "segments": table.num_rows,
        "segments_ok": status.get("ok", 0),
        "segments_fallback": status.get("fallback", 0),
        "segments_failed": status.get("failed", 0),
        "segments_fitted": table.column("origin_version").null_count,
        "segments_carried": table.num_rows - table.column("origin_version").null_count,
        "rows": rows,
        "rows_train": _total(table, "rows_train"),
        "rows_holdout": _total(table, "rows_holdout"),
        "rows_dropped": _total(table, "rows_dropped"),
        "models_per_second": _counts(table.filter(table.column("origin_version").is_null())).get(
            "ok", 0
        )
        / max(fit_seconds, 1e-9),
        "fit_seconds": fit_seconds,
        "core_seconds": _total(now, "core_seconds"),
        "data_bytes": _total(now, "data_bytes"),
        "state_bytes": _total(whole, "state_bytes"),
    }
    for column, sums in members.pooled.items():
        of = column if column in metrics else metric
        found[column] = float(metric_values(of, sums)[0])
    each = table.column(metric).drop_null().to_numpy()
    if len(each):
        found[f"{metric}_mean"] = float(each.mean())
        for percent in (50, 90, 99):
            found[f"{metric}_p{percent}"] = float(np.percentile(each, percent))
    if f"baseline_{metric}" in found:
        base = metric_error(metric, found[f"baseline_{metric}"])
        if base:
            found["skill"] = 1.0 - metric_error(metric, found[metric]) / base
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}


def declared_params(declaration: ModelDeclaration) -> dict[str, str]:
    """The declared settings and the function's arguments, as text."""
    declared = {
        "table": declaration.table,
        "target": declaration.target,
        "by": ", ".join(declaration.by),
        "time": declaration.time or "",
        **({"weight": declaration.weight} if declaration.weight else {}),
        "metric": declaration.metric,
        "baseline": declaration.baseline,
        "holdout": str(declaration.holdout),
        **({"backtest": str(declaration.backtest)} if declaration.backtest > 1 else {}),
        **({"interval": str(declaration.interval)} if declaration.interval else {}),
        "min_rows": str(declaration.min_rows),
        "seed": str(declaration.seed),
    }
    return declared | {f"params.{k}": str(v) for k, v in declaration.params.items()}


def _counts(table: pa.Table) -> dict[str, int]:
    """How many members have each status."""
    found = pc.value_counts(table.column("status"))
    return {str(each["values"]): int(each["counts"].as_py()) for each in found}


def _total(table: Any, column: str) -> float:
    return float(np.nansum(table.column(column).to_numpy(zero_copy_only=False)))
