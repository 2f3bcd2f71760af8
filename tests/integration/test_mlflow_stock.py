"""Stock MLflow, in processes of its own, against what Shoal records and serves."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pytest

from fleets import CONTEXT, ROW, flights, trained_fleet
from servers import Answer, running_server, send
from shoal.errors import TrackingError, Unavailable
from shoal.models import Fleet
from shoal.tracking import Tracker

OTHER = ROW | {"carrier": "AA", "dest": "DFW", "distance": 90, "hour": 5.0, "holiday": False}
COLUMNS = list(ROW)


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    folder = tmp_path_factory.mktemp("stock")
    tracker = Tracker(f"sqlite:///{folder}/mlflow.db", None, "flights")
    tracker.record(trained_fleet(folder), CONTEXT)
    return tracker


@pytest.fixture(scope="module")
def ours(tracker: Tracker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of our server on the same registry."""
    with running_server(tracker, tmp_path_factory.mktemp("log") / "ours.txt") as server:
        yield server.url


def environment(tracker: Tracker) -> dict[str, str]:
    folder = Path(sys.executable).parent
    return os.environ | {
        "MLFLOW_TRACKING_URI": tracker.uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",  # MLflow starts `uvicorn` by name
    }


def same(left: list[Any], right: list[Any]) -> bool:
    """Equal bit for bit, with missing predictions as null or NaN."""
    if any(isinstance(value, dict) for value in left):
        return left == right
    numbers = [np.array([np.nan if v is None else v for v in values]) for values in (left, right)]
    return np.array_equal(*numbers, equal_nan=True)


def test_stock_mlflow_loads_and_predicts_the_same_in_a_fresh_process(
    tracker: Tracker, tmp_path: Path
) -> None:
    rows = flights(seed=3)
    pa.feather.write_feather(rows, tmp_path / "rows.arrow")
    script = """
import sys, mlflow, pandas
rows = pandas.read_feather(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/delay@champion")
found = model.predict(rows, params={"interval": True})
found.assign(p=model.predict(rows)).to_feather(sys.argv[2])
"""
    # A file, because pyspark-client takes `python -c` for its own doctests and exits.
    (tmp_path / "script.py").write_text(script)
    subprocess.run(
        [sys.executable, "script.py", "rows.arrow", "p.arrow"],
        env=environment(tracker),
        cwd=tmp_path,
        check=True,
        timeout=120,
    )
    told = pa.feather.read_table(tmp_path / "p.arrow")
    stock = told.column("p").to_pylist()
    ours = tracker.fleet("delay").predict(rows, interval=True)
    fleet = ours.column("prediction").to_pylist()
    for name in ours.column_names:
        assert same(told.column(name).to_pylist(), ours.column(name).to_pylist())
    assert same(stock, fleet)
    assert any(value is None for value in fleet)  # AA's members take no gaps
    assert sum(value is not None for value in fleet) > 60


