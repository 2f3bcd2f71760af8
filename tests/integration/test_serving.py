"""The scoring server as a process: sockets, limits, signals."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import polars as pl
import pyarrow as pa
import pytest

from fleets import COLUMNS, CONTEXT, flights, trained_fleet
from servers import JSON, Running, running_server, send
from shoal.errors import RequestError, Unavailable
from shoal.serving import ServedModels, create_app, serve
from shoal.tracking import Tracker
from shoal.workspace.files import score_file


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    folder = tmp_path_factory.mktemp("registry")
    tracker = Tracker(f"sqlite:///{folder}/mlflow.db", None, "flights")
    tracker.record(trained_fleet(folder), CONTEXT)
    tracker.record(trained_fleet(folder, seed=1), CONTEXT)
    tracker.record(trained_fleet(folder, name="arrival"), CONTEXT)
    return tracker


@pytest.fixture(scope="module")
def server(tracker: Tracker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_server(tracker, tmp_path_factory.mktemp("log") / "log.txt") as running:
        yield running


def split(rows: pa.Table) -> bytes:
    data = [list(row.values()) for row in rows.select(COLUMNS).to_pylist()]
    return json.dumps({"dataframe_split": {"columns": COLUMNS, "data": data}}).encode()


def test_rest_gives_the_numbers_of_the_batch(server: Running, tracker: Tracker) -> None:
    rows = flights(rows=500, seed=5)
    answer = send(server.url, "POST", "/models/delay/invocations", split(rows))
    assert answer.status == 200
    assert answer.headers["shoal-model"] == "delay/2"
    batch = tracker.fleet("delay").predict(rows).column("prediction").to_pylist()
    assert answer.json() == {"predictions": batch}
    assert None in batch


def test_many_clients_at_once_each_get_their_own_rows(server: Running, tracker: Tracker) -> None:
    fleet = tracker.fleet("delay")
    tables = [flights(rows=40, seed=seed) for seed in range(40)]

    def ask(rows: pa.Table) -> object:
        answer = send(server.url, "POST", "/models/delay/invocations", split(rows))
        assert send(server.url, "GET", "/ping").status == 200
        return answer.json()["predictions"]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, tables))
    assert answers == [fleet.predict(t).column("prediction").to_pylist() for t in tables]


def test_an_open_connection_answers_without_waiting_for_acknowledgements(server: Running) -> None:
    """With Nagle's algorithm each answer takes 40 ms, whatever the machine; without, about 2."""
    parts = urlsplit(server.url)
    body = split(flights(rows=1))
    seconds = []
    with contextlib.closing(http.client.HTTPConnection(parts.hostname or "", parts.port)) as open_:
        for _ in range(30):
            start = time.perf_counter()
            open_.request("POST", "/models/delay/invocations", body, JSON)
            assert open_.getresponse().read()
            seconds.append(time.perf_counter() - start)
    assert min(seconds[1:]) < 0.035


