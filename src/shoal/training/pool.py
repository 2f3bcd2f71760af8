"""A pool of fitting processes over one memory-mapped file."""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Self

import pyarrow as pa

from shoal.errors import TrainingError
from shoal.training.groups import lost_segment
from shoal.training.nursery import Nursery, cause_of, search_path
from shoal.training.task import Task

__all__ = ["Pool", "Task"]


@dataclass(kw_only=True)
class _Worker:
    pipe: Connection
    pid: int
    ready: bool = False
    tasks: deque[Task] = field(default_factory=deque)


class Pool:
    """Processes that fit segments, forked from a nursery.

    Args:
        nursery: Starts them; it may serve one pool after another.
        workers: How many.

    Attributes:
        size: How many processes.
    """

    def __init__(self, nursery: Nursery, workers: int) -> None:
        self.size = workers
        self._nursery = nursery
        self._workers: list[_Worker] = []
        self._opening = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, job: Path, rows: Path) -> None:
        """Give all workers their job; workers of a job before it end.

        Args:
            job: A cloudpickled `Job`.
            rows: The sorted rows, an uncompressed Arrow file.
        """
        message = {"job": str(job), "rows": str(rows), "path": json.dumps(search_path())}
        self._opening = json.dumps(message).encode()
        self.close()
        for _ in range(self.size):
            self._workers.append(self._start())

    def close(self) -> None:
        """End all workers at once, also in a long fit."""
        for worker in self._workers:
            worker.pipe.close()
            self._nursery.kill(worker.pid)
        self._workers.clear()

    def run(self, tasks: Iterable[Task], done: Callable[[Task, pa.RecordBatch], None]) -> None:
        """Fit all tasks.

        Args:
            tasks: What to fit; the first ones start first.
            done: Called with each task and its rows, in the order of completion; a segment
                whose worker died has the row of `lost_segment`.

        Raises:
            TrainingError: The workers cannot load the model's function, or keep dying at once.
        """
        waiting = deque(tasks)
        suspects: deque[Task] = deque()
        while waiting or suspects or any(w.tasks for w in self._workers):
            for worker in self._workers:
                self._feed(worker, waiting, suspects)
            by_pipe = {w.pipe: w for w in self._workers}
            for pipe in wait(list(by_pipe)):
                worker = by_pipe[pipe]  # type: ignore[index]
                try:
                    message = worker.pipe.recv_bytes()
                except (EOFError, OSError):
                    self._bury(worker, waiting, suspects, done)
                    continue
                if not worker.ready:
                    if message != b"ready":
                        text = message.decode(errors="replace").removeprefix("error ")
                        raise TrainingError(
                            f"A worker process could not load the model's function: {text}",
                            hint="what the function uses must be importable from the project",
                        )
                    worker.ready = True
                    continue
                task = worker.tasks.popleft()
                done(task, pa.ipc.open_stream(message).read_next_batch())

    def _feed(self, worker: _Worker, waiting: deque[Task], suspects: deque[Task]) -> None:
        # Two tasks each, so that no worker waits for the pool.
        while worker.ready and len(worker.tasks) < 2:
            source = suspects or waiting
            if not source:
                return
            self._send(worker, source.popleft())

    def _send(self, worker: _Worker, task: Task) -> None:
        worker.tasks.append(task)
        with contextlib.suppress(OSError):  # it died: its closed pipe is seen by wait
            worker.pipe.send_bytes(task.to_bytes())

    def _bury(
        self,
        worker: _Worker,
        waiting: deque[Task],
        suspects: deque[Task],
        done: Callable[[Task, pa.RecordBatch], None],
    ) -> None:
        code = self._nursery.exit_code(worker.pid)
        worker.pipe.close()
        if not worker.ready:
            raise TrainingError(f"A worker process {cause_of(code)} before it could start.")
        if worker.tasks:
            # Tasks run in order and each is answered, so it was the first that killed it.
            running = worker.tasks.popleft()
            if len(running) == 1:
                done(running, lost_segment(f"worker {cause_of(code)}"))
            else:
                suspects.extend(running.apart())
            waiting.extendleft(reversed(worker.tasks))
        self._workers[self._workers.index(worker)] = self._start()

    def _start(self) -> _Worker:
        pipe, pid = self._nursery.fork()
        worker = _Worker(pipe=pipe, pid=pid)
        worker.pipe.send_bytes(self._opening)
        return worker
