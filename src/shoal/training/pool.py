"""A pool of fitting processes over one memory-mapped file."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa

from shoal.errors import TrainingError
from shoal.training.kernel import lost_segment

__all__ = ["Pool", "Task"]

# One thread in each worker: the segments are the parallelism.
_ONE_THREAD = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "LOKY_MAX_CPU_COUNT",
    ),
    "1",
)


@dataclass(frozen=True, kw_only=True)
class Task:
    """Adjacent segments to fit.

    Attributes:
        first: The position of the first segment, for whoever collects the results.
        offsets: Int64 row offsets, shape (segments + 1,).
        group: Whether it is one fallback group, whose rows are not in the order of time.
    """

    first: int
    offsets: np.ndarray[Any, Any]
    group: bool = False

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def apart(self) -> list[Task]:
        """One task for each of its segments."""
        return [
            Task(first=self.first + i, offsets=self.offsets[i : i + 2]) for i in range(len(self))
        ]


@dataclass(kw_only=True)
class _Worker:
    pipe: Connection
    pid: int
    ready: bool = False
    tasks: deque[Task] = field(default_factory=deque)


class Pool:
    """Processes that fit segments; starts warming up at once, and works when it is given a job.

    Args:
        workers: How many processes.
        modules: What they import before the job comes.

    Attributes:
        size: How many processes.
    """

    def __init__(self, workers: int, modules: Iterable[str] = ()) -> None:
        self.size = workers
        self._workers: list[_Worker] = []
        self._exits: dict[int, int] = {}
        self._pids: deque[int] = deque()
        self._unread = b""
        self._opening = b""
        self._control, theirs = socket.socketpair()
        with theirs:
            self._nursery = subprocess.Popen(  # noqa: S603 (our own interpreter and module)
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "shoal.training.worker",
                    str(theirs.fileno()),
                    *modules,
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # a chatty estimator must not spoil --json
                start_new_session=True,
                env={**os.environ, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join(_paths())},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def open(self, job: Path, rows: Path) -> None:
        """Give all workers their job; workers of a job before it end.

        Args:
            job: A cloudpickled `FitJob`.
            rows: The sorted rows, an uncompressed Arrow file.
        """
        message = {"job": str(job), "rows": str(rows), "path": json.dumps(_paths())}
        self._opening = json.dumps(message).encode()
        for worker in self._workers:
            worker.pipe.close()
        self._workers.clear()
        for _ in range(self.size):
            self._workers.append(self._start())

    def close(self) -> None:
        """Stop all processes at once."""
        for worker in self._workers:
            worker.pipe.close()
        self._workers.clear()
        self._control.close()
        # Its own session: one signal ends the nursery and all workers, also in a long fit.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._nursery.pid, signal.SIGKILL)
        self._nursery.wait()

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
            worker.pipe.send_bytes(np.r_[int(task.group), task.offsets].astype(np.int64).tobytes())

    def _bury(
        self,
        worker: _Worker,
        waiting: deque[Task],
        suspects: deque[Task],
        done: Callable[[Task, pa.RecordBatch], None],
    ) -> None:
        code = self._exit_code(worker.pid)
        worker.pipe.close()
        if not worker.ready:
            raise TrainingError(f"A worker process {_cause(code)} before it could start.")
        if worker.tasks:
            # Tasks run in order and each is answered, so it was the first that killed it.
            running = worker.tasks.popleft()
            if len(running) == 1:
                done(running, lost_segment(f"worker {_cause(code)}"))
            else:
                suspects.extend(running.apart())
            waiting.extendleft(reversed(worker.tasks))
        self._workers[self._workers.index(worker)] = self._start()

    def _start(self) -> _Worker:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._control, [b"fork"], [theirs.fileno()])
            except OSError:
                raise self._nursery_died() from None
        while not self._pids:
            self._listen()
        worker = _Worker(pipe=Connection(ours.detach()), pid=self._pids.popleft())
        worker.pipe.send_bytes(self._opening)
        return worker

    def _listen(self) -> None:
        received = self._control.recv(65536)
        if not received:
            raise self._nursery_died()
        *lines, self._unread = (self._unread + received).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "exit" in message:
                self._exits[message["pid"]] = message["exit"]
            else:
                self._pids.append(message["pid"])

    def _exit_code(self, pid: int) -> int:
        while pid not in self._exits:
            self._listen()
        return self._exits.pop(pid)

    def _nursery_died(self) -> TrainingError:
        return TrainingError(
            f"The process that starts workers {_cause(self._nursery.wait())}.",
            hint="its own error is printed above",
        )


def _paths() -> list[str]:
    return [path or str(Path.cwd()) for path in sys.path]


def _cause(code: int) -> str:
    if code == -signal.SIGALRM:
        return "stopped: the fit took longer than the model's timeout"
    return f"died (signal {-code})" if code < 0 else f"ended (exit code {code})"
