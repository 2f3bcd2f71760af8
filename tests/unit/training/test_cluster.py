"""The kernel on an engine: the members that processes here would have made, bit for bit."""

import datetime as dt
from decimal import Decimal

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from projects import SmallProject
from shoal.errors import TrainingError
from shoal.lake import Lake
from shoal.models import collecting_models, model
from shoal.training import train

KEYS = [("é", 1), ("a", None), (None, 2), ("a,b", 3), ("few", 1), ("few", 2), ("null", 4)]


def ridge():
    return make_pipeline(StandardScaler(), Ridge())


def trees():
    return HistGradientBoostingRegressor(max_iter=5)


def declare(function, **changes):
    fields = {
        "table": "gold.sales",
        "target": "y",
        "by": ["shop", "line"],
        "time": "t",
        "name": "m",
    }
    with collecting_models() as found:
        model(**(fields | {"features": ["x", "price", "open"]} | changes))(function)
    return found[0]


def sales(seed: int = 0) -> pa.Table:
    """Shuffled rows of segments with odd keys, some of them small; several rows a moment."""
    random = np.random.default_rng(seed)
    sizes = [8 if key[0] == "few" else 150 for key in KEYS]
    segment = np.repeat(np.arange(len(KEYS)), sizes)
    random.shuffle(segment)
    rows = len(segment)
    x = random.normal(size=rows)
    x[::97] = np.nan
    y = (segment + 1) * x + random.normal(size=rows)
    begun = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    moments = [begun + dt.timedelta(minutes=int(m)) for m in random.integers(0, 90, rows)]
    return pa.table(
        {
            "shop": pa.array([KEYS[i][0] for i in segment], pa.string()),
            "line": pa.array([KEYS[i][1] for i in segment], pa.int32()),
            "t": pa.array(moments, pa.timestamp("us", tz="UTC")),
            "day": pa.array([m.date() for m in moments], pa.date32()),
            "x": pa.array(x, from_pandas=True),
            "price": pa.array([Decimal(int(p)) / 4 for p in random.integers(1, 90, rows)]),
            "open": pa.array(random.random(rows) < 0.5),
            "y": pa.array(np.where(np.isnan(y), 1.0, y)),
            "high": pa.array(np.nan_to_num(y) > 0),
        }
    )


WHAT = ("segment", "status", "uses", "model_used", "reason", "state", "rows", "rows_train",
        "rows_holdout", "rows_hash", "interval", "mae")  # fmt: skip


@pytest.mark.parametrize(
    ("function", "changes"),
    [
        (ridge, {"interval": 0.8, "backtest": 2, "weight": "price"}),
        (ridge, {"batched": False, "time": "day"}),
        (trees, {"time": None, "key": ["t"]}),
        (LogisticRegression, {"target": "high", "metric": "accuracy"}),
    ],
)
def test_members_are_those_of_processes_here(tmp_path, engine, function, changes) -> None:
    found = []
    for i, spark in enumerate((None, engine.spark)):
        lake = Lake(tmp_path / str(i))
        lake.table("gold.sales").append(sales())
        trained = train(declare(function, **changes), lake, spark=spark)
        assert trained.metrics["segments_fallback"] == 2
        members = lake.table(trained.members_table).scan().sort("segment").collect()
        names = [changes.get("metric", name) if name == "mae" else name for name in WHAT]
        if function is trees:  # an archive, which holds addresses
            names.remove("state")
        found.append(members.select(names).rows())
        assert not any((lake.root / "_training").glob("*"))
    assert found[0] == found[1]


def test_a_sample_is_the_same_too(tmp_path, engine, monkeypatch) -> None:
    import shoal.training.cluster
    import shoal.training.groups

    for module in (shoal.training.cluster, shoal.training.groups):
        monkeypatch.setattr(module, "SAMPLE", 100)
    found = []
    for i, spark in enumerate((None, engine.spark)):
        lake = Lake(tmp_path / str(i))
        lake.table("gold.sales").append(sales())
        train(declare(ridge), lake, spark=spark, workers=1)
        members = lake.table("shoal.fleet_m").scan().filter(pl.col("level") == 2).collect()
        found.append(members["state"].to_list())
        assert "sample of 100" in members["reason"][0]
    assert found[0] == found[1]


def test_what_an_engine_cannot_do_is_said_before_it_begins(tmp_path, engine) -> None:
    lake = Lake(tmp_path)
    lake.table("gold.sales").append(sales())
    with pytest.raises(TrainingError, match="timeout= ends the process"):
        train(declare(ridge, timeout=5), lake, spark=engine.spark)
    with pytest.raises(TrainingError, match="must be a date"):
        train(declare(ridge, time="shop", by=["line"]), lake, spark=engine.spark)
    assert not lake.table("shoal.fleet_m").exists()


def test_a_broken_parameter_stops_the_training(tmp_path, engine) -> None:
    lake = Lake(tmp_path)
    lake.table("gold.sales").append(sales())
    with pytest.raises(TrainingError, match="alpha"):
        train(declare(lambda: Ridge(alpha=-1.0), batched=False), lake, spark=engine.spark)


def test_the_profile_says_where_models_are_fitted(tmp_path) -> None:
    project = SmallProject(tmp_path / "p")
    (project.root / "shoal.toml").write_text('[profiles.default]\ntraining = "engine"\n')
    (project.root / "models").mkdir()
    (project.root / "models" / "m.py").write_text(
        "import shoal\nfrom sklearn.linear_model import Ridge\n\n"
        '@shoal.model(table="gold.sales", target="y", by=["shop"], time="t", features=["price"])\n'
        "def m():\n    return Ridge()\n"
    )
    project.lake.table("gold.sales").append(sales())
    with project.open() as space:
        (report,) = space.train()
        assert report.status == "trained", report.error
        (again,) = space.train()
        assert again.status == "current"
        (scored,) = space.score()
        assert scored.status == "scored", scored.error
