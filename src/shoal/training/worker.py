"""The process that fits: ``python -m shoal.training.worker FD MODULE...``, started by `Nursery`.

It imports what fitting needs once, then forks one child for each worker the pool asks for. It is
a fresh interpreter of its own, so the program that trains may be a script without a main guard, a
console command or a test; and it has one thread, so its forks are sound. Nothing that a worker
sends or gets but the model's own function is code: results are Arrow.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import socket
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from shoal.training.lean import quick_array_checks


def main() -> None:
    """Serve fork requests on the inherited socket until the pool closes it."""
    control = socket.socket(fileno=int(sys.argv[1]))
    _import_all(sys.argv[2:])
    quick_array_checks()
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    living: set[int] = set()
    cold = True
    while True:
        ready, _, _ = select.select([control, woken], [], [], 0 if cold else None)
        if not ready:
            _warm_up()
            cold = False
        if woken in ready:
            woken.recv(4096)
            _report_exits(control, living)
        if control in ready:
            message, fds = b"", list[int]()
            with contextlib.suppress(ConnectionResetError):
                message, fds, _, _ = socket.recv_fds(control, 4096, 16)
            if not message:
                return  # the pool is gone; its workers see their own pipes close
            for command in message.splitlines():
                if command == b"fork":
                    living.add(_fork(fds.pop(0), control, (woken, wake)))
                elif (pid := int(command.removeprefix(b"kill "))) in living:
                    os.kill(pid, signal.SIGKILL)


def _fork(pipe: int, control: socket.socket, others: tuple[socket.socket, ...]) -> int:
    pid = os.fork()
    if pid == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        for each in (control, *others):
            each.close()
        _work(Connection(pipe))
        os._exit(0)
    os.close(pipe)
    _send(control, {"pid": pid})
    return pid


def _warm_up() -> None:
    """What the first fit would import, while nobody waits: pyarrow asks for pandas, for one."""
    import numpy as np
    import pyarrow as pa
    from sklearn.linear_model import Ridge

    from shoal.training.kernel import FitJob, fit_segments

    with contextlib.suppress(ImportError):
        importlib.import_module("pandas")
    job = FitJob(
        build=Ridge, features=1, classes=0, timed=False, nan_ok=False, metrics=("mae",),
        metric="mae", baseline="mean", holdout=0.2, min_rows=5,
    )  # fmt: skip
    values = np.arange(10.0)
    fit_segments(pa.table({"0": values, "target": values}), np.array([0, 10]), job)


def _import_all(modules: list[str]) -> None:
    for module in ("shoal.training.task", "cloudpickle", *modules):
        # scikit-learn imports pandas when it is there, and uses it to read ARFF files only. It is
        # a quarter of the start; a function that needs pandas imports it a moment later.
        apart = module.startswith("sklearn.") and "pandas" not in sys.modules
        if apart:
            sys.modules["pandas"] = None  # type: ignore[assignment]
        with contextlib.suppress(ImportError):  # a worker that needs it will say so
            importlib.import_module(module)
        if apart:
            del sys.modules["pandas"]


def _report_exits(control: socket.socket, living: set[int]) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        living.discard(pid)
        _send(control, {"pid": pid, "exit": os.waitstatus_to_exitcode(status)})


def _send(control: socket.socket, message: dict[str, Any]) -> None:
    try:
        control.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        os._exit(0)


def _work(pipe: Connection) -> None:
    import pyarrow as pa

    from shoal.training.task import Task, checked, fit_task

    try:
        job, rows = _open(json.loads(pipe.recv_bytes()))
    except EOFError:
        return
    except BaseException as error:  # noqa: BLE001 (the pool tells the person, whatever it was)
        pipe.send_bytes(f"error {type(error).__name__}: {error}".encode())
        return
    pipe.send_bytes(b"ready")
    current = checked(job)
    while True:
        try:
            task = Task.from_bytes(pipe.recv_bytes())
        except (EOFError, OSError):
            return
        batch = fit_task(rows, task, current)
        current = job
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        try:
            pipe.send_bytes(memoryview(sink.getvalue()))
        except OSError:
            return


def _open(message: dict[str, str]) -> tuple[Any, Any]:
    import cloudpickle
    import pyarrow as pa

    sys.path[:] = json.loads(message["path"])
    # Our own parent wrote this file a moment ago, into a folder that only this user can read.
    job = cloudpickle.loads(Path(message["job"]).read_bytes())
    return job, pa.ipc.open_file(pa.memory_map(message["rows"])).read_all()


if __name__ == "__main__":
    main()