def bodies() -> Iterator[tuple[str, str, bytes]]:
    """Name, content type and body of the requests that both servers get."""
    split = {"columns": COLUMNS, "data": [list(ROW.values()), list(OTHER.values())]}
    columns = {name: [ROW[name], OTHER[name]] for name in COLUMNS}

    def without(row: dict[str, Any], name: str) -> dict[str, Any]:
        return {key: value for key, value in row.items() if key != name}

    cases: dict[str, Any] = {
        "split": {"dataframe_split": split},
        "split with intervals": {"dataframe_split": split, "params": {"interval": True}},
        "split with unknown parameters": {"dataframe_split": split, "params": {"colour": 1}},
        "split with a parameter of the wrong type": {
            "dataframe_split": split,
            "params": {"interval": "yes"},
        },
        "split with parameters of the wrong shape": {"dataframe_split": split, "params": [1]},
        "split with index": {"dataframe_split": split | {"index": [7, 8]}},
        "split with wrong index": {"dataframe_split": split | {"index": [7]}},
        "split reordered": {
            "dataframe_split": {
                "columns": COLUMNS[::-1],
                "data": [list(ROW.values())[::-1]],
            }
        },
        "split with another column": {
            "dataframe_split": {"columns": [*COLUMNS, "x"], "data": [[*ROW.values(), "y"]]}
        },
        "split without rows": {"dataframe_split": {"columns": COLUMNS, "data": []}},
        "split without columns": {"dataframe_split": {"data": [list(ROW.values())]}},
        "split without data": {"dataframe_split": {"columns": COLUMNS}},
        "split with extra key": {"dataframe_split": split | {"x": 1}},
        "split with long row": {
            "dataframe_split": {"columns": COLUMNS, "data": [[*ROW.values(), 1]]}
        },
        "split as list": {"dataframe_split": [1]},
        "records": {"dataframe_records": [ROW, OTHER]},
        "records as object": {"dataframe_records": ROW},
        "records empty": {"dataframe_records": []},
        "records of numbers": {"dataframe_records": [1, 2]},
        "record lacks a nullable feature": {"dataframe_records": [ROW, without(OTHER, "hour")]},
        "record lacks a key": {"dataframe_records": [ROW, without(OTHER, "dest")]},
        "records lack a column": {"dataframe_records": [without(ROW, "hour")]},
        "records with params": {"dataframe_records": [ROW], "params": {"a": 1}},
        "records with wrong params": {"dataframe_records": [ROW], "params": 3},
        "records with unknown key": {"dataframe_records": [ROW], "else": 3},
        "instances": {"instances": [ROW, OTHER]},
        "instances as columns": {"instances": columns},
        "instances ragged": {"instances": [ROW, without(OTHER, "hour")]},
        "instances of lists": {"instances": [list(ROW.values())]},
        "instances of numbers": {"instances": [1.0, 2.0]},
        "instances empty": {"instances": []},
        "instances scalar": {"instances": 3},
        "inputs": {"inputs": columns},
        "inputs as scalars": {"inputs": ROW},
        "inputs as records": {"inputs": [ROW, OTHER]},
        "inputs of different lengths": {"inputs": columns | {"hour": [1.0]}},
        "inputs nested": {"inputs": columns | {"hour": [[1.0], [2.0]]}},
        "inputs lack a column": {"inputs": without(columns, "carrier")},
        "inputs empty": {"inputs": {}},
        "inputs null": {"inputs": None},
        "inputs as text": {"inputs": "x"},
        "both": {"inputs": columns, "instances": [ROW]},
        "none": {},
        "old format": split,
        "list": [ROW],
        "number": 3,
        "null": None,
        "text for a number": {"dataframe_records": [ROW | {"dep_delay": "late"}]},
        "number as text": {"dataframe_records": [ROW | {"dep_delay": "1.5"}]},
        "whole number as text": {"dataframe_records": [ROW | {"distance": "900"}]},
        "boolean for a number": {"dataframe_records": [ROW | {"dep_delay": True}]},
        "list for a number": {"dataframe_records": [ROW | {"dep_delay": [1]}]},
        "object for a number": {"dataframe_records": [ROW | {"dep_delay": {"a": 1}}]},
        "null for a nullable": {"dataframe_records": [ROW | {"dep_delay": None}]},
        "null for a model that takes none": {"dataframe_records": [OTHER | {"dep_delay": None}]},
        "null for a whole number": {"dataframe_records": [ROW | {"distance": None}]},
        "text for a whole number": {"dataframe_records": [ROW | {"distance": "far"}]},
        "huge whole number": {"dataframe_records": [ROW | {"distance": 2**63 - 1}]},
        "unknown segment": {"dataframe_records": [ROW | {"dest": "XXX"}]},
        "unknown carrier": {"dataframe_records": [ROW | {"carrier": "ZZ"}]},
        "null key": {"dataframe_records": [ROW | {"dest": None}]},
        "boolean as 1": {"dataframe_records": [ROW | {"holiday": 1}]},
        "boolean as 0.0": {"dataframe_records": [ROW | {"holiday": 0.0}]},
        "boolean for a whole number": {"dataframe_records": [ROW | {"distance": True}]},
        "not even 64 bits": {"dataframe_records": [ROW | {"distance": 2**70}]},
        "beyond a double": {"dataframe_records": [ROW | {"dep_delay": 10**400}]},
        "boolean as key": {"dataframe_records": [ROW | {"dest": True}]},
        "list as key": {"dataframe_records": [ROW | {"dest": [1]}]},
        "number as key": {"dataframe_records": [ROW | {"dest": 7}]},
        "unicode key": {"dataframe_records": [ROW | {"dest": "Zürich ✈"}]},
    }
    for name, body in cases.items():
        yield name, "application/json", json.dumps(body).encode()
    json_body = json.dumps(cases["records"]).encode()
    yield "charset", "application/json; charset=utf-8", json_body
    yield "wrong charset", "application/json; charset=latin-1", json_body
    yield "unknown parameter", "application/json; x=y", json_body
    yield "wrong type", "text/plain", json_body
    yield "no JSON", "application/json", b"{"
    yield "empty", "application/json", b""
    yield "not UTF-8", "application/json", b'{"inputs": "\xff"}'
    csv = "carrier,dest,distance,hour,dep_delay,holiday\nUA,IAH,1400,9,2.5,True\nUA,ORD,7,,,False\n"
    yield "csv", "text/csv", csv.encode()
    yield "csv lacks a column", "text/csv", csv.replace("hour", "time").encode()
    yield "csv with text", "text/csv", csv.replace("2.5", "late").encode()
    yield "csv empty", "text/csv", b""
    yield "csv not UTF-8", "text/csv", b"\xff"


