"""Rows that count more or less than others, from the declaration to the member."""

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from sklearn.compose import TransformedTargetRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from shoal.errors import ModelError, TrainingError
from shoal.lake import Lake
from shoal.models import Fleet, collecting_models, model
from shoal.training import retrain, train


def ridge():
    return make_pipeline(StandardScaler(), Ridge())


def logistic():
    return make_pipeline(StandardScaler(), LogisticRegression())


def logged():
    return TransformedTargetRegressor(Ridge(), func=np.arcsinh, inverse_func=np.sinh)


def declare(function=ridge, **changes):
    fields = {"table": "gold.t", "target": "y", "by": ["k"], "time": "n", "name": "m"}
    with collecting_models() as found:
        model(**(fields | {"weight": "w"} | changes))(function)
    return found[0]


@pytest.fixture(scope="module")
def lake(tmp_path_factory) -> Lake:
    random = np.random.default_rng(0)
    x, key = random.normal(size=(360, 2)), np.repeat(["a", "b", "c"], 120)
    lake = Lake(tmp_path_factory.mktemp("weights") / "lake")
    lake.table("gold.t").append(
        pa.table(
            {
                "k": key,
                "n": np.tile(np.arange(120), 3),
                "x0": x[:, 0],
                "x1": x[:, 1],
                "w": pa.array(random.integers(0, 5, 360), pa.int32()),
                "s": ["text"] * 360,
                "y": 3 * x[:, 0] + random.normal(size=360),
                "late": x[:, 1] + random.normal(size=360) > 0,
            }
        )
    )
    return lake


@pytest.mark.parametrize(
    ("function", "changes"),
    [
        (ridge, {}),
        (ridge, {"batched": False}),
        (logged, {}),
        (logistic, {"target": "late", "metric": "log_loss"}),
    ],
)
def test_a_member_is_what_scikit_learn_fits_with_the_weights(lake, function, changes) -> None:
    changes = {"features": ["x0", "x1"]} | changes
    trained = train(declare(function, **changes), lake, workers=1)
    fleet = Fleet.open(trained.artifact)
    target = changes.get("target", "y")
    for key in "abc":
        rows = lake.table("gold.t").scan().filter(pl.col("k") == key).sort("n").collect()
        x, y, w = (rows[c].to_numpy() for c in (["x0", "x1"], target, "w"))
        estimator = function()
        name = estimator.steps[-1][0] + "__" if hasattr(estimator, "steps") else ""
        estimator.fit(x, y, **{f"{name}sample_weight": w.astype(float)})
        found = fleet.estimator(f'["{key}"]')
        said, expected = found.predict(x), estimator.predict(x)
        np.testing.assert_allclose(said.astype(float), expected.astype(float), rtol=1e-8)
    assert trained.params["weight"] == "w"


def test_a_weight_is_no_feature_and_another_weight_is_another_model(lake, tmp_path) -> None:
    rows = lake.table("gold.t").scan().collect()
    mine = Lake(tmp_path / "lake")
    mine.table("gold.t").append(rows.to_arrow())
    first = train(declare(), mine, workers=1)
    assert [f.name for f in Fleet.open(first.artifact).header.features] == ["x0", "x1", "late"]
    changed = rows.with_columns(w=pl.when(pl.col("k") == "b").then(9).otherwise("w").cast(pl.Int32))
    mine.table("gold.t").append(changed.to_arrow(), overwrite=True)
    again = retrain(declare(), mine, since=first.members_version, workers=1)
    assert again is not None
    assert "1 of 3 segments fitted, 2 carried over" in again.reason
    without = retrain(declare(weight=None, features=["x0"]), mine, since=again.members_version)
    assert without is not None
    assert "definition changed" in without.reason


@pytest.mark.parametrize(
    ("function", "changes", "said"),
    [
        (lambda: make_pipeline(StandardScaler(), KNeighborsRegressor()), {}, "KNeighborsRegressor"),
        (ridge, {"weight": "s"}, "weight column 's' is"),
        (ridge, {"weight": "ww"}, "weight column 'ww' is not in gold.t"),
    ],
)
def test_what_cannot_weigh_is_refused_before_any_fit(lake, function, changes, said) -> None:
    with pytest.raises(TrainingError, match=said):
        train(declare(function, **changes), lake, workers=1)


@pytest.mark.parametrize("column", ["y", "k", "n"])
def test_a_weight_is_no_other_role(column) -> None:
    with pytest.raises(ModelError, match=f"column '{column}' is both"):
        declare(weight=column)
