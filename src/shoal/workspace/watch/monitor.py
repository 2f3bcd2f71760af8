"""One window of one model: what is new is compared, judged, kept and told."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from shoal.errors import ModelError, ShoalError
from shoal.models.code import own_digests
from shoal.monitoring import profile
from shoal.monitoring.losses import COMPARABLE
from shoal.workspace.watch.findings import (
    PREDICTION,
    compared,
    error_metric,
    errors,
    pooled,
)
from shoal.workspace.watch.judged import judged_window, numbered
from shoal.workspace.watch.report import MonitorReport
from shoal.workspace.watch.rows import (
    baseline,
    fresh,
    labelled,
    members,
    segment_weights,
    with_predictions,
)
from shoal.workspace.watch.served import answered, inference_log, served_truth
from shoal.workspace.watch.store import drift_table, last_window, profiles_table
from shoal.workspace.watch.tell import tell

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from shoal.lake import Table
    from shoal.models import Fleet, ModelDeclaration
    from shoal.project import Watched
    from shoal.tracking import ModelVersion
    from shoal.workspace.learning import Learning
    from shoal.workspace.watch.rows import Labelled
    from shoal.workspace.watch.store import Window

__all__ = ["monitor"]


def monitor(space: Learning, model: str) -> MonitorReport:
    """Watches a model's champion over what its table got since the last window.

    The first window begins where the champion's training ended. New rows are compared with the
    rows that each member learned from (or with the window before), the champion's predictions of
    both too, and predictions whose truth has come are measured against the holdout. The findings
    go to ``shoal.drift_<model>``; a window without a new row makes none.

    Args:
        space: The workspace.
        model: The model's name.

    Returns:
        What was found; an error is a report, too.

    Raises:
        ProjectError: The project declares no such model.
    """
    begun = time.perf_counter()
    (declaration,) = space.declared([model])
    try:
        report = _Watch(space, declaration).window()
        report = replace(report, undelivered=tell(space, declaration.name))
    except ShoalError as error:
        report = MonitorReport(model=model, status="failed", error=str(error))
    return replace(report, seconds=time.perf_counter() - begun)


class _Watch:
    def __init__(self, space: Learning, declaration: ModelDeclaration) -> None:
        self.space = space
        self.declaration = declaration
        self.watched: Watched = space.project.monitor.of(declaration.name)
        self.lake = space.lake
        self.table: Table = space.lake.existing(declaration.table)
        self.version: ModelVersion = space.tracker.resolve(f"{declaration.name}@champion")
        self.fleet: Fleet = space.tracker.fleet(
            f"{declaration.name}/{self.version.version}",
            trust_pickle=declaration.trust_pickle,
            known_code=own_digests(declaration.function),
        )
        self.notes: list[str] = []
        self.log = (
            inference_log(space.lake, declaration.name)
            if self.watched.source == "inferences"
            else None
        )

    def window(self) -> MonitorReport:
        declaration, source = self.declaration, self.log or self.table
        last = last_window(self.lake, declaration.name)
        now, identity = source.version(), source.id()
        since: int | None = None
        if last is not None and last.table_id == identity:
            since = last.table_version
        elif self.log is None:
            since = self._trained(identity)
        if last is not None and last.table_id != identity:
            self.notes.append(f"{source.name} is another table than before: the windows begin anew")
            trained = self._trained(self.table.id())
            last = replace(last, table_version=since or 0, table_id=identity, truth_version=trained)
        report = MonitorReport(
            model=declaration.name,
            status="current",
            version=self.version.version,
            table=source.name,
            since=since,
            table_version=now,
            notes=tuple(self.notes),
        )
        if self.log is None:
            assert since is not None
            rows, which = fresh(declaration, self.table, since, now)
        else:
            names = [*declaration.by, *(field.name for field in self.fleet.header.features)]
            names += [self.watched.weight] if self.watched.weight else []
            names = list(dict.fromkeys(names))
            rows, which = answered(self.log, since, now, self.version.version, names)
        if rows is None:
            return replace(report, notes=(*self.notes, which))
        return self._watched(report, rows, last)

    def _truth(self, last: Window | None, now: int) -> Labelled | None:
        """Predictions whose truth has come since the last window."""
        since = self._trained(self.table.id()) if last is None else last.truth_version
        if self.log is not None:
            version = self.version.version
            found = served_truth(self.declaration, self.log, self.table, version, since, now)
            if found is not None:
                return found
            self.notes.append(
                f"requests do not carry the key {list(self.declaration.key)}, or old versions of "
                f"{self.table.name} are gone: errors are those of predictions in the lake"
            )
        return labelled(
            self.declaration, self.lake, self.table, self.fleet, self.version, since, now
        )

    def _trained(self, identity: str) -> int:
        tags = self.version.tags
        number = tags.get("shoal.current_version", tags.get("shoal.table_version", ""))
        if tags.get("shoal.table_id") != identity or not number.isdigit():
            raise ModelError(
                f"{self.version.uri} learned from another table than {self.table.name} is now.",
                hint=f"Train it again: shoal train {self.declaration.name}",
            )
        return int(number)

    def _watched(
        self, report: MonitorReport, rows: pl.LazyFrame, last: Window | None
    ) -> MonitorReport:
        import polars as pl

        by = list(self.declaration.by)
        found = members(self.lake, self.version).filter(pl.col("level") == 0)
        told = rows
        if self.log is None:
            told = with_predictions(rows, self.fleet, self._wanted(rows))
        count = int(told.select(pl.len()).collect().item())
        columns = self._features(rows)
        # The table goes on while the log is read.
        truth_version = report.table_version if self.log is None else self.table.version()
        assert truth_version is not None
        truth = self._truth(last, truth_version)
        known = 0 if truth is None else truth.frame.height
        if not count and not known:
            return replace(report, notes=(*self.notes, "no row is new"))
        number = 1 if last is None else last.number + 1
        current = profile(told, by, [*columns, PREDICTION])
        kinds = []
        if set(self.watched.checks) != {"error"}:
            kinds = compared(self._before(found, columns, number), current, self.watched)
        metric, value, reference = error_metric(self.declaration, found), None, None
        if "error" not in self.watched.checks:
            metric = None
        elif metric is None:
            self.notes.append(
                f"{self.declaration.metric} is no mean of a loss of each row: declare "
                f"metrics=[...] with one of {', '.join(COMPARABLE)} to have errors watched"
            )
        elif truth is not None and known:
            kinds.append(errors(metric, self.declaration, truth.frame, found, self.watched))
            value, reference = pooled(metric, kinds[-1])
        weight = segment_weights(told, by, self._weight(rows))
        kinds = [kind for kind in kinds if kind.check in self.watched.checks]
        table, counts = judged_window(
            kinds,
            weight,
            {} if last is None else last.states,
            self.watched,
            number=number,
            model_version=self.version.version,
            details={
                "table": report.table,
                "table_id": (self.log or self.table).id(),
                "truth_version": truth_version,
                "since": report.since,
                "table_version": report.table_version,
            },
        )
        profiles_table(self.lake, self.declaration.name).append(
            numbered(current, number), metadata={"shoal": "window"}
        )
        drift_table(self.lake, self.declaration.name).append(
            table, app=(f"monitor:{self.declaration.name}", number), metadata={"shoal": "monitor"}
        )
        return replace(
            report,
            status="watched",
            window=number,
            rows=count,
            labelled=known,
            segments=len(weight),
            metric=metric,
            value=value,
            reference=reference,
            notes=tuple(self.notes),
            **counts,
        )

    def _features(self, rows: pl.LazyFrame) -> list[str]:
        """The features to compare; moments always move on, so they are left out."""
        from shoal.models.columns import is_moment_type

        kinds = rows.select([f.name for f in self.fleet.header.features]).head(0).collect()
        names = [f.name for f in kinds.to_arrow().schema if not is_moment_type(f.type)]
        if self.watched.columns is None:
            return names
        for name in self.watched.columns:
            if name not in names:
                raise ModelError(
                    f"[monitor] names the column '{name}', which is no feature of "
                    f"'{self.declaration.name}' that can be compared; those are "
                    f"{', '.join(names)}.",
                    hint="Mend 'columns' in shoal.toml.",
                )
        return list(self.watched.columns)

    def _weight(self, rows: pl.LazyFrame) -> str | None:
        weight = self.watched.weight
        if weight is not None and weight not in rows.collect_schema().names():
            raise ModelError(
                f"[monitor] weighs by '{weight}', which {self.table.name} does not have.",
                hint="Mend 'weight' in shoal.toml.",
            )
        return weight

    def _wanted(self, rows: pl.LazyFrame) -> list[str]:
        weight = self._weight(rows)
        return [*self._features(rows), *([weight] if weight else [])]

    def _before(self, found: pl.DataFrame, columns: list[str], number: int) -> pa.Table:
        """What the window is compared with."""
        import polars as pl

        from shoal.monitoring import PROFILE

        kept = profiles_table(self.lake, self.declaration.name)
        if self.watched.baseline == "previous" and number > 1 and kept.exists():
            rows = kept.scan().filter(pl.col("window") == number - 1)
            frame = rows.select(PROFILE.names).collect().unique(["segment", "column"], keep="last")
            return frame.to_arrow().cast(PROFILE)
        return baseline(self.declaration, self.lake, self.table, self.fleet, found, columns)
