"""A served fleet against MLflow's server, a handler by hand, and an empty answer, under load.

Each server is a process of its own, and so is the load: connections that send the next request
when the last is answered. The servers take turns, and of each the median turn counts, so that
ratios within one run hold on a machine that does other things too. Processor time a request is
the server's own. MLServer takes part where its interpreter is named (it wants an environment of
its own: uv venv; uv pip install mlserver mlserver-mlflow):

    python benchmarks/serving.py
    python benchmarks/serving.py --members 1000 --seconds 2 --connections 8
    python benchmarks/serving.py --mlserver other/bin/python
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

FEATURES = 8
MLSERVER = "/invocations"  # MLServer's runtime for MLflow has it too

BY_HAND = """
import sys
import joblib, numpy as np, orjson, uvicorn
from fastapi import FastAPI, Request, Response

models, app = joblib.load(sys.argv[1]), FastAPI()

@app.post("/invocations")
async def invocations(request: Request) -> Response:
    split = orjson.loads(await request.body())["dataframe_split"]
    rows = split["data"]
    found = np.empty(len(rows))
    by = {}
    for i, row in enumerate(rows):
        by.setdefault(row[0], []).append(i)
    for store, at in by.items():
        found[at] = models[store].predict(np.array([rows[i][1:] for i in at]))
    return Response(orjson.dumps({"predictions": found.tolist()}), media_type="application/json")

uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
"""

HELLO = """
import sys
import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

async def hello(request):
    await request.body()
    return Response(b'{"predictions": [0.0]}', media_type="application/json")

