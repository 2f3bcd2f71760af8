"""The process that forks workers: it imports what fitting needs once, for all of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self

from shoal.errors import TrainingError

__all__ = ["Nursery", "cause_of", "search_path"]

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


class Nursery:
    """Starts workers; warms up at once, and may serve many pools, one after another.

    Args:
        modules: What the workers need, imported before any is asked for.
    """

    def __init__(self, modules: Iterable[str] = ()) -> None:
        self._exits: dict[int, int] = {}
        self._pids: deque[int] = deque()
        self._unread = b""
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 (our own interpreter and module)
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
                env={**os.environ, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join(search_path())},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop it and all its workers at once."""
        self._control.close()
        # Its own session: one signal ends the nursery and all workers, also in a long fit.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def fork(self) -> tuple[Connection, int]:
        """A new worker: our end of its pipe, and its process id."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._control, [b"fork\n"], [theirs.fileno()])
            except OSError:
                raise self._died() from None
        while not self._pids:
            self._listen()
        return Connection(ours.detach()), self._pids.popleft()

    def kill(self, pid: int) -> None:
        """End a worker, whatever it does; nothing happens when it has ended."""
        with contextlib.suppress(OSError):
            self._control.sendall(f"kill {pid}\n".encode())

    def exit_code(self, pid: int) -> int:
        """How a worker ended that is about to, or has: minus a signal's number, or its code."""
        while pid not in self._exits:
            self._listen()
        return self._exits.pop(pid)

    def _listen(self) -> None:
        received = self._control.recv(65536)
        if not received:
            raise self._died()
        *lines, self._unread = (self._unread + received).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "exit" in message:
                self._exits[message["pid"]] = message["exit"]
            else:
                self._exits.pop(message["pid"], None)  # of another one that had this number
                self._pids.append(message["pid"])

    def _died(self) -> TrainingError:
        return TrainingError(
            f"The process that starts workers {cause_of(self._process.wait())}.",
            hint="its own error is printed above",
        )


def search_path() -> list[str]:
    """This process's import path, for another one."""
    return [path or str(Path.cwd()) for path in sys.path]


def cause_of(code: int) -> str:
    """What an exit code says, after the word worker."""
    if code == -signal.SIGALRM:
        return "stopped: the fit took longer than the model's timeout"
    if code == -signal.SIGKILL:
        return "died (signal 9, as when memory runs out)"
    return f"died (signal {-code})" if code < 0 else f"ended (exit code {code})"
