"""What the two ways to search have in common: segments, scopes, executors and the log."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from shoal.training.batched import is_batched
from shoal.training.fitting import Progress
from shoal.training.job import FitJob
from shoal.training.local import Local
from shoal.training.pool import Pool
from shoal.training.search.onengine import OnEngine
from shoal.training.search.space import Point, Space
from shoal.training.search.trials import Trial, TrialLog
from shoal.training.task import Task, fit_task

__all__ = ["Alone", "Array", "Scope", "Work"]

Array = np.ndarray[Any, Any]

# Rows that are measured at once, where segments can be.
_AT_ONCE = 250_000


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Segments that are to have the same parameters.

    Attributes:
        key: Its canonical key.
        prefix: The key texts that its segments have in common.
        first: Its first segment, by its place in the file of training rows.
        end: The segment after its last.
        segment: The position of some segment of it among all of the table.
    """

    key: str
    prefix: tuple[str | None, ...]
    first: int
    end: int
    segment: int


class Alone:
    """Runs tasks here, with the estimator's own threads on all processors: for a single model.

    Attributes:
        size: 1.
    """

    size = 1

    def open(self, job: Path, rows: Path) -> None:
        """Take the job's rows; see `Pool.open`."""
        import cloudpickle

        # We wrote this file a moment ago.
        self._job = cloudpickle.loads(job.read_bytes())
        self._rows = pa.ipc.open_file(pa.memory_map(str(rows))).read_all()

    def run(self, tasks: Iterable[Task], done: Callable[[Task, pa.RecordBatch], None]) -> None:
        """Run all tasks; see `Pool.run`."""
        for task in tasks:
            done(task, fit_task(self._rows, task, self._job))


@dataclass(kw_only=True)
class Work:
    """One search under way.

    Attributes:
        space: What is chosen from.
        fit: How segments are measured.
        pool: Who measures; opened.
        offsets: Of the segments in the file of training rows.
        scopes: What has parameters of its own, in the order of that file.
        wanted: How many trials each scope is to have.
        log: Where trials go.
        progress: Told of trials made and of all.
        recorded: Trials that were there before.
        made: Trials made now.
    """

    space: Space
    fit: FitJob
    pool: Pool | Local | Alone | OnEngine
    offsets: Array
    scopes: list[Scope]
    wanted: int
    log: TrialLog
    progress: Progress | None
    recorded: list[Trial]
    made: list[Trial] = field(default_factory=list)

    def known(self) -> dict[str, list[Trial]]:
        """The recorded trials of each scope, by number."""
        found: dict[str, list[Trial]] = {scope.key: [] for scope in self.scopes}
        for trial in self.recorded:
            if trial.scope in found:
                found[trial.scope].append(trial)
        return found

    def add(self, trials: list[Trial]) -> None:
        """Keep trials that were made.

        Raises:
            Conflict: Another search of the same study is going on.
        """
        self.made += trials
        self.log.add(trials)
        if self.progress:
            total = self.wanted * len(self.scopes)
            self.progress(min(len(self.recorded) + len(self.made), total), total)

    def tasks(self, first: int, end: int, points: list[Point | None]) -> Iterator[Task]:
        """Tasks that measure a range of segments with some points."""
        note = json.dumps({"points": points}).encode()
        for task in self.chunks(first, end):
            yield replace(task, note=note)

    def chunks(self, first: int, end: int) -> Iterator[Task]:
        """A range of segments as tasks for all workers."""
        count = end - first
        if not count:
            return
        rows = int(self.offsets[end] - self.offsets[first])
        if is_batched(self.fit):
            size = min(-(-count // self.pool.size), max(_AT_ONCE * count // max(rows, 1), 64))
        else:
            size = min(max(count // (self.pool.size * 4), 1), 64)
        for at in range(first, end, size):
            upto = min(at + size, end)
            yield Task(first=at, offsets=self.offsets[at : upto + 1])
