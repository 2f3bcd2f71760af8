"""What runs left behind for people: their events, and how good the tables' rows were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shoal.errors import TableNotFound, nearest

if TYPE_CHECKING:
    import polars as pl

    from shoal.lake import Lake

__all__ = ["LEVELS", "Quality", "events", "quality"]

LEVELS = ("INFO", "WARN", "ERROR")


@dataclass(frozen=True, kw_only=True)
class Quality:
    """One expectation over the runs.

    Args:
        table: The table.
        expectation: The expectation's name.
        condition: Its condition, as the last run had it.
        action: What happens to a row that breaks it: ``warn``, ``drop`` or ``fail``.
        runs: Runs that checked it.
        passed: Rows that met it, in all of these.
        failed: Rows that broke it, in all of these.
        rates: Share of rows that met it, run by run, the newest last; None where a run had no rows.
    """

    table: str
    expectation: str
    condition: str
    action: str
    runs: int
    passed: int
    failed: int
    rates: tuple[float | None, ...]

    @property
    def rate(self) -> float | None:
        """Share of all rows that met it."""
        total = self.passed + self.failed
        return self.passed / total if total else None


def events(
    lake: Lake,
    *,
    table: str | None = None,
    run: str | None = None,
    level: str = "INFO",
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """Events of runs, the newest last, with ``details`` as values.

    Args:
        lake: The lake.
        table: Only those of this table.
        run: Only those of the run whose id begins so; ``last`` is the last run.
        level: Only these and graver ones.
        limit: At most so many, the newest.

    Raises:
        TableNotFound: No run was taken down yet, none has this id, or none had this table.
    """
    import json

    import polars as pl

    from shoal.pipeline import EVENTS

    frame = _read(lake, EVENTS, "No run has left an event yet.").sort("at", maintain_order=True)
    if run is not None:
        ends = frame.filter(pl.col("event_type") == "run_end")["run_id"]
        wanted = ends[-1] if run == "last" and len(ends) else run
        frame = frame.filter(pl.col("run_id").str.starts_with(wanted))
        if not frame.height:
            raise TableNotFound(
                f"No run has an id that begins with '{run}'.", hint="shoal events lists the runs."
            )
    if table is not None:
        frame = frame.filter(pl.col("dataset") == _one_of(lake, table, list(frame["dataset"])))
    frame = frame.filter(pl.col("level").is_in(LEVELS[LEVELS.index(level) :]))
    found = (frame if limit is None else frame.tail(limit)).to_dicts()
    return [{**row, "details": json.loads(row["details"])} for row in found]


def quality(lake: Lake, *, table: str | None = None, last: int = 10) -> list[Quality]:
    """The expectations over the runs, by table and name.

    Args:
        lake: The lake.
        table: Only those of this table.
        last: Give the rates of so many runs.

    Raises:
        TableNotFound: No run has checked an expectation yet, or none of this table.
    """
    import polars as pl

    from shoal.pipeline import EXPECTATIONS

    frame = _read(lake, EXPECTATIONS, "No run has checked an expectation yet.").sort("at")
    if table is not None:
        frame = frame.filter(pl.col("dataset") == _one_of(lake, table, list(frame["dataset"])))
    found = []
    keys = ["dataset", "expectation"]
    for _, part in frame.sort(*keys, "at").group_by(keys, maintain_order=True):
        rows = part.to_dicts()
        newest = rows[-1]
        found.append(
            Quality(
                table=newest["dataset"],
                expectation=newest["expectation"],
                condition=newest["condition"],
                action=newest["action"],
                runs=part["run_id"].n_unique(),
                passed=int(part["passed"].sum()),
                failed=int(part["failed"].sum()),
                rates=tuple(_rate(row) for row in rows[-last:]),
            )
        )
    return found


def _rate(row: dict[str, Any]) -> float | None:
    total = row["passed"] + row["failed"]
    return row["passed"] / total if total else None


def _read(lake: Lake, name: str, nothing: str) -> pl.DataFrame:
    table = lake.table(name)
    if not table.exists():
        raise TableNotFound(nothing, hint="Refresh the tables: shoal run")
    return table.scan().collect()


def _one_of(lake: Lake, table: str, known: Sequence[str | None]) -> str:
    wanted, names = str(lake.name(table)), {name for name in known if name is not None}
    if wanted not in names:
        close = nearest(wanted, names)
        raise TableNotFound(
            f"Nothing was taken down of '{wanted}'.",
            hint=f"Did you mean '{close}'?" if close else "shoal plan lists the tables.",
        )
    return wanted
