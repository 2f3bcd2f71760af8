"""A fleet of forecasters from the table to stock MLflow and REST: times go in, as each writes them."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from fleets import CONTEXT
from servers import running_server, send
from shoal.forecast import HoltWinters
from shoal.lake import Lake
from shoal.models import Fleet, TrainedFleet, collecting_models, model
from shoal.tracking import Tracker
from shoal.training import train

START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
LATER = [START + dt.timedelta(days=14, hours=h) for h in range(24)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedFleet:
    random = np.random.default_rng(0)
    hours = np.arange(24 * 14)
    frames = [
        pl.DataFrame(
            {
                "meter": f"m{i}",
                "at": [START + dt.timedelta(hours=int(h)) for h in hours],
                "day": [(START + dt.timedelta(hours=int(h))).date() for h in hours],
                "kwh": 10 + i + 3 * np.sin(hours * np.pi / 12) + random.normal(size=len(hours)),
            }
        )
        for i in range(3)
    ]
    lake = Lake(tmp_path_factory.mktemp("lake"))
    lake.table("silver.readings").append(pl.concat(frames).to_arrow())
    with collecting_models() as found:
        model(
            table="silver.readings",
            target="kwh",
            by=["meter"],
            time="at",
            name="load",
            metric="mase",
            interval=0.9,
        )(lambda: HoltWinters(24))
    return train(found[0], lake, workers=1)


def test_stock_mlflow_and_rest_forecast_as_the_batch_does(
    trained: TrainedFleet, tmp_path: Path
) -> None:
    import mlflow
    import pandas as pd

    tracker = Tracker(f"sqlite:///{tmp_path}/mlflow.db", None, "energy")
    version = tracker.record(trained, CONTEXT)
    rows = pa.table({"meter": ["m1"] * 24, "at": pa.array(LATER, pa.timestamp("us", "UTC"))})
    expected = Fleet.open(trained.artifact).predict(rows).column("prediction").to_pylist()
    assert len(set(expected)) == 24

    mlflow.set_tracking_uri(tracker.uri)
    stock = mlflow.pyfunc.load_model(f"models:/load/{version.version}")
    inputs = stock.metadata.get_input_schema()
    assert [(c.name, c.type.name) for c in inputs.inputs] == [
        ("meter", "string"),
        ("at", "datetime"),
    ]
    frame = pd.DataFrame({"meter": ["m1"] * 24, "at": [t.replace(tzinfo=None) for t in LATER]})
    assert stock.predict(frame).tolist() == expected

    tracker.set_alias("load", "champion", version.version)
    with running_server(tracker, tmp_path / "server.txt") as server:
        for zone in (dt.UTC, None):
            at = [moment.replace(tzinfo=zone).isoformat() for moment in LATER]
            body = json.dumps({"dataframe_records": [{"meter": "m1", "at": text} for text in at]})
            answer = send(server.url, "POST", "/models/load/invocations", body.encode())
            assert answer.json()["predictions"] == expected
