"""The server under load, swapped, told to stop and killed: what was answered is right and logged."""

from __future__ import annotations

import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fleets import CONTEXT, flights, trained_fleet
from servers import own_certificate
from shoal.errors import RequestError, Unavailable
from shoal.lake import Lake
from shoal.serving import Client
from shoal.tracking import Tracker

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]

ROWS = flights(rows=3, seed=4).drop_columns(["arr_delay"])


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    folder = tmp_path_factory.mktemp("registry")
    tracker = Tracker(f"sqlite:///{folder}/mlflow.db", None, "flights")
    tracker.record(trained_fleet(folder), CONTEXT)
    tracker.record(trained_fleet(folder, seed=1), CONTEXT, alias=None)
    return tracker


@pytest.fixture
def project(tracker: Tracker, tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "spark-pipeline.yml").write_text("name: served\nstorage: lake\nlibraries: []\n")
    (folder / "shoal.toml").write_text(f'[profiles.default]\ntracking = "{tracker.uri}"\n')
    return folder


@contextmanager
def served(project: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """``shoal serve``: its URL and process; what it says goes on in ``server.log``."""
    command = [Path(sys.executable).parent / "shoal", "serve", "delay", "--project", project]
    with (project / "server.log").open("a") as errors:
        process = subprocess.Popen(
            [*map(str, command), "--port", "0", *options],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdout is not None
    try:
        url = ""
        while not url:
            line = process.stdout.readline()
            assert line, (project / "server.log").read_text()
            url = line.split()[2] if line.startswith("Serving at") else ""
        yield url, process
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()


@dataclass
class Load:
    """Clients that ask without pause, each on its connection, until they are told to stop."""

    url: str
    expected: set[tuple[float, ...]]
    answered: dict[str, float] = field(default_factory=dict)  # request id to when
    wrong: list[str] = field(default_factory=list)
    failed: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def ask(self, name: str) -> None:
        number = 0
        body = json.dumps({"dataframe_records": ROWS.to_pylist()}).encode()
        with Client(self.url) as client:
            while not self.stop.is_set():
                number += 1
                ident = f"{name}-{number}"
                headers = {"content-type": "application/json", "x-request-id": ident}
                try:
                    status, content = client._send("POST", "/invocations", body, headers)
                except (OSError, http.client.HTTPException):
                    self.failed += 1
                    return
                if status != 200:
                    self.wrong.append(f"{status} {content!r}")
                elif tuple(json.loads(content)["predictions"]) not in self.expected:
                    self.wrong.append(f"mixed {content!r}")
                else:
                    self.answered[ident] = time.monotonic()

    @contextmanager
    def running(self, name: str, clients: int = 3) -> Iterator[None]:
        threads = [threading.Thread(target=self.ask, args=(f"{name}-{i}",)) for i in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()


def expected(tracker: Tracker) -> set[tuple[float, ...]]:
    """What each version predicts for the rows."""
    fleets = [tracker.fleet(f"delay/{number}") for number in (1, 2)]
    found = {tuple(fleet.predict(ROWS)["prediction"].to_pylist()) for fleet in fleets}
    assert len(found) == 2
    return found


def logged(project: Path) -> Any:
    return Lake(project / "lake").table("shoal.inferences_delay").scan().collect()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_fifty_swaps_fail_no_request_and_mix_none(
    tracker: Tracker, project: Path, workers: str
) -> None:
    with served(project, "--workers", workers, "--follow", "0.05") as (url, process):
        load = Load(url, expected(tracker))
        with load.running("swap"):
            for number in [2, 1] * 25:
                tracker.set_alias("delay", "champion", number)
                assert process.stdout is not None
                assert process.stdout.readline().strip().endswith(f"-> {number}")
        assert (load.wrong, load.failed) == ([], 0)
        assert len(load.answered) > 100


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ten_stops_under_load_lose_no_row_of_the_log(
    tracker: Tracker, project: Path, workers: str
) -> None:
    answered: set[str] = set()
    right = expected(tracker)
    for stop in range(10):
        with served(project, "--log", "--workers", workers) as (url, process):
            load = Load(url, right)
            with load.running(f"stop{stop}"):
                while len(load.answered) < 30:
                    time.sleep(0.01)
                process.send_signal(signal.SIGTERM)
                assert process.wait(60) == 0
            assert load.wrong == []
            answered |= set(load.answered)
    found = logged(project)
    assert answered <= set(found["request_id"].to_list())
    keys = found.select("request_id", "row", "model_version", "role")
    assert keys.unique().height == keys.height == 3 * found["request_id"].n_unique()


def test_a_kill_loses_the_newest_rows_only(tracker: Tracker, project: Path) -> None:
    """At most what came in the log's two seconds and its commit, and no hole before it."""
    with served(project, "--log") as (url, process):
        load = Load(url, expected(tracker))
        with load.running("kill", clients=1):
            commits = project / "lake/shoal/inferences_delay/_delta_log"
            while not any('"add"' in file.read_text() for file in commits.glob("*.json")):
                time.sleep(0.02)  # the table's making has no rows yet
            known = len(load.answered)
            while len(load.answered) < known + 50:
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
            killed = time.monotonic()
            process.wait(30)
    order = list(load.answered)
    kept = set(logged(project)["request_id"].to_list())
    inside = [ident in kept for ident in order]
    count = sum(inside)
    assert inside == [True] * count + [False] * (len(order) - count), "there is a hole"
    lost = [load.answered[ident] for ident in order[count:]]
    assert count >= 1
    assert not lost or killed - min(lost) < 2 + 10, "two seconds, and a commit on a busy machine"
    print(f"lost {len(lost)} of {len(order)} requests, the oldest "
          f"{killed - min(lost, default=killed):.2f} s before the kill")  # fmt: skip


def test_a_busy_server_says_so_and_clients_come_again(project: Path, tmp_path: Path) -> None:
    """Real answers 503 with Retry-After, of two processes, over TLS."""
    key, certificate = own_certificate(tmp_path)
    options = ["--workers", "2", "--queue", "0", "--certificate", str(certificate)]
    rows = flights(rows=20_000, seed=5).drop_columns(["arr_delay"])
    context = ssl.create_default_context(cafile=certificate)
    with served(project, *options, "--private-key", str(key)) as (url, _):

        def ask(retries: int) -> int:
            """How many predictions there are; 0 where the server was busy."""
            with Client(url, context=context, retries=retries) as client:
                try:
                    return len(client.predict(rows))
                except Unavailable as error:
                    if "busy" not in str(error):
                        raise
                    return 0

        with ThreadPoolExecutor(24) as clients:
            assert set(clients.map(ask, [0] * 48)) == {0, 20_000}, "some were refused"
            assert set(clients.map(ask, [30] * 24)) == {20_000}, "and none that came again"
        with Client(url, context=context, model="dely", retries=3) as client:
            with pytest.raises(RequestError, match="not served"):  # what is wrong is asked once
                client.predict(ROWS)
