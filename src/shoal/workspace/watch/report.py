"""What watching a model found, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["MonitorReport"]


@dataclass(frozen=True, kw_only=True)
class MonitorReport:
    """One window of one model, or of one table.

    Attributes:
        model: The registered model, or the table.
        status: ``watched``, ``current`` (no new row, no new truth) or ``failed``.
        window: The window's number, from 1.
        version: The champion that was watched; None of a table.
        table: The model's table, or the one that was watched.
        since: The version of it that the window begins after.
        table_version: The one that it ends with.
        rows: New rows.
        labelled: Predictions whose truth is known since this window.
        segments: Segments with new rows or truth.
        tests: How many findings were tested.
        over: How many count: large, and unlikely to be chance.
        opened: Alarms that opened.
        closed: Alarms that closed.
        alarms: Alarms that are open.
        metric: What errors are measured by.
        value: The metric over all of the window's truth; None without.
        reference: What the holdouts of the same segments promised.
        worst: The gravest open alarms: ``check``, ``segment``, ``column``, ``effect``, ``score``.
        notes: What was not looked at, and why.
        undelivered: Alerts that no receiver took yet.
        seconds: Wall time.
        error: The error, if any.
    """

    model: str
    status: str
    window: int | None = None
    version: int | None = None
    table: str = ""
    since: int | None = None
    table_version: int | None = None
    rows: int = 0
    labelled: int = 0
    segments: int = 0
    tests: int = 0
    over: int = 0
    opened: int = 0
    closed: int = 0
    alarms: int = 0
    metric: str | None = None
    value: float | None = None
    reference: float | None = None
    worst: tuple[Mapping[str, Any], ...] = field(default_factory=tuple)
    notes: tuple[str, ...] = ()
    undelivered: int = 0
    seconds: float = 0.0
    error: str | None = None
