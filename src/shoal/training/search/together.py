"""One search for all segments, or for each group of them: a trial measures all its segments."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from shoal.training.search.job import Measured, measured_of, params_text
from shoal.training.search.score import is_greater_better, score
from shoal.training.search.space import Point
from shoal.training.search.studies import Study, new_study
from shoal.training.search.trials import Trial
from shoal.training.search.work import Array, Scope, Work
from shoal.training.task import Task

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["search_together"]

# Percentages of a scope's segments after which a trial may be pruned, and how many make it worth.
_STEPS = (12, 25, 50, 100)
_FEWEST = 16


@dataclass(kw_only=True)
class _Search:
    """A scope's study, and its trial under way."""

    scope: Scope
    study: Study
    count: int = 0
    over: bool = False
    seen: dict[str, Trial] = field(default_factory=dict)
    point: Point = field(default_factory=dict)
    steps: dict[int, float] = field(default_factory=dict)

    def edge(self, percent: int) -> int:
        first, end = self.scope.first, self.scope.end
        if percent < 100 and end - first < _FEWEST:
            return first
        return first + -(-(end - first) * percent // 100)


def search_together(work: Work) -> None:
    """Make all trials of all scopes; the trials of one number are measured at once.

    Args:
        work: The search.
    """
    known = work.known()
    searches = []
    for scope in work.scopes:
        study = new_study(
            work.space,
            greater=is_greater_better(work.fit.metric),
            seed=work.fit.seed,
            scope=scope.key,
        )
        before = known[scope.key]
        study.replay(before)
        seen = {trial.point: trial for trial in reversed(before)}
        searches.append(_Search(scope=scope, study=study, count=len(before), seen=seen))
    board = _Board(work)
    while waiting := [s for s in searches if s.count < work.wanted and not s.over]:
        live = [search for search in waiting if _asked(work, search)]
        before_step = 0
        for step in _STEPS:
            board.measure([(s.edge(before_step), s.edge(step), s.point) for s in live])
            kept = []
            for search in live:
                if step < 100 and _pruned(board, search, step):
                    _tell(work, board, search, step, pruned=True)
                else:
                    kept.append(search)
            live, before_step = kept, step
        for search in live:
            _tell(work, board, search, 100, pruned=False)


def _asked(work: Work, search: _Search) -> bool:
    """Whether the scope has a new point to measure."""
    point = search.study.ask()
    if point is None:
        search.over = True
        return False
    same = search.seen.get(json.dumps(point))
    if same is None:
        search.point, search.steps = point, {}
        return True
    # The same point measures the same again.
    for step, value in same.steps.items():
        search.study.hopeless(step, value)
    search.study.tell(same.state, same.value)
    work.add([replace(same, number=search.count, seconds=0.0)])
    search.count += 1
    return False


def _pruned(board: _Board, search: _Search, step: int) -> bool:
    first, end = search.scope.first, search.edge(step)
    value = board.value(first, end) if end > first else None
    if value is None:
        return False
    search.steps[step] = value
    return search.study.hopeless(step, value)


def _tell(work: Work, board: _Board, search: _Search, step: int, *, pruned: bool) -> None:
    first, end = search.scope.first, search.edge(step)
    value = board.value(first, end)
    state = "failed" if value is None else "pruned" if pruned else "complete"
    trial = Trial(
        scope=search.scope.key,
        number=search.count,
        params=params_text(work.space, search.point),
        point=json.dumps(search.point),
        state=state,
        value=value,
        steps=search.steps,
        rows=int(board.rows[first:end].sum()),
        error=board.error(first, end) if value is None else None,
        seconds=float(board.seconds[first:end].sum()),
    )
    search.study.tell(state, value)
    search.seen[trial.point] = trial
    search.count += 1
    work.add([trial])


class _Board:
    """The segments as they were last measured."""

    def __init__(self, work: Work) -> None:
        count = len(work.offsets) - 1
        self._work = work
        self._sums: list[Array | None] = [None] * count
        self._base: dict[int, Array] = {}
        self._errors: list[str | None] = [None] * count
        self.rows, self.seconds = np.zeros(count, dtype=np.int64), np.zeros(count)

    def measure(self, parts: list[tuple[int, int, Point]]) -> None:
        """Measure ranges of segments, each with its own point."""
        tasks: list[Task] = []
        for first, end, point in parts:
            tasks += self._work.tasks(first, end, [point])
        if tasks:
            self._work.pool.run(tasks, self._take)

    def _take(self, task: Task, batch: pa.RecordBatch) -> None:
        found: Measured = measured_of(batch, len(task))[0]
        fine = np.asarray(np.isfinite(found.sums).all(axis=1))
        for i in range(len(task)):
            self._sums[task.first + i] = found.sums[i] if fine[i] else None
            self._errors[task.first + i] = found.errors[i]
        part = slice(task.first, task.first + len(task))
        self.rows[part], self.seconds[part] = found.rows, found.seconds

    def value(self, first: int, end: int) -> float | None:
        """The metric over a range of segments; None when none of them could be measured.

        A segment that the point cannot be fitted on counts as the baseline of its mean or its
        classes' shares: leaving it out would favour points that fail where it is difficult.
        """
        if all(sums is None for sums in self._sums[first:end]):
            return None
        missing = [i for i in range(first, end) if self._sums[i] is None]
        self._measure_base([i for i in missing if i not in self._base])
        found = [s for s in self._sums[first:end] if s is not None]
        found += [self._base[i] for i in missing if i in self._base]
        value = float(score(self._work.fit.metric, np.sum(found, axis=0)[None, :])[0])
        return value if np.isfinite(value) else None

    def _measure_base(self, missing: list[int]) -> None:
        tasks: list[Task] = []
        for i in missing:
            tasks += self._work.tasks(i, i + 1, [None])

        def take(task: Task, batch: pa.RecordBatch) -> None:
            found = measured_of(batch, 1)[0]
            if np.isfinite(found.sums).all():
                self._base[task.first] = found.sums[0]

        if tasks:
            self._work.pool.run(tasks, take)

    def error(self, first: int, end: int) -> str:
        """Why a range of segments has no value."""
        named = (error for error in self._errors[first:end] if error)
        return next(named, f"{self._work.fit.metric} is undefined on the validation rows")