@pytest.fixture(scope="module")
def stock(tracker: Tracker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of ``mlflow models serve`` on the champion."""
    command = ["models", "serve", "--env-manager", "local"]
    command += ["--model-uri", "models:/delay@champion"]
    with running_mlflow(command, environment(tracker), tmp_path_factory.mktemp("log")) as url:
        yield url


@contextlib.contextmanager
def running_mlflow(
    command: list[str], variables: dict[str, str], folder: Path, ready: str = "/ping"
) -> Iterator[str]:
    """Run an ``mlflow`` command that serves; gives its URL once it answers."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    log = folder / "mlflow.txt"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command, "--port", str(port), "--workers", "1"],
            env=variables,
            cwd=folder,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while not answers(url, ready):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield url
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 15)
        process.wait(30)


def answers(url: str, path: str) -> bool:
    try:
        return send(url, "GET", path).status == 200
    except OSError:
        return False


def post(url: str, kind: str, body: bytes) -> Answer:
    return send(url, "POST", "/invocations", body, {"Content-Type": kind})


@pytest.mark.slow
def test_our_server_answers_as_mlflow_models_serve_does(stock: str, ours: str) -> None:
    different = []
    for name, kind, body in bodies():
        theirs, answer = post(stock, kind, body), post(ours, kind, body)
        if theirs.status != answer.status:
            different.append((name, theirs, answer))
        elif theirs.status == 200:
            predictions = json.loads(theirs.body)["predictions"]  # may hold NaN
            if not same(predictions, answer.json()["predictions"]):
                different.append((name, theirs, answer))
        else:
            assert set(answer.json()) == {"error_code", "message"}
    assert different == []


@pytest.mark.slow
def test_where_our_server_is_stricter_than_mlflow(stock: str, ours: str) -> None:
    """Requests that MLflow answers with numbers that were not asked for."""
    ragged = [list(ROW.values()), list(ROW.values())[:-1]]
    short = {"dataframe_split": {"columns": COLUMNS, "data": ragged}}
    records = json.dumps({"dataframe_records": [ROW]})
    for body in (
        json.dumps(short),  # MLflow takes what is missing for null
        records.replace("1400", "1400.75"),  # MLflow cuts it to 1400
        records.replace("2.5", "NaN"),  # not JSON
        records.replace("true", '"no"'),  # MLflow takes any text for true
        records.replace("true", "[false]"),  # and any list that is not empty
    ):
        assert post(stock, "application/json", body.encode()).status == 200, body
        answer = post(ours, "application/json", body.encode())
        assert answer.status == 400
        assert answer.json()["error_code"] == "BAD_REQUEST"


@pytest.mark.slow
def test_a_missing_boolean_is_missing_as_in_a_batch(
    stock: str, ours: str, tracker: Tracker
) -> None:
    """MLflow's server takes null for false; `mlflow.pyfunc` and a batch do not."""
    row = ROW | {"holiday": None}
    body = json.dumps({"dataframe_records": [row]}).encode()
    assert post(stock, "application/json", body).status == 200
    rows = pa.table({name: [row[name]] for name in COLUMNS})
    expected = tracker.fleet("delay").predict(rows).column("prediction").to_pylist()
    assert post(ours, "application/json", body).json() == {"predictions": expected}


@pytest.mark.slow
def test_health_and_version_are_those_of_mlflow(stock: str, ours: str) -> None:
    for path in ("/ping", "/health", "/version"):
        theirs, answer = send(stock, "GET", path), send(ours, "GET", path)
        assert (answer.status, answer.body.strip()) == (theirs.status, theirs.body.strip())


@pytest.mark.slow
def test_a_real_mlflow_server_keeps_runs_models_and_artifacts(tmp_path: Path) -> None:
    """Over HTTP: the server looks the logged model up itself and proxies its artifacts."""
    command = ["server", "--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
    command += ["--serve-artifacts", "--artifacts-destination", str(tmp_path / "kept")]
    variables = os.environ | {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    variables.pop("MLFLOW_TRACKING_URI", None)
    with running_mlflow(command, variables, tmp_path, "/health") as url:
        trained = trained_fleet(tmp_path)
        tracker = Tracker(url, None, "flights")
        version = tracker.record(trained, CONTEXT)
        assert version.source.startswith("models:/m-")
        assert tracker.resolve("delay") == version
        run = tracker.run(version.run_id)
        assert run.status == "FINISHED"
        assert [(d.name, d.version) for d in run.datasets] == [("gold.flights", 0)]
        rows = flights(seed=8)
        local = Fleet.open(trained.artifact).predict(rows)
        assert tracker.fleet("delay").predict(rows).equals(local)  # downloaded
        with pytest.raises(TrackingError, match="set the alias 'v1'"):
            tracker.set_alias("delay", "v1", 1)
    with pytest.raises(Unavailable, match="does not answer"):
        Tracker(url, None, "flights").models()