app = Starlette(routes=[Route("/invocations", hello, methods=["POST"])])
uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False)
"""


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=4.0, help="of load, for each measurement")
    parser.add_argument("--connections", type=int, action="append")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each server")
    parser.add_argument("--swaps", type=int, default=50, help="promotions under load")
    parser.add_argument("--mlserver", help="interpreter of an environment with MLServer")
    parser.add_argument("--only", action="append", help="servers to measure")
    parser.add_argument("--load", help=argparse.SUPPRESS)  # the load generator's own process
    options = parser.parse_args()
    if options.load:
        print(json.dumps(asyncio.run(load(**json.loads(options.load)))))
        return
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        measure(Path(folder), options)


def measure(folder: Path, options: argparse.Namespace) -> None:
    """Every server under every load."""
    from rich.console import Console
    from rich.table import Table

    prepare(folder, options.members)
    console = Console()
    connections = options.connections or [1, 8, 64]
    peers = ["mlserver"] if options.mlserver else []
    names = options.only or ["hello", "shoal", "shoal, one member", "by hand", "mlflow", *peers]
    results: dict[str, dict[str, Any]] = {name: {} for name in names}
    with contextlib.ExitStack() as stack:
        running = {}
        for name in names:
            made = server(name, folder, options.members, options.mlserver)
            running[name] = stack.enter_context(made)
            results[name]["start"] = running[name][1]
        for rows in (1, 1000):
            for count in connections:
                turns: dict[str, list[dict[str, float]]] = {name: [] for name in names}
                for _ in range(options.rounds):
                    for name, (port, _, process) in running.items():
                        members = 1 if name == "shoal, one member" else options.members
                        path = MLSERVER if name == "mlserver" else "/invocations"
                        bodies = write_bodies(folder, rows, members, path)
                        before = processor_seconds(process.pid)
                        one = run_load(port, bodies, count, options.seconds)
                        one["cpu"] = (processor_seconds(process.pid) - before) / one["count"]
                        turns[name].append(one)
                for name, found in turns.items():
                    middle = sorted(found, key=lambda one: one["rate"])[len(found) // 2]
                    results[name][f"{rows}/{count}"] = middle
        for name, (_, _, process) in running.items():
            results[name]["memory"] = resident(process.pid)
        if "shoal" in running and options.swaps:
            console.print(swaps(folder, running["shoal"][0], options))
    floor = results.get("hello")
    for rows in (1, 1000):
        table = Table(
            title=f"{rows} row{'s' if rows > 1 else ''} a request, {options.members:,} members"
        )
        for column in (
            "server",
            "connections",
            "requests/s",
            "rows/s",
            "p50 ms",
            "p99 ms",
            "CPU ms",
            "of hello",
        ):
            table.add_column(column, justify="left" if column == "server" else "right")
        for name, found in results.items():
            for count in connections:
                one = found[f"{rows}/{count}"]
                share = one["rate"] / floor[f"{rows}/{count}"]["rate"] if floor else float("nan")
                table.add_row(
                    name, str(count), f"{one['rate']:,.0f}", f"{one['rate'] * rows:,.0f}",
                    f"{one['p50']:.2f}", f"{one['p99']:.2f}", f"{1000 * one['cpu']:.3f}", f"{share:.2f}",
                )  # fmt: skip
        console.print(table)
    for name, found in results.items():
        console.print(
            f"{name}: starts in {found['start']:.2f} s, {found['memory']:.0f} MB resident after the load"
        )


def prepare(folder: Path, members: int) -> None:
    """A registered fleet, and the same estimators for the handler by hand."""
    import joblib
    import pyarrow as pa
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from shoal.lake import Lake
    from shoal.models import Fleet, collecting_models, model
    from shoal.tracking import RunContext, Tracker
    from shoal.training import train

    random = np.random.default_rng(0)
    rows = 40
    store = np.repeat(np.arange(members), rows)
    x = random.normal(size=(len(store), FEATURES))
    table = pa.table(
        {
            "store": pa.array([f"store-{i:05d}" for i in range(members)]).take(pa.array(store)),
            "day": np.tile(np.arange(rows), members),
            **{f"x{i}": x[:, i] for i in range(FEATURES)},
            "sales": x.sum(axis=1) + random.normal(size=len(store)),
        }
    )
    Lake(folder / "lake").table("gold.sales").append(table)
    with collecting_models() as found:
        declare = model(table="gold.sales", target="sales", by=["store"], time="day", name="sales")
        declare(lambda: make_pipeline(StandardScaler(), Ridge()))
    trained = train(found[0], Lake(folder / "lake"))
    fleet = Fleet.open(trained.artifact)
    names = [f"store-{i:05d}" for i in range(members)]
    joblib.dump({n: fleet.estimator(json.dumps([n])) for n in names}, folder / "models.joblib")
    tracker = Tracker(f"sqlite:///{folder}/mlflow.db", str(folder / "artifacts"), "bench")
    context = RunContext(
        project="bench", code_commit=None, code_dirty=False, environment_hash=None, user="bench"
    )
    tracker.record(trained, context, alias="champion")
    tracker.record(trained, context, alias="challenger")  # for the swaps
    (folder / "project").mkdir()
    (folder / "project/spark-pipeline.yml").write_text(
        f"name: bench\nstorage: {folder}/lake\nlibraries: []\n"
    )
    (folder / "project/shoal.toml").write_text(
        f'[profiles.default]\ntracking = "sqlite:///{folder}/mlflow.db"\n'
    )
    (folder / "by_hand.py").write_text(BY_HAND)
    (folder / "hello.py").write_text(HELLO)


@contextlib.contextmanager
def server(
    name: str, folder: Path, members: int, mlserver: str | None = None
) -> Iterator[tuple[int, float, subprocess.Popen[bytes]]]:
    """A running server: its port, the seconds until it answered, and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = Path(sys.executable).parent
    commands: dict[str, list[Any]] = {
        "hello": [sys.executable, folder / "hello.py", port],
        "by hand": [sys.executable, folder / "by_hand.py", folder / "models.joblib", port],
        "mlflow": [here / "mlflow", "models", "serve", "-m", "models:/sales@champion", "-p", port,
                   "--env-manager", "local"],
    }  # fmt: skip
    ours = [here / "shoal", "serve", "sales", "--project", folder / "project", "--port", port]
    command = commands.get(name, ours)
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "PATH": f"{here}{os.pathsep}{os.environ['PATH']}",  # MLflow's command looks for uvicorn
    }
    path = "/invocations"
    if name == "mlserver":
        assert mlserver is not None
        path = MLSERVER
        command = [Path(mlserver).parent / "mlserver", "start", write_mlserver(folder, port)]
        # Shoal itself is the fleet's loader; its environment has what it imports.
        environment["PYTHONPATH"] = str(Path(__file__).parent.parent / "src")
    begun = time.perf_counter()
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [str(part) for part in command], stdout=log, stderr=log, env=environment,
            start_new_session=True,
        )  # fmt: skip
    try:
        body = request_body(1, members)[0]
        while True:
            if process.poll() is not None:
                raise RuntimeError((folder / "server.log").read_text())
            with contextlib.suppress(OSError):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                connection.request("POST", path, body, {"content-type": "application/json"})
                answer = connection.getresponse()
                if answer.status == 200:
                    break
                if name != "mlserver" or answer.status != 404:  # which listens before it loads
                    raise RuntimeError(answer.read().decode())
            time.sleep(0.01)
        yield port, time.perf_counter() - begun, process
    finally:
        import signal

        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def write_mlserver(folder: Path, port: int) -> Path:
    """A folder that MLServer serves the same model from."""
    found = next(folder.glob("artifacts/models/*/artifacts/MLmodel")).parent
    made = folder / "mlserver"
    made.mkdir(exist_ok=True)
    settings = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    (made / "settings.json").write_text(json.dumps(settings | {"parallel_workers": 0}))
    model = {"name": "sales", "implementation": "mlserver_mlflow.MLflowRuntime"}
    (made / "model-settings.json").write_text(
        json.dumps(model | {"parameters": {"uri": str(found)}})
    )
    return made


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def swaps(folder: Path, port: int, options: argparse.Namespace) -> str:
    """Promotions while 8 connections ask: how many requests failed."""
    from shoal.tracking import Tracker

    tracker = Tracker(f"sqlite:///{folder}/mlflow.db", None, "bench")
    bodies = write_bodies(folder, 1, options.members)
    given = {
        "port": port,
        "requests": str(bodies),
        "connections": 8,
        "seconds": 0.6 * options.swaps,
    }
    command = [sys.executable, __file__, "--load", json.dumps(given)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    seen = set()
    for number in range(options.swaps):
        tracker.set_alias("sales", "champion", number % 2 + 1)
        end = time.monotonic() + 5
        while time.monotonic() < end:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("GET", "/models")
            if json.loads(connection.getresponse().read())[0]["version"] == number % 2 + 1:
                seen.add(number)
                break
            time.sleep(0.02)
    out, error = process.communicate()
    if process.returncode:
        return f"swaps: a request failed: {error[-300:]}"
    done = json.loads(out)["count"]
    return f"swaps: {len(seen)} of {options.swaps} taken up, {done:,} requests meanwhile, 0 failed"


def request_body(rows: int, members: int, count: int = 1, seed: int = 0) -> list[bytes]:
    """Bodies of requests for random members."""
    random = np.random.default_rng(seed)
    columns = ["store", *(f"x{i}" for i in range(FEATURES))]
    found = []
    for _ in range(count):
        stores = random.integers(0, members, rows)
        x = random.normal(size=(rows, FEATURES)).round(6)
        data = [[f"store-{s:05d}", *r] for s, r in zip(stores.tolist(), x.tolist(), strict=True)]
        found.append(json.dumps({"dataframe_split": {"columns": columns, "data": data}}).encode())
    return found


def write_bodies(folder: Path, rows: int, members: int, path: str = "/invocations") -> Path:
    """Requests as bytes, one a line of hexadecimal digits."""
    file = folder / "requests"
    head = (
        b"POST "
        + path.encode()
        + b" HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    )
    bodies = request_body(rows, members, count=200 if rows == 1 else 20)
    file.write_text("\n".join((head % len(body) + body).hex() for body in bodies))
    return file


def run_load(port: int, requests: Path, connections: int, seconds: float) -> dict[str, float]:
    """What the load generator, in its own process, measured."""
    given = {
        "port": port,
        "requests": str(requests),
        "connections": connections,
        "seconds": seconds,
    }
    out = subprocess.run(
        [sys.executable, __file__, "--load", json.dumps(given)], check=True, capture_output=True
    )
    found: dict[str, float] = json.loads(out.stdout)
    return found


async def load(port: int, requests: str, connections: int, seconds: float) -> dict[str, float]:
    """Requests a second, and percentiles of their milliseconds; the first fifth warms up."""
    bodies = [bytes.fromhex(line) for line in Path(requests).read_text().splitlines()]
    took: list[tuple[float, float]] = []
    loop = asyncio.get_running_loop()
    end = time.perf_counter() + 1.25 * seconds

    class Connection(asyncio.Protocol):
        def __init__(self, first: int) -> None:
            self.next, self.done, self.left, self.head = first, loop.create_future(), 0, b""

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport = transport
            self.send()

        def send(self) -> None:
            self.next = (self.next + 1) % len(bodies)
            self.begun = time.perf_counter()
            self.transport.write(bodies[self.next])

        def data_received(self, data: bytes) -> None:
            if self.left:
                self.left -= len(data)
            else:
                self.head += data
                split = self.head.find(b"\r\n\r\n")
                if split < 0:
                    return
                if not self.head.startswith(b"HTTP/1.1 200"):
                    self.done.set_exception(RuntimeError(self.head.decode()))
                    return
                at = self.head.lower().index(b"content-length:") + 15
                size = int(self.head[at : self.head.index(b"\r", at)])
                self.left = size - (len(self.head) - split - 4)
                self.head = b""
            if self.left == 0:
                now = time.perf_counter()
                took.append((now, now - self.begun))
                if now < end:
                    self.send()
                else:
                    self.transport.close()
                    self.done.set_result(None)

        def connection_lost(self, exc: Exception | None) -> None:
            if not self.done.done():
                self.done.set_exception(exc or ConnectionResetError("the server hung up"))

    made = [
        await loop.create_connection(lambda i=i: Connection(i * 7), "127.0.0.1", port)  # type: ignore[misc]
        for i in range(connections)
    ]
    await asyncio.gather(*(protocol.done for _, protocol in made))
    warm = end - seconds
    counted = np.array([ms for at, ms in took if warm < at <= end]) * 1000
    counted = counted if len(counted) else np.array([seconds * 1000])
    return {
        "rate": len(counted) / seconds,
        "count": len(took),
        "p50": float(np.percentile(counted, 50)),
        "p99": float(np.percentile(counted, 99)),
    }


def processor_seconds(pid: int) -> float:
    """Seconds of processor time that a process and its children have used."""
    group = subprocess.run(["pgrep", "-g", str(pid)], capture_output=True, text=True, check=False)
    ticks = 0
    for each in group.stdout.split() or [str(pid)]:
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            ticks += int(stat[11]) + int(stat[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> float:
    """Megabytes of a process and its children, shared pages counted by share."""
    children = subprocess.run(
        ["pgrep", "-g", str(pid)], capture_output=True, text=True, check=False
    )
    total = 0
    for each in children.stdout.split() or [str(pid)]:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1024


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    main()
