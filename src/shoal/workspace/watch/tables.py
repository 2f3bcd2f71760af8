"""One window of one table: its new rows are compared with those of a version before, or the last.

No model is needed: what is watched are the columns, of the whole table or of each segment.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from shoal.errors import ProjectError, ShoalError, TableError, nearest
from shoal.monitoring import PROFILE, profile
from shoal.workspace.watch.findings import compared
from shoal.workspace.watch.judged import judged_window, numbered
from shoal.workspace.watch.report import MonitorReport
from shoal.workspace.watch.rows import segment_weights
from shoal.workspace.watch.store import (
    drift_table,
    last_window,
    profiles_table,
    table_key,
)
from shoal.workspace.watch.tell import tell

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from shoal.lake import Table
    from shoal.project import Watched
    from shoal.workspace.learning import Learning
    from shoal.workspace.watch.store import Window

__all__ = ["comparable", "monitor_table", "table_rows"]


def monitor_table(space: Learning, name: str) -> MonitorReport:
    """Watches a table over the rows that it got since the last window.

    The first window only keeps what later ones are compared with, unless the settings name a
    version for that. Where versions took rows away, or replaced them, all rows are compared.
    The findings go to ``shoal.drift_table_<schema>__<table>``.

    Args:
        space: The workspace.
        name: The table's name.

    Returns:
        What was found; an error is a report, too.
    """
    begun = time.perf_counter()
    try:
        table = space.lake.existing(name)
        report = _Watch(space, table).window()
        left = tell(space, table_key(table.name), shown=table.name)
        report = replace(report, undelivered=left)
    except ShoalError as error:
        report = MonitorReport(model=name, status="failed", error=str(error))
    return replace(report, seconds=time.perf_counter() - begun)


class _Watch:
    def __init__(self, space: Learning, table: Table) -> None:
        self.lake, self.table = space.lake, table
        self.key = table_key(table.name)
        self.watched: Watched = space.project.monitor.of_table(table.name)
        self.columns = _columns(table, self.watched)

    def window(self) -> MonitorReport:
        last, notes = last_window(self.lake, self.key), []
        now, identity = self.table.version(), self.table.id()
        if last is not None and last.table_id != identity:
            notes.append(f"{self.table.name} was made anew: what it is compared with begins anew")
            last = replace(last, table_id=identity, table_version=-1)
        since = None if last is None or last.table_version < 0 else last.table_version
        report = MonitorReport(
            model=self.table.name,
            status="current",
            table=self.table.name,
            since=since,
            table_version=now,
        )
        if since is None:
            rows, which = self.table.scan(now), "all rows"
        elif since >= now:
            return replace(report, notes=("no row is new",))
        else:
            rows, which = table_rows(self.table, since, now)
        if which == "all rows" and since is not None:
            notes.append(f"versions since {since} replaced rows: all rows are compared")
        return self._watched(replace(report, notes=tuple(notes)), rows, last)

    def _watched(
        self, report: MonitorReport, rows: pl.LazyFrame, last: Window | None
    ) -> MonitorReport:
        by = list(self.watched.by)
        weight = segment_weights(rows, by, self.watched.weight)
        count = int(sum(segment_weights(rows, [], None).values()))
        if not count:
            return replace(report, notes=(*report.notes, "no row is new"))
        number = 1 if last is None else last.number + 1
        current = profile(rows, by, self.columns)
        before = self._before(report, number)
        if before is None:
            kinds = []
            note = "these rows are what later ones are compared with"
            report = replace(report, notes=(*report.notes, note))
        else:
            kinds = [kind for kind in compared(before, current, self.watched) if kind.names]
            new = set(self.columns) - set(before.column("column").to_pylist())
            if new:
                note = f"nothing is known from before of {', '.join(sorted(new))}"
                report = replace(report, notes=(*report.notes, note))
        table, counts = judged_window(
            kinds,
            weight,
            {} if last is None else last.states,
            self.watched,
            number=number,
            model_version=None,
            details={
                "table": self.table.name,
                "table_id": self.table.id(),
                "since": report.since,
                "table_version": report.table_version,
                "baseline": before is None,
            },
        )
        profiles_table(self.lake, self.key).append(
            numbered(current, number), metadata={"shoal": "window"}
        )
        drift_table(self.lake, self.key).append(
            table, app=(f"monitor:{self.key}", number), metadata={"shoal": "monitor"}
        )
        return replace(
            report, status="watched", window=number, rows=count, segments=len(weight), **counts
        )

    def _before(self, report: MonitorReport, number: int) -> pa.Table | None:
        """What the window is compared with; None when it is itself what others will be."""
        import polars as pl

        wanted = self.watched.baseline
        if wanted.isdigit():
            return profile(self.table.scan(int(wanted)), list(self.watched.by), self.columns)
        if report.since is None or number == 1:
            return None
        kept = profiles_table(self.lake, self.key)
        if not kept.exists():
            return None
        rows = kept.scan().filter(pl.col("column").is_in(self.columns))
        if wanted == "previous":
            rows = rows.filter(pl.col("window") == number - 1)
        else:
            rows = rows.filter(pl.col("window") == self._first())
        frame = rows.select(PROFILE.names).collect().unique(["segment", "column"], keep="last")
        return frame.to_arrow().cast(PROFILE) if frame.height else None

    def _first(self) -> int:
        """The last window that was kept to be compared with."""
        import polars as pl

        rows = drift_table(self.lake, self.key).scan().filter(pl.col("check") == "window")
        told = rows.select("window", "details").collect()
        said = [(number, json.loads(details)) for number, details in told.iter_rows()]
        same = [(n, each) for n, each in said if each["table_id"] == self.table.id()]
        return max((n for n, each in same if each.get("baseline")), default=1)


def _columns(table: Table, watched: Watched) -> list[str]:
    """The columns of a table that are compared.

    Raises:
        ProjectError: The settings name one that it does not have, or that cannot be compared.
    """
    schema = table.schema()
    for name in (*watched.by, *([watched.weight] if watched.weight else [])):
        if name not in schema.names:
            raise _unknown(table, name, schema.names)
    fit = [name for name in comparable(schema) if name not in watched.by]
    if watched.columns is None:
        return fit
    for name in watched.columns:
        if name not in fit:
            raise _unknown(table, name, fit)
    return list(watched.columns)


def comparable(schema: pa.Schema, *, moments: bool = False) -> list[str]:
    """The columns that can be sketched; moments, which always move on, only when asked for."""
    import pyarrow as pa

    from shoal.models.columns import is_moment_type

    return [
        field.name
        for field in schema
        if not pa.types.is_nested(field.type)
        and not pa.types.is_binary(field.type)
        and not pa.types.is_large_binary(field.type)
        and (moments or not is_moment_type(field.type))
    ]


def _unknown(table: Table, name: str, names: list[str]) -> ProjectError:
    close = nearest(name, names)
    return ProjectError(
        f"[monitor.tables.\"{table.name}\"] names the column '{name}', which {table.name} does "
        f"not have, or which cannot be compared; those are {', '.join(names)}.",
        hint=f"Did you mean '{close}'?" if close else "Mend it in shoal.toml.",
    )


def table_rows(table: Table, since: int, now: int) -> tuple[pl.LazyFrame, str]:
    """The rows that versions after one added, or all where they also took rows away.

    Returns:
        The rows, and ``new rows`` or ``all rows``.
    """
    import polars as pl

    try:
        changes = table.changes(after=since, until=now)
    except TableError:
        return table.scan(now), "all rows"
    if not changes.append_only or any(file.vector for file in changes.files):
        return table.scan(now), "all rows"
    whole = table.scan(now)
    schema = whole.collect_schema()
    parts: dict[tuple[tuple[str, str | None], ...], list[str]] = {}
    for file in changes.files:
        parts.setdefault(tuple(sorted(file.partition.items())), []).append(file.path)
    frames = [
        pl.scan_parquet(
            files, missing_columns="insert", extra_columns="ignore", credential_provider=None
        ).with_columns(
            pl.lit(value, pl.String).cast(schema[name]).alias(name) for name, value in given
        )
        for given, files in parts.items()
    ]
    if not frames:
        return whole.head(0), "new rows"
    return pl.concat(frames, how="diagonal_relaxed"), "new rows"