def test_a_connection_answers_requests_however_they_arrive(server: Running) -> None:
    """Whole, in pieces, several at once, after a question, and closed where it is asked for."""
    parts = urlsplit(server.url)
    plain, unusual = split(flights(rows=2)), b'{"inputs": 1}'

    def request(body: bytes, *more: str, version: str = "1.1") -> bytes:
        lines = [
            f"POST /models/delay/invocations HTTP/{version}",
            *("Host: x", "Content-Type: application/json", f"Content-Length: {len(body)}"),
            *more,
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def talk(*pieces: bytes) -> list[tuple[int, bytes]]:
        """What a connection answers before it closes, the last request asking for that."""
        found = []
        with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(0.02)  # so that the pieces come one by one: any timing must do
            stream = connection.makefile("rb")
            while line := stream.readline():
                status, headers = int(line.split()[1]), http.client.parse_headers(stream)
                if status != 100:
                    found.append((status, stream.read(int(headers["content-length"]))))
        return found

    last = request(plain, "Connection: close")
    ((status, expected),) = talk(last)
    assert status == 200
    assert len(json.loads(expected)["predictions"]) == 2
    good, bad = (200, expected), 400
    assert talk(request(plain), last) == [good, good]
    assert talk(request(plain) + request(plain) + last) == [good] * 3
    assert talk(*(last[at : at + 150] for at in range(0, len(last), 150))) == [good]
    assert talk(request(plain)[:-5], request(plain)[-5:] + last) == [good, good]
    mixed = talk(request(plain) + request(unusual) + request(plain) + last)
    assert [status for status, _ in mixed] == [200, bad, 200, 200]
    assert mixed[2:] == [good, good]
    assert talk(request(plain, version="1.0")) == [good]
    asking = request(plain, "Expect: 100-continue", "Connection: close")
    head = len(asking) - len(plain)
    assert talk(asking[:head], asking[head:]) == [good]


@pytest.mark.parametrize("kinds", [("csv", "parquet"), ("parquet", "jsonl"), ("jsonl", "csv")])
def test_a_file_is_scored_by_the_server(
    server: Running, tracker: Tracker, tmp_path: Path, kinds: tuple[str, str]
) -> None:
    rows = flights(rows=4_500, seed=3).drop_columns(["arr_delay"])
    rows = rows.append_column("note", pa.array([f'n{i}, "x"' for i in range(4_500)]))
    source, target = tmp_path / f"rows.{kinds[0]}", tmp_path / f"found.{kinds[1]}"
    frame = pl.DataFrame(rows)
    write = {"csv": frame.write_csv, "parquet": frame.write_parquet, "jsonl": frame.write_ndjson}
    write[kinds[0]](source)
    assert score_file(server.url, source, target, model="delay") == 4_500
    read = {"csv": pl.read_csv, "parquet": pl.read_parquet, "jsonl": pl.read_ndjson}
    found = read[kinds[1]](target)
    expected = tracker.fleet("delay").predict(rows)["prediction"].to_pylist()
    assert found["prediction"].to_list() == expected
    assert found["note"].to_list() == rows["note"].to_pylist()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([source.name, target.name])


def test_a_file_that_cannot_be_scored_is_told_why(server: Running, tmp_path: Path) -> None:
    target = tmp_path / "found.parquet"
    for name, text, words in (
        ("a.txt", "", "is of no known kind"),
        ("none.csv", None, "There is no file"),
        ("a.csv", "carrier,dest\nUA,IAH\n", "lacks the columns 'distance'"),
        ("b.csv", "distance\nfar\n", "cannot be read"),
        ("c.jsonl", '{"distance": 1', "cannot be read"),
        ("d.parquet", "PAR1", "cannot be read"),
    ):
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(RequestError, match=words):
            score_file(server.url, tmp_path / name, target, model="delay")
    with pytest.raises(RequestError, match="has no default model"):
        score_file(server.url, tmp_path / "a.csv", target)
    assert not target.exists()
    assert not list(tmp_path.glob(".*"))


def test_listing(server: Running) -> None:
    listed = send(server.url, "GET", "/models").json()
    found = [(item["name"], item["version"], item["segments"]) for item in listed]
    assert found == [("arrival", 1, 4), ("delay", 2, 4)]
    assert tuple(listed[0]["inputs"]) == COLUMNS


def test_two_models_need_a_default_for_the_plain_path(server: Running) -> None:
    answer = send(server.url, "POST", "/invocations", split(flights(rows=1)))
    assert answer.status == 404
    assert "/models/NAME/invocations" in answer.json()["message"]


def test_a_body_that_is_too_large_is_answered_after_it_was_sent(server: Running) -> None:
    answer = send(server.url, "POST", "/models/delay/invocations", b"[" + b" " * 3 * 2**20)
    assert answer.status == 413
    assert answer.json()["error_code"] == "REQUEST_TOO_LARGE"


def test_a_chunked_body_has_the_same_limit(server: Running) -> None:
    parts = urlsplit(server.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
        connection.sendall(
            b"POST /models/delay/invocations HTTP/1.1\r\nHost: x\r\n"
            b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(40):
            connection.sendall(b"10000\r\n" + b" " * 65_536 + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_goes_away_leaves_the_server_well(server: Running) -> None:
    parts = urlsplit(server.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
        connection.sendall(
            b"POST /models/delay/invocations HTTP/1.1\r\nHost: x\r\n"
            b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
    assert send(server.url, "GET", "/health").status == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_a_running_request_finish(tmp_path: Path, number: signal.Signals) -> None:
    with running_server(trained_fleet(tmp_path), tmp_path / "log.txt") as running:
        parts = urlsplit(running.url)
        body = split(flights(rows=3))
        with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
            head = (
                "POST /invocations HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            connection.sendall(head.encode())
            # The server asks for the body when it is inside the request.
            assert connection.recv(1_000).startswith(b"HTTP/1.1 100")
            running.process.send_signal(number)
            wait_until_refused(parts.hostname or "", parts.port or 0)
            connection.sendall(body)
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        assert running.process.wait(30) == 0
        assert running.process.stdout is not None
        assert running.process.stdout.read() == "stopped\n"
    assert (tmp_path / "log.txt").read_text() == ""


def wait_until_refused(host: str, port: int) -> None:
    """Return once the server no longer accepts connections."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            socket.create_connection((host, port), timeout=30).close()
        except OSError:
            return
        time.sleep(0.01)
    raise AssertionError("the server still accepts connections")


def test_a_port_in_use_is_an_error_for_the_person(tracker: Tracker) -> None:
    app = create_app(ServedModels.load(tracker, ["delay"]), default=None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable, match=f"Cannot listen on 127.0.0.1:{port}"):
            serve(app, port=port)


def test_signal_handlers_are_as_before_after_serving(tracker: Tracker) -> None:
    app = create_app(ServedModels.load(tracker, ["delay@champion"]), default="delay")
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    statuses: list[int] = []

    def visit(url: str) -> None:
        def ask() -> None:
            statuses.append(send(url, "POST", "/invocations", split(flights(rows=2))).status)
            signal.raise_signal(signal.SIGTERM)

        threading.Thread(target=ask).start()

    serve(app, port=0, ready=visit)
    assert statuses == [200]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
