"""Runs as pages show them: what the lake's events say of those that ended."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shoal.pipeline import EVENTS
from shoal.ui.chart import Span

if TYPE_CHECKING:
    from shoal.ui.desk import Desk

__all__ = ["PastRun", "past_runs", "usual_seconds"]

_KEPT = 200


@dataclass(frozen=True, kw_only=True)
class PastRun:
    """One run that ended.

    Args:
        id: Its id.
        started: When, UTC.
        seconds: How long it took.
        status: ``completed``, ``failed``, ``interrupted`` or ``killed``.
        tables: What happened to each table.
        rows: Rows written.
        errors: What failed, and why.
        events: All its events.
    """

    id: str
    started: dt.datetime
    seconds: float
    status: str
    tables: tuple[dict[str, Any], ...]
    rows: int
    errors: tuple[tuple[str, str], ...]
    events: tuple[dict[str, Any], ...]

    @property
    def state(self) -> str:
        """Its colour."""
        return {"completed": "good", "failed": "bad", "killed": "bad"}.get(self.status, "warn")

    @property
    def spans(self) -> list[Span]:
        """When each table was refreshed."""
        found = []
        for table in self.tables:
            took = float(table.get("seconds") or 0)
            begun = (table["at"] - self.started).total_seconds() - took
            found.append(
                Span(
                    label=table["table"],
                    start=max(begun, 0.0),
                    seconds=took,
                    state="good",
                    href=f"/catalog/{table['table']}",
                )
            )
        return sorted(found, key=lambda span: span.start)


def past_runs(desk: Desk) -> list[PastRun]:
    """The runs that the lake tells of, the newest first."""

    def read() -> list[PastRun]:
        import polars as pl

        table = desk.find(EVENTS)
        if table is None:
            return []
        frame = table.scan()
        ends = frame.filter(pl.col("event_type") == "run_end").sort("at").tail(_KEPT)
        ids = ends.select("run_id").unique()
        rows = frame.join(ids, on="run_id", how="semi").sort("at").collect()
        runs = [
            _run(str(key[0]), part.to_dicts())
            for key, part in rows.group_by(["run_id"], maintain_order=True)
        ]
        return sorted(runs, key=lambda run: run.started, reverse=True)

    return desk.kept("runs", read, EVENTS)


def _run(run_id: str, events: list[dict[str, Any]]) -> PastRun:
    for event in events:
        event["details"] = json.loads(event["details"] or "{}")
    start = next((e for e in events if e["event_type"] == "run_start"), events[0])
    end = next((e for e in reversed(events) if e["event_type"] == "run_end"), events[-1])
    tables = [
        {"table": e["dataset"], "at": e["at"], **e["details"]}
        for e in events
        if e["event_type"] == "flow_progress" and e["level"] == "INFO"
    ]
    errors = [
        (e["dataset"] or "", e["message"])
        for e in events
        if e["event_type"] == "error"
        or (e["event_type"] == "flow_progress" and e["level"] != "INFO")
    ]
    return PastRun(
        id=run_id,
        started=start["at"],
        seconds=float(end["details"].get("seconds") or (end["at"] - start["at"]).total_seconds()),
        status=str(end["details"].get("status", "")),
        tables=tuple(tables),
        rows=sum(int(t.get("rows") or 0) for t in tables),
        errors=tuple(errors),
        events=tuple(events),
    )


def usual_seconds(desk: Desk) -> dict[str, float]:
    """How long each table's last refresh took."""
    found: dict[str, float] = {}
    for run in past_runs(desk):
        for table in run.tables:
            found.setdefault(table["table"], float(table.get("seconds") or 0))
    return found
