"""Segments with parameters of their own, fitted on an engine: the same members as here."""

import json

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from sklearn.linear_model import Ridge

import shoal
from shoal.lake import Lake
from shoal.models import collecting_models, model
from shoal.training import train
from shoal.training.search import search

KEYS = [("é", 1), ("a", None), (None, 2), ("a,b", 3), ("few", 1)]


def sales() -> pa.Table:
    random = np.random.default_rng(0)
    sizes = [8 if key[0] == "few" else 120 for key in KEYS]
    segment = random.permutation(np.repeat(np.arange(len(KEYS)), sizes))
    x = random.normal(size=(len(segment), 3))
    noise = np.where(segment % 2, 5.0, 0.1) * random.normal(size=len(segment))
    return pa.table(
        {
            "shop": pa.array([KEYS[i][0] for i in segment], pa.string()),
            "line": pa.array([KEYS[i][1] for i in segment], pa.int32()),
            "day": np.arange(len(segment)),
            **{f"x{i}": x[:, i] for i in range(3)},
            "y": x @ [1.0, -1.0, 0.5] + noise,
        }
    )


@pytest.mark.parametrize("per", ["segment", "shop"])
def test_an_engine_fits_each_segment_with_its_parameters(tmp_path, engine, per) -> None:
    lake = Lake(tmp_path / "lake")
    lake.table("gold.sales").append(sales())
    with collecting_models() as found:
        model(
            table="gold.sales",
            target="y",
            by=["shop", "line"],
            time="day",
            name="sales",
            search=shoal.Search(space={"alpha": [0.01, 1.0, 100.0]}, trials=9, per=per),
        )(lambda alpha: Ridge(alpha=alpha))
    tuned = search(found[0], lake, workers=1).applied(found[0])
    assert len(tuned.tuned) == 4
    assert len({json.dumps(params) for params in tuned.tuned.values()}) > 1
    made = []
    for spark in (None, engine.spark):
        version = train(tuned, lake, workers=1, spark=spark).fleet_version
        rows = lake.table("shoal.fleet_sales").scan().filter(pl.col("fleet_version") == version)
        names = ["segment", "status", "uses", "params", "mae", "state"]
        made.append(rows.select(names).sort("segment").collect())
    assert made[0].equals(made[1])
