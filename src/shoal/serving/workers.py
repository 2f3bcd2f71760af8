"""Worker processes that accept from one listening socket.

The supervisor imports what a server needs, binds the socket and forks. It opens no model, starts no
thread and answers nothing, so that a worker which died is replaced by another fork in a moment,
and connections that wait in the socket's queue meanwhile lose nothing. Workers share the pages of
the imported libraries, and of members that they map from the same file.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import logging
import os
import selectors
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from shoal.errors import ShoalError, Unavailable
from shoal.serving.agreement import Agreement
from shoal.serving.server import listen

__all__ = ["Worker", "worker_processes"]

_log = logging.getLogger(__name__)

# What is imported once, before the forks. Polars and delta-rs start threads when they are
# imported, which a fork would not have: a worker that needs them imports them itself.
_SHARED = (
    *("numpy", "orjson", "prometheus_client", "pyarrow.compute", "pyarrow.ipc", "uvicorn", "yaml"),
    *("shoal.models", "shoal.models.fleet", "shoal.serving.app", "shoal.tracking"),
    *("starlette.applications", "uvicorn.protocols.http.httptools_impl"),
)
_PATIENCE = 30.0


@dataclass(kw_only=True)
class Worker:
    """One process of a server.

    Attributes:
        listener: The socket that it accepts from; None where it is the only process.
        lead: It speaks for all: one process of a server is the lead.
        agree: Waits until all processes take up the same state; see `ServedModels.following`.
    """

    listener: socket.socket | None = None
    lead: bool = True
    agree: Callable[[str], None] | None = None
    _status: int | None = None

    def ready(self) -> None:
        """Tells the supervisor that connections are accepted."""
        self._tell({"ready": True})

    def _tell(self, message: dict[str, object]) -> None:
        if self._status is not None:
            with contextlib.suppress(OSError):
                os.write(self._status, json.dumps(message).encode() + b"\n")


@contextlib.contextmanager
def worker_processes(count: int, host: str, port: int) -> Iterator[Worker]:
    """Goes on in ``count`` processes at once; a process that dies is replaced.

    Enter it before anything that a fork does not survive: threads, database connections, models.
    The context's end is the end of the process. With one process nothing is forked.

    Args:
        count: How many.
        host: Address to listen on.
        port: Port; 0 takes a free one.

    Raises:
        Unavailable: The address cannot be listened on, or this system cannot fork.
        ShoalError: What the first worker to fail at the start said.
        SystemExit: In the supervisor, after all workers have ended.
    """
    if count == 1:
        yield Worker()
        return
    if not hasattr(os, "fork"):
        raise Unavailable("This system has no fork.", hint="Serve with one process: --workers 1")
    with listen(host, port) as listener, tempfile.TemporaryDirectory(prefix="shoal-serve-") as own:
        # prometheus_client looks at it once, when it is imported.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = own
        for name in _SHARED:
            with contextlib.suppress(ModuleNotFoundError):  # a server of a bundle has no MLflow
                importlib.import_module(name)
        gc.collect()
        gc.freeze()  # a collection in a worker would write to, and so copy, all shared pages
        supervisor = _Supervisor(listener, count, Path(own) / "swaps")
        worker = supervisor.run()  # comes back in workers only
        code = 1
        try:
            tempfile.tempdir = own  # what a killed worker downloaded goes with the supervisor
            yield worker
            code = 0
        except ShoalError as error:
            worker._tell({"error": error.message, "hint": error.hint})
        except Exception:  # noqa: BLE001 - the process ends here, whatever it was
            _log.exception("A worker failed.")
        finally:
            with contextlib.suppress(OSError):
                _flush()
            os._exit(code)  # the temporary folder, and what is above, is the supervisor's


@dataclass(kw_only=True)
class _Child:
    index: int
    pid: int
    status: int
    said: bytes = b""
    ready: bool = False

    def error(self) -> ShoalError | None:
        for line in self.said.splitlines():
            found = json.loads(line)
            if "error" in found:
                return Unavailable(found["error"], hint=found["hint"])
        return None


@dataclass
class _Supervisor:
    listener: socket.socket
    count: int
    swaps: Path
    children: dict[int, _Child] = field(default_factory=dict)
    due: list[tuple[float, int]] = field(default_factory=list)
    handlers: dict[signal.Signals, Any] = field(default_factory=dict)
    started: bool = False
    stopping: bool = False
    failures: int = 0
    leash: tuple[int, int] = field(default_factory=os.pipe)
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)

    def run(self) -> Worker:
        """Returns in each worker; in the supervisor it raises when all is over."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self.handlers[number] = signal.signal(number, self._stop)
        self.due = [(0.0, index) for index in range(self.count)]
        while self.children or (self.due and not self.stopping):
            for moment, index in sorted(self.due):
                if moment <= time.monotonic() and not self.stopping:
                    self.due.remove((moment, index))
                    worker = self._fork(index)
                    if worker is not None:
                        return worker
            self._hear(max(0.0, min(self.due)[0] - time.monotonic()) if self.due else None)
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        raise SystemExit(0)

    def _hear(self, seconds: float | None) -> None:
        """Waits for what workers say; a pipe that is closed is a worker that ended."""
        for key, _ in self.selector.select(seconds):
            child = self.children[key.fd]
            said = os.read(key.fd, 65_536)
            child.said += said
            child.ready = child.ready or b'"ready"' in said
            if not said:
                self._ended(child)
        if sum(child.ready for child in self.children.values()) == self.count:
            self.started, self.failures = True, 0

    def _fork(self, index: int) -> Worker | None:
        """In the worker, what it is; in the supervisor None."""
        reading, writing = os.pipe()
        _flush()
        # A signal between the fork and the worker's own handlers must not meet the supervisor's.
        signal.pthread_sigmask(signal.SIG_BLOCK, self.handlers)
        pid = os.fork()
        if pid:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self.handlers)
            os.close(writing)
            self.children[reading] = _Child(index=index, pid=pid, status=reading)
            self.selector.register(reading, selectors.EVENT_READ)
            if self.stopping:
                self._end(signal.SIGTERM)
            return None
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.handlers)
        for descriptor in (reading, self.leash[1], *self.children):
            os.close(descriptor)
        self.selector.close()
        threading.Thread(target=_on_leash, args=(self.leash[0],), daemon=True).start()
        agreement = Agreement(folder=self.swaps, index=index, count=self.count)
        return Worker(
            listener=self.listener, lead=index == 0, agree=agreement.wait, _status=writing
        )

    def _ended(self, child: _Child) -> None:
        self.selector.unregister(child.status)
        os.close(child.status)
        del self.children[child.status]
        _, status = os.waitpid(child.pid, 0)
        if self.stopping:
            return
        if not self.started:
            self._give_up(child, os.waitstatus_to_exitcode(status))
        self.failures += 1
        # At once the first time; one that cannot be replaced is tried again ever later.
        pause = 0.0 if child.ready else min(_PATIENCE, 0.5 * 2**self.failures)
        why = child.error() or f"exit code {os.waitstatus_to_exitcode(status)}"
        _log.error("Worker %d ended (%s) and is replaced.", child.pid, why)
        self.due.append((time.monotonic() + pause, child.index))

    def _give_up(self, child: _Child, code: int) -> NoReturn:
        self._stop()
        for other in list(self.children.values()):
            os.waitpid(other.pid, 0)
        raise child.error() or Unavailable(f"A worker ended with {code} before it was ready.")

    def _stop(self, *_: object) -> None:
        self.stopping = True
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        for child in self.children.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, number)


def _on_leash(descriptor: int) -> None:
    """A worker ends with its supervisor, however that ended."""
    os.read(descriptor, 1)  # nothing is ever written: it comes back when the other end is closed
    os.kill(os.getpid(), signal.SIGTERM)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
