"""A search whose trials an engine's workers measure finds what one in processes here finds."""

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from optuna.distributions import FloatDistribution
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge

import shoal
from shoal.errors import TrainingError
from shoal.lake import Lake
from shoal.models import collecting_models
from shoal.training.search import search

OTHERS = [pytest.param(name, marks=pytest.mark.heavy) for name in ("sail-cluster", "spark")]
pytestmark = pytest.mark.timeout(900)
over_all = pytest.mark.parametrize(
    "any_engine", ["embedded", *OTHERS], indirect=True, scope="session"
)


def rows() -> pa.Table:
    random = np.random.default_rng(0)
    x = random.normal(size=(480, 4))
    y = x[:, 0] * np.repeat(np.arange(8), 60) + random.normal(size=480)
    columns = {f"x{i}": x[:, i] for i in range(4)}
    return pa.table({"shop": np.repeat(np.arange(8), 60), "t": np.arange(480), **columns, "y": y})


def lake_in(folder) -> Lake:
    lake = Lake(folder)
    lake.table("gold.sales").append(rows())
    return lake


def ridge(alpha=1.0):
    return Ridge(alpha=alpha)


def trees(rate=0.1):
    return HistGradientBoostingRegressor(max_iter=5, learning_rate=rate)


def declared(build, space, *, by=("shop",), **options):
    with collecting_models() as found:
        shoal.model(
            table="gold.sales", target="y", by=list(by), time="t", name="m",
            search=shoal.Search(space=space, trials=6, **options),
        )(build)  # fmt: skip
    return found[0]


def trials(lake: Lake) -> list[tuple]:
    found = lake.table("shoal.trials_m").scan().collect()
    return found.select("scope", "number", "params", "state", "value").sort(pl.all()).rows()


ALPHA = {"alpha": FloatDistribution(1e-3, 1e3, log=True)}
RATE = {"rate": FloatDistribution(0.01, 0.5)}


@over_all
@pytest.mark.parametrize(
    ("build", "space", "by", "options"),
    [
        pytest.param(ridge, ALPHA, ("shop",), {"per": "fleet"}, id="fleet"),
        pytest.param(trees, RATE, ("shop",), {"per": "segment"}, id="segment"),
        pytest.param(trees, RATE, (), {"parallel": 3}, id="single"),
    ],
)
def test_the_same_trials(tmp_path, any_engine, build, space, by, options) -> None:
    declaration = declared(build, space, by=by, **options)
    here, there = lake_in(tmp_path / "here"), lake_in(tmp_path / "there")
    search(declaration, here, workers=2)
    found = search(declaration, there, workers=2, spark=any_engine.spark)
    assert trials(there) == trials(here)
    assert found.new == len(trials(here))
    again = search(declaration, there, workers=2, spark=any_engine.spark)
    assert again.new == 0  # it was made before


@over_all
def test_what_fails_on_the_engine_is_told(tmp_path, any_engine) -> None:
    def broken(rate=0.1):
        raise ValueError("no such trees")

    with pytest.raises((TrainingError, shoal.errors.ModelError), match="no such trees"):
        search(declared(broken, RATE), lake_in(tmp_path), spark=any_engine.spark)
