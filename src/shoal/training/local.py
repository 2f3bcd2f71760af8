"""Fits here, for as long as processes would take longer to start than the fits take."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from shoal.models import ModelDeclaration
from shoal.training.batched import plan_of
from shoal.training.pool import Pool
from shoal.training.task import Task, checked, fit_task

__all__ = ["Local", "fits_here"]

# Processor seconds of fitting after which the rest goes to processes; they take half to start.
_PATIENCE = 3.0


def fits_here(declaration: ModelDeclaration) -> bool:
    """Whether a model's segments are fitted in batches, and need no process of their own.

    Raises:
        ModelError: The declaration's function is wrong.
    """
    # A timeout ends the process that fits, so that has to be another one.
    here = declaration.batched and declaration.timeout is None
    return here and plan_of(declaration.build()) is not None


class Local:
    """Runs a `Pool`'s tasks in this process at first, and what is left after a while in a pool.

    A segment's fit is the same in both places, so the members do not depend on the clock.

    Args:
        workers: How many processes the pool has.
        processes: Starts the pool; whoever gave it also ends the pool.

    Attributes:
        size: How many processes the pool has.
    """

    def __init__(self, workers: int, processes: Callable[[], Pool]) -> None:
        self.size = workers
        self._start = processes
        self._files: tuple[Path, Path] | None = None
        self._rows: Any = None
        self._job: Any = None
        self._current: Any = None
        self._threads: Any = None
        self._pool: Pool | None = None
        self._spent = 0.0

    def open(self, job: Path, rows: Path) -> None:
        """Take the job's rows; see `Pool.open`."""
        import cloudpickle
        from threadpoolctl import ThreadpoolController

        self._files = job, rows
        if self._pool is not None:
            self._pool.open(job, rows)
            return
        # We wrote this file a moment ago. As a worker gets it: what it changes stays its own.
        self._job = cloudpickle.loads(job.read_bytes())
        self._current = checked(self._job)
        self._rows = pa.ipc.open_file(pa.memory_map(str(rows))).read_all()
        self._threads = ThreadpoolController()  # finding the libraries takes longer than a batch

    def run(self, tasks: Iterable[Task], done: Callable[[Task, pa.RecordBatch], None]) -> None:
        """Fit all tasks; see `Pool.run`."""
        waiting = iter(tasks)
        while self._pool is None and self._spent < _PATIENCE:
            task = next(waiting, None)
            if task is None:
                return
            begun = time.process_time()
            batch = self._fit(task)
            self._spent += time.process_time() - begun
            done(task, batch)
        self._others().run(waiting, done)

    def _others(self) -> Pool:
        if self._pool is None:
            assert self._files is not None
            self._pool = self._start()
            self._pool.open(*self._files)
            self._rows = None
        return self._pool

    def _fit(self, task: Task) -> pa.RecordBatch:
        job, self._current = self._current, self._job
        # As a worker does it: one thread, to the same bits; and a chatty function spoils no --json.
        with self._threads.limit(limits=1), contextlib.redirect_stdout(io.StringIO()):
            return fit_task(self._rows, task, job)
