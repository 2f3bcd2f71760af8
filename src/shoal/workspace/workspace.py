"""The workspace: what is done with a project."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from shoal.workspace.learning import Learning
from shoal.workspace.report import (
    ModelReport,
    Plan,
    RunReport,
    TableReport,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from shoal.pipeline import Refresh, RunOptions
    from shoal.workspace.events import Quality
    from shoal.workspace.lineage import Lineage
    from shoal.workspace.maintain import Maintenance

__all__ = ["Workspace"]


class Workspace(Learning):
    """A project, ready to work; close it, or use it as a context manager.

    Args:
        project: The project.
        on_event: Called with ``(stage, name, value)`` while work goes on: ``("table", name,
            "start" | TableReport)``, ``("train", name, (done, total) | ModelReport)``, ``("score",
            name, rows | ScoreReport)``. It may be called from several threads.
    """

    @cached_property
    def maintenance(self) -> Maintenance:
        """Care of the tables: restore, diff, clone, optimize, vacuum, checks."""
        from shoal.workspace.maintain import Maintenance

        return Maintenance(self)

    @cached_property
    def lineage(self) -> Lineage:
        """Where the tables' columns come from."""
        from shoal.workspace.lineage import Lineage

        return Lineage.of(self)

    def options(
        self,
        *,
        select: Sequence[str] = (),
        full_refresh: Sequence[str] = (),
        full_refresh_all: bool = False,
        until: Sequence[str] = (),
    ) -> RunOptions:
        """Names as a user writes them, resolved; see `shoal.pipeline.chosen`.

        Raises:
            PipelineError: The pipeline declares no such table.
        """
        from shoal.pipeline import chosen

        return chosen(
            self.graph,
            self.lake,
            select=select,
            full_refresh=full_refresh,
            full_refresh_all=full_refresh_all,
            until=until,
        )

    def plan(self, options: RunOptions) -> Plan:
        """What a run would refresh and train, and why; nothing is written.

        Raises:
            PipelineError: A declaration is wrong.
        """
        from shoal.pipeline import plan_run

        decisions = plan_run(self.graph, self.lake, self.project.root, options)
        changing = {str(decision.name) for decision in decisions if decision.action != "none"}
        return Plan(decisions, [self.stale_plan(m, changing) for m in self.models.values()])

    def run(self, options: RunOptions, *, models: bool = True) -> RunReport:
        """Refreshes the tables, trains what is stale, and scores what is new.

        A part that fails is reported and does not stop the others; a model whose table failed is
        not trained.

        Args:
            options: Which tables.
            models: Also train and score.

        Raises:
            PipelineError: A declaration is wrong; nothing ran.
            Conflict: Another run is writing to this lake.
        """
        begun = time.perf_counter()
        tables = self.refresh(options)
        report = self.learn(tables) if models else RunReport(tables=tuple(tables))
        return replace(report, seconds=time.perf_counter() - begun)

    def run_continuous(
        self,
        options: RunOptions,
        *,
        trigger: float = 10.0,
        models: bool = True,
        max_failures: int | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[RunReport]:
        """Keeps running, and gives the report of each round in which anything happened.

        The sources stay as they were loaded: a change of the code needs a new start. A table that
        fails is reported in each round and tried again in the next. Models are trained and scored
        in the first round, and then when a table was refreshed. Stop asking, or interrupt, to end
        it: each table is at a whole version.

        Args:
            options: Which tables; a full refresh is done in the first round only.
            trigger: Seconds from the start of a round to the start of the next.
            models: Also train and score.
            max_failures: End after so many failed rounds in a row; None never ends.
            stopped: Asked before each round; true interrupts.

        Raises:
            PipelineError: A declaration is wrong; nothing ran.
        """
        from shoal.workspace.continuous import run_continuous

        return run_continuous(
            self,
            options,
            trigger=trigger,
            models=models,
            max_failures=max_failures,
            stopped=stopped,
        )

    def refresh(self, options: RunOptions) -> list[TableReport]:
        """Refreshes the tables; see `run`."""
        from shoal.pipeline import run_graph

        reports: list[TableReport] = []

        def done(result: Refresh) -> None:
            reports.append(_table_report(result))
            self.on_event("table", str(result.name), reports[-1])

        run_graph(
            self.graph,
            self.engine,
            self.lake,
            self.project.root,
            options,
            on_start=lambda name: self.on_event("table", str(name), "start"),
            on_done=done,
        )
        return reports

    def train_affected(
        self, source: str, names: Sequence[str] = (), **options: Any
    ) -> list[ModelReport]:
        """Fits the members that learned from a bad file or version again, and those alone.

        See `shoal.workspace.affected.train_affected`.
        """
        from shoal.workspace.affected import train_affected

        return train_affected(self, source, names, **options)

    def sql(self, query: str, *, limit: int | None = None) -> pa.Table:
        """Runs a query over the lake's tables, each at its newest version.

        Args:
            query: One ``SELECT`` in Spark SQL.
            limit: At most so many rows.

        Raises:
            PipelineError: The query does not parse, or is no query.
            TableNotFound: It names a table that does not exist.
            EngineError: The engine refuses it.
        """
        from shoal.workspace.query import run_query

        return run_query(query, self.engine, self.lake, limit=limit)

    def events(
        self,
        table: str | None = None,
        *,
        run: str | None = None,
        level: str = "INFO",
        limit: int | None = None,
    ) -> list[dict[str, Any]]:
        """What happened in runs, the newest last; see `shoal.workspace.events`.

        Raises:
            TableNotFound: No run was taken down yet, none has this id, or none had this table.
        """
        from shoal.workspace.events import events

        return events(self.lake, table=table, run=run, level=level, limit=limit)

    def quality(self, table: str | None = None, *, last: int = 10) -> list[Quality]:
        """How many rows met the expectations, over the runs; see `shoal.workspace.events`.

        Raises:
            TableNotFound: No run has checked an expectation yet, or none of this table.
        """
        from shoal.workspace.events import quality

        return quality(self.lake, table=table, last=last)


def _table_report(result: Refresh) -> TableReport:
    return TableReport(
        table=str(result.name),
        kind=str(result.kind),
        status=str(result.status),
        refresh=result.action,
        reason=result.reason,
        version=result.version,
        rows=result.rows,
        files=result.files,
        dropped=result.dropped,
        rescued=result.rescued,
        seconds=result.seconds,
        expectations={
            f"{count.view}.{count.expectation.name}" if count.view else count.expectation.name: {
                "action": count.expectation.action,
                "passed": count.passed,
                "failed": count.failed,
            }
            for count in result.expectations
        },
        notes=result.notes,
        error=result.error,
        retryable=result.retryable,
    )
