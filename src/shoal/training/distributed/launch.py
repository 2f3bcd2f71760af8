"""A group of processes on this machine: started, watched, and started again where one died."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from shoal.errors import TrainingError
from shoal.training.nursery import cause_of, search_path

__all__ = ["RAISED", "RESTARTS", "launch", "own_error"]

# How often a group that lost a worker goes on from what it had saved.
RESTARTS = 3

# Threads of a worker, unless the person's environment says otherwise.
_ONE = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")

# What the worker ends with when its code raised; any other end means that it was lost.
RAISED = 3

# Within so many seconds a lost worker is known to be the reason why another one raised.
_PATIENCE = 5.0

# Errors whose text says it all.
_PLAIN = ("NotFinite", "TrainingError", "ModelError")


def launch(
    folder: Path, workers: int, kind: str, progress: Callable[[int], None] | None = None
) -> None:
    """Run `shoal.training.distributed.worker` in a group of processes until it has a result.

    Args:
        folder: The job; see `shoal.training.distributed.fit`.
        workers: How many processes.
        kind: Whose collectives they use: ``torch``, ``keras`` or ``xgboost``.
        progress: Told how many epochs are done.

    Raises:
        TrainingError: The training failed, or workers keep dying.
    """
    died = (0, 0)
    for attempt in range(RESTARTS + 1):
        lost = _attempt(folder, workers, kind, attempt, progress)
        if lost is None:
            return
        died = lost
    log = folder / f"log-{died[0]}-{RESTARTS}.txt"
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
    raise TrainingError(
        f"Worker {died[0]} of {workers} {cause_of(died[1])}, {RESTARTS + 1} times.",
        hint=f"its last words: {said[0]}" if said else "does the machine have enough memory?",
    )


def _attempt(
    folder: Path, workers: int, kind: str, attempt: int, progress: Callable[[int], None] | None
) -> tuple[int, int] | None:
    """One life of the group; the worker that ended first without success, and its exit code."""
    with contextlib.ExitStack() as stack:
        shared = _meeting_place(stack, folder, workers, kind, attempt)
        group = [
            _start(stack, folder, rank, workers, attempt, shared(rank)) for rank in range(workers)
        ]
        pipes: dict[Any, tuple[int, subprocess.Popen[bytes]]] = {
            pipe: (rank, process) for rank, (pipe, process) in enumerate(group)
        }
        raised: int | None = None
        while pipes:
            found = wait(list(pipes), None if raised is None else _PATIENCE)
            for ready in found:
                data = os.read(ready, 4096)  # type: ignore[arg-type]
                if data:
                    if progress:
                        progress(int(data.split()[-1]))
                    continue
                rank, process = pipes.pop(ready)
                code = process.wait()
                if code == RAISED and raised is None:
                    raised = rank
                elif code not in (0, RAISED):
                    return rank, code  # the stack ends the others
            if not found:
                break
        if raised is not None:
            raise own_error(folder, raised)
    return None


def _start(
    stack: contextlib.ExitStack,
    folder: Path,
    rank: int,
    workers: int,
    attempt: int,
    shared: dict[str, str],
) -> tuple[int, subprocess.Popen[bytes]]:
    told, tells = os.pipe()  # its end closes when the worker ends
    lives, alive = os.pipe()  # our end closes when we end
    for fd in (told, alive):
        stack.callback(os.close, fd)
    log = stack.enter_context((folder / f"log-{rank}-{attempt}.txt").open("wb"))
    environment = {
        **dict.fromkeys(_ONE, "1"),  # as torchrun has it: the workers are the parallelism
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(workers),
        "LOCAL_WORLD_SIZE": str(workers),
        "SHOAL_ALIVE": str(lives),
        "SHOAL_ALIVE_OUT": str(tells),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "PYTHONPATH": os.pathsep.join(search_path()),
        **shared,
    }
    process = subprocess.Popen(  # noqa: S603 (our own interpreter and module)
        [sys.executable, "-P", "-m", "shoal.training.distributed.worker", str(folder)],
        pass_fds=[tells, lives],
        stdin=subprocess.DEVNULL,
        stdout=log,  # a chatty model must not spoil --json
        stderr=log,
        start_new_session=True,
        env=environment,
    )
    os.close(tells)
    os.close(lives)
    stack.callback(_end, process)
    return told, process


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _meeting_place(
    stack: contextlib.ExitStack, folder: Path, workers: int, kind: str, attempt: int
) -> Callable[[int], dict[str, str]]:
    """What tells workers how to find each other: always on this machine's loopback."""
    if kind == "torch":
        loopback = "lo0" if sys.platform == "darwin" else "lo"
        place = {
            "SHOAL_RENDEZVOUS": f"file://{folder}/meeting-{attempt}",
            "GLOO_SOCKET_IFNAME": loopback,
        }
        return lambda _: place
    if kind == "keras":
        hosts = [f"127.0.0.1:{port}" for port in _free_ports(workers)]
        return lambda rank: {
            "TF_CONFIG": json.dumps(
                {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": rank}}
            )
        }
    if kind == "xgboost" and workers > 1:
        from xgboost.tracker import RabitTracker

        tracker = RabitTracker(n_workers=workers, host_ip="127.0.0.1", sortby="task")
        tracker.start()
        stack.callback(tracker.free)
        return lambda rank: {
            "SHOAL_TRACKER": json.dumps({**tracker.worker_args(), "dmlc_task_id": f"{rank:06}"})
        }
    return lambda _: {}


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def own_error(folder: Path, rank: int) -> TrainingError:
    """What a worker's own code raised: it would be raised again."""
    said = json.loads((folder / f"error-{rank}.json").read_text(encoding="utf-8"))
    text = said["text"] if said["type"] in _PLAIN else f"{said['type']}: {said['text']}"
    return TrainingError(text)
