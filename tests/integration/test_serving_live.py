"""The server under load: swaps, slow clients, signals, TLS, and requests made from its own document."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from fleets import CONTEXT, ROW, flights, trained_fleet
from servers import Running, own_certificate
from shoal.errors import RequestError, Unavailable
from shoal.lake import Lake
from shoal.serving import Client, ServedModels, create_app
from shoal.tracking import Tracker

_SCRIPT = """
import json, sys
from shoal.lake import Lake
from shoal.serving import InferenceLog, ServedModels, create_app, serve
from shoal.tracking import Tracker

given = json.loads(sys.argv[1])
models = ServedModels.load(Tracker(given["uri"], None, "flights"))
with InferenceLog(Lake(given["lake"]), seconds=0.2) as log:
    app = create_app(models, default=None, log=log)
    with models.following(0.1, changed=lambda text: print(text, flush=True)):
        serve(app, port=0, ready=lambda url: print(url, flush=True), header_seconds=0.5,
              certificate=given.get("certificate"), private_key=given.get("private_key"))
"""


@pytest.fixture
def tracker(tmp_path: Path) -> Tracker:
    tracker = Tracker(f"sqlite:///{tmp_path}/mlflow.db", None, "flights")
    tracker.record(trained_fleet(tmp_path), CONTEXT)
    tracker.record(trained_fleet(tmp_path, seed=1), CONTEXT, alias=None)
    return tracker


@contextmanager
def live(tracker: Tracker, folder: Path, **more: str) -> Iterator[Running]:
    given = {"uri": tracker.uri, "lake": str(folder / "lake"), **more}
    with (folder / "server.log").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, json.dumps(given)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        assert url, (folder / "server.log").read_text()
        yield Running(url=url, process=process)
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


def test_swaps_under_load_fail_no_request_and_mix_none(tracker: Tracker, tmp_path: Path) -> None:
    rows = flights(rows=5, seed=4).drop_columns(["arr_delay"]).to_pylist()
    with live(tracker, tmp_path) as server:
        expected = {
            tuple(
                tracker.fleet(f"delay/{n}")
                .predict(flights(rows=5, seed=4))["prediction"]
                .to_pylist()
            )
            for n in (1, 2)
        }
        assert len(expected) == 2
        stop, wrong, counts = threading.Event(), [], []

        def ask() -> None:
            with Client(server.url) as client:
                done = 0
                while not stop.is_set():
                    try:
                        if tuple(client.predict(rows)) not in expected:
                            wrong.append("mixed")
                    except (RequestError, Unavailable) as error:
                        wrong.append(str(error))
                    done += 1
                counts.append(done)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert server.process.stdout is not None
        for number in [2, 1] * 5:
            tracker.set_alias("delay", "champion", number)
            assert server.process.stdout.readline().strip().endswith(f"-> {number}")
        stop.set()
        for thread in threads:
            thread.join()
        assert wrong == []
    found = Lake(tmp_path / "lake").table("shoal.inferences_delay").scan().collect()
    assert len(found) == 5 * sum(counts), "each answer is in the log, once"
    assert found["request_id"].n_unique() == sum(counts)
    assert found["model_version"].unique().sort().to_list() == [1, 2]


def test_nothing_is_lost_at_sigterm(tracker: Tracker, tmp_path: Path) -> None:
    with live(tracker, tmp_path) as server, Client(server.url) as client:
        for _ in range(20):
            client.predict([ROW])
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        with pytest.raises(Unavailable, match="does not answer"):
            client.predict([ROW])
    assert len(Lake(tmp_path / "lake").table("shoal.inferences_delay").scan().collect()) == 20


def test_a_slow_head_is_cut_off_and_hurts_nobody(tracker: Tracker, tmp_path: Path) -> None:
    with live(tracker, tmp_path) as server:
        parts = urlsplit(server.url)
        slow = [
            socket.create_connection((parts.hostname, parts.port), timeout=30) for _ in range(30)
        ]
        for connection in slow:
            connection.sendall(b"POST /invocations HTTP/1.1\r\nHost: x\r\nX-A")
        with Client(server.url) as client:
            assert len(client.predict([ROW])) == 1
        for connection in slow:
            assert connection.recv(100) == b""  # closed by the server
            connection.close()
        with socket.create_connection((parts.hostname, parts.port), timeout=30) as garbage:
            garbage.sendall(b"\x00\xff\x16\x03 nonsense\r\n\r\n")
            assert garbage.recv(100).startswith(b"HTTP/1.1 400")
        with socket.create_connection((parts.hostname, parts.port), timeout=30) as endless:
            endless.sendall(b"GET / HTTP/1.1\r\nX-A: " + b"a" * 70_000)
            assert endless.recv(100).startswith(b"HTTP/1.1 431")
        with Client(server.url) as client:
            assert client.models()[0]["name"] == "delay"


def test_tls(tracker: Tracker, tmp_path: Path) -> None:
    key, certificate = own_certificate(tmp_path)
    with live(tracker, tmp_path, certificate=str(certificate), private_key=str(key)) as server:
        assert server.url.startswith("https://")
        context = ssl.create_default_context(cafile=certificate)
        with Client(server.url, context=context) as client:
            assert len(client.predict([ROW])) == 1
        with Client(server.url) as client, pytest.raises(Unavailable, match="certificate"):
            client.predict([ROW])


def test_the_client_takes_frames_of_all_kinds(tracker: Tracker, tmp_path: Path) -> None:
    import polars as pl

    rows = flights(rows=30, seed=9).drop_columns(["arr_delay"])
    expected = tracker.fleet("delay").predict(rows).column("prediction").to_pylist()
    with live(tracker, tmp_path) as server:
        with Client(server.url, model="delay@champion") as client:
            frame = pl.from_arrow(rows)
            assert isinstance(frame, pl.DataFrame)
            for given in (rows, frame, rows.to_pandas(), rows.to_pylist()):
                assert client.predict(given) == expected
            told = client.explain(rows.to_pylist()[:2])
            assert [t["prediction"] for t in told] == expected[:2]
            assert set(told[0]) == {"prediction", "segment", "model_used", "fallback"}
            with pytest.raises(RequestError, match="lacks the columns"):
                client.predict([{"x": 1}])
        with (
            Client(server.url, model="dely") as client,
            pytest.raises(RequestError, match="not served"),
        ):
            client.predict(rows)
    with pytest.raises(RequestError, match="is no server"):
        Client("localhost:5001")


def test_requests_made_from_the_document_never_fail_the_server(tracker: Tracker) -> None:
    app = create_app(ServedModels.load(tracker), default=None)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    for operation in schema.get_all_operations():
        check(operation)


def check(operation: Any) -> None:
    """One documented operation, with made-up requests."""
    from hypothesis import given

    documented = operation.ok()

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=documented.as_strategy())
    def made_up(case: Any) -> None:
        answer = case.call()
        assert answer.status_code < 500, answer.text
        # A model may refuse values that its columns' types allow.
        case.validate_response(answer, excluded_checks=[positive_data_acceptance])

    made_up()
