"""Runs as they are read back."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.entities import Run

__all__ = ["DatasetInput", "TrackedRun", "tracked_run"]


@dataclass(frozen=True, kw_only=True)
class DatasetInput:
    """A table that a run read.

    Args:
        name: ``schema.table``, or the name that another MLflow client gave.
        version: Delta version; None for datasets that are no Delta table.
        path: The table's folder, when known.
    """

    name: str
    version: int | None
    path: str | None


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """One MLflow run.

    Args:
        run_id: MLflow's id.
        name: Run name.
        status: ``RUNNING``, ``FINISHED``, ``FAILED``, ...
        started: Start time, UTC.
        seconds: Duration; None while it runs.
        params: Logged parameters.
        metrics: Last value of each metric.
        tags: Tags, MLflow's own included.
        datasets: What the run read.
    """

    run_id: str
    name: str
    status: str
    started: dt.datetime
    seconds: float | None
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    datasets: tuple[DatasetInput, ...]


def tracked_run(run: Run) -> TrackedRun:
    """Copies what Shoal uses of MLflow's run."""
    info = run.info
    ended = info.end_time
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return TrackedRun(
        run_id=info.run_id,
        name=info.run_name or "",
        status=info.status,
        started=dt.datetime.fromtimestamp(info.start_time / 1000, tz=dt.UTC),
        seconds=None if ended is None else (ended - info.start_time) / 1000,
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        tags=dict(run.data.tags),
        datasets=tuple(_dataset(item.dataset.name, item.dataset.source) for item in inputs),
    )


def _dataset(name: str, source: str) -> DatasetInput:
    try:
        known = json.loads(source)
    except ValueError:
        known = None
    known = known if isinstance(known, dict) else {}
    version = known.get("delta_table_version")
    return DatasetInput(
        name=name,
        version=version if isinstance(version, int) else None,
        path=known.get("path"),
    )
