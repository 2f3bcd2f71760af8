"""A search of each segment's own, made where the segment is fitted."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from shoal.training.search.job import measured_of, segment_trials, trials_of
from shoal.training.search.space import Point
from shoal.training.search.trials import Trial
from shoal.training.search.work import Work
from shoal.training.task import Task

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["search_apart"]


def search_apart(work: Work, points: list[Point] | None) -> None:
    """Make all trials of all segments.

    Args:
        work: The search; its scopes are single segments.
        points: Candidates that all segments try; None makes a study of each segment's own.
    """
    known = work.known()
    wanted = work.wanted if points is None else len(points)
    done = [len(known[scope.key]) for scope in work.scopes]
    tasks: list[Task] = []
    first = 0
    for i in range(1, len(done) + 1):
        if i == len(done) or done[i] != done[first]:
            if done[first] < wanted and points is not None:
                tasks += work.tasks(first, i, [*points[done[first] :]])
            elif done[first] < wanted:
                tasks += (_own(work, task, known) for task in work.chunks(first, i))
            first = i

    def take(task: Task, batch: pa.RecordBatch) -> None:
        scopes = [scope.key for scope in work.scopes[task.first : task.first + len(task)]]
        if points is None:
            trials = trials_of(batch)
            work.add(_lost(scopes[0], batch) if trials is None else trials)
            return
        begin = done[task.first]
        left = points[begin:]
        found = measured_of(batch, len(task))
        if len(found) < len(left):  # its worker died, with whichever point
            found = found * len(left)
        for number, (point, measured) in enumerate(zip(left, found, strict=True), begin):
            work.add(segment_trials(work.space, work.fit.metric, scopes, number, point, measured))

    work.pool.run(tasks, take)


def _own(work: Work, task: Task, known: dict[str, list[Trial]]) -> Task:
    scopes = [scope.key for scope in work.scopes[task.first : task.first + len(task)]]
    before = {key: [vars(trial) for trial in known[key]] for key in scopes if known[key]}
    return replace(task, note=json.dumps({"scopes": scopes, "known": before}).encode())


def _lost(scope: str, batch: pa.RecordBatch) -> list[Trial]:
    error = batch.column("error")[0].as_py()
    return [Trial(scope=scope, number=0, params="{}", point="{}", state="failed", error=error)]
