"""A workspace that keeps going: rounds of refresh, train and score."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from shoal.errors import RetryableError
from shoal.workspace.report import RunReport

if TYPE_CHECKING:
    from shoal.pipeline import RunOptions
    from shoal.workspace.workspace import Workspace

__all__ = ["run_continuous"]


def run_continuous(
    space: Workspace,
    options: RunOptions,
    *,
    trigger: float,
    models: bool,
    max_failures: int | None,
    stopped: Callable[[], bool],
) -> Iterator[RunReport]:
    """Rounds of `Workspace.run` for as long as they are asked for; see its `run_continuous`."""
    from shoal.pipeline import rounds

    failures, due = 0, models
    for number in rounds(trigger):
        if stopped():
            raise KeyboardInterrupt
        space.on_event("round", "", number + 1)
        try:
            report = space.run(options, models=due)
        except RetryableError as error:  # another run holds the lake
            report = RunReport(error=str(error))
        else:
            options = replace(options, full=frozenset())  # once is what was asked for
            refreshed = any(table.status == "refreshed" for table in report.tables)
            if models and refreshed and not due:
                learned = space.learn(report.tables)
                report = replace(learned, seconds=report.seconds + learned.seconds)
            due = False
        changed = any(table.status != "unchanged" for table in report.tables)
        failures = failures + 1 if report.failed else 0
        if changed or report.error or _learned(report):
            yield report
        if max_failures is not None and failures >= max_failures:
            return


def _learned(report: RunReport) -> bool:
    statuses = [*(m.status for m in report.models), *(score.status for score in report.scores)]
    return any(status != "current" for status in statuses)
