"""Several processes behind one socket: counted together, replaced, swapped, ended together."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fleets import CONTEXT, ROW, trained_fleet
from servers import Running, send
from shoal.lake import Lake
from shoal.serving import Client
from shoal.tracking import Tracker

_SCRIPT = """
import contextlib, json, sys
from shoal.errors import ShoalError
from shoal.serving import InferenceLog, ServedModels, create_app, serve, worker_processes

given = json.loads(sys.argv[1])
def ready(url):
    worker.ready()
    if worker.lead:
        print(url, flush=True)
try:
    with contextlib.ExitStack() as stack:
        worker = stack.enter_context(worker_processes(2, "127.0.0.1", 0))
        from shoal.lake import Lake
        from shoal.tracking import Tracker
        models = ServedModels.load(Tracker(given["uri"], None, "flights"), given["models"])
        log = stack.enter_context(InferenceLog(Lake(given["lake"]), seconds=0.2))
        app = create_app(models, default=None, log=log)
        stack.enter_context(models.following(0.1, also=[app.state.publish], agree=worker.agree))
        serve(app, listener=worker.listener, ready=ready)
except ShoalError as error:
    sys.exit(error.message)
"""


@pytest.fixture
def tracker(tmp_path: Path) -> Tracker:
    tracker = Tracker(f"sqlite:///{tmp_path}/mlflow.db", None, "flights")
    tracker.record(trained_fleet(tmp_path), CONTEXT)
    tracker.record(trained_fleet(tmp_path, seed=1), CONTEXT, alias=None)
    return tracker


@contextmanager
def two_workers(tracker: Tracker, folder: Path, model: str = "delay") -> Iterator[Running]:
    given = {"uri": tracker.uri, "lake": str(folder / "lake"), "models": [model]}
    with (folder / "server.log").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, json.dumps(given)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdout is not None
    try:
        yield Running(url=process.stdout.readline().strip(), process=process)
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


def children(server: Running) -> set[int]:
    pid = server.process.pid
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "it never came to be"


def versions(url: str) -> set[int]:
    """Which versions answer ten connections."""
    found = set()
    for _ in range(10):
        with Client(url) as client:
            found.add(client.models()[0]["version"])
    return found


def metric(url: str, name: str) -> float:
    text = send(url, "GET", "/metrics").body.decode()
    return sum(float(value) for value in re.findall(rf"^{name}\{{.*\}} (\S+)$", text, re.MULTILINE))


def logged(folder: Path) -> int:
    table = Lake(folder / "lake").table("shoal.inferences_delay")
    return len(table.scan().collect()) if table.exists() else 0


def test_workers_count_swap_die_and_end_as_one_server(tracker: Tracker, tmp_path: Path) -> None:
    with two_workers(tracker, tmp_path) as server:
        until(lambda: len(children(server)) == 2)
        for _ in range(20):
            with Client(server.url) as client:
                assert len(client.predict([ROW])) == 1
        assert metric(server.url, "shoal_requests_total") == 20
        until(lambda: metric(server.url, "shoal_segment_rows") == 20)

        tracker.set_alias("delay", "champion", 2)
        until(lambda: versions(server.url) == {2})

        # A kill loses what waits in the killed process: the log has all of it first.
        until(lambda: logged(tmp_path) == 20)
        before = children(server)
        os.kill(dead := min(before), signal.SIGKILL)
        until(lambda: len(children(server) - {dead}) == 2)
        assert children(server) & before == before - {dead}
        for _ in range(20):
            with Client(server.url) as client:
                assert len(client.predict([ROW])) == 1
        assert metric(server.url, "shoal_requests_total") == 40, "the dead one's count too"

        last = children(server)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in last)
    assert logged(tmp_path) == 40


def test_workers_end_with_a_supervisor_that_was_killed(tracker: Tracker, tmp_path: Path) -> None:
    with two_workers(tracker, tmp_path) as server:
        until(lambda: len(children(server)) == 2)
        left = children(server)
        server.process.kill()
        server.process.wait(30)
        until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in left))


def test_a_start_that_fails_says_why_once(tracker: Tracker, tmp_path: Path) -> None:
    with two_workers(tracker, tmp_path, model="dely") as server:
        assert server.url == ""
        assert server.process.wait(60) == 1
    said = (tmp_path / "server.log").read_text().splitlines()
    assert said == ["There is no registered model 'dely'."]
