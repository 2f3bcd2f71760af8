import datetime as dt

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from shoal.errors import TrainingError
from shoal.forecast import Fourier, HoltWinters, Lags, SeasonalNaive
from shoal.lake import Lake
from shoal.models import Fleet, collecting_models, decode, model
from shoal.models.metrics import metric_values
from shoal.training import FitJob, fit_segments, train
from shoal.training.batched import is_batched, least_together

HOUR = 3600
START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
ESTIMATORS = {
    "naive": lambda: SeasonalNaive(6),
    "additive": lambda: HoltWinters(6),
    "damped": lambda: HoltWinters(6, seasonal="mul", damped=True),
    "level": lambda: HoltWinters(6, trend=None, step=HOUR),
    "lags": lambda: Lags([1, 6], means=[3], waves=Fourier(period="6h", order=1)),
}


def job(build, **changes) -> FitJob:
    fields = {
        "build": build,
        "features": 1,
        "classes": 0,
        "timed": True,
        "nan_ok": False,
        "metrics": ("mae", "rmse", "mase"),
        "metric": "mae",
        "baseline": "mean",
        "holdout": 0.25,
        "min_rows": 12,
        "interval": 0.9,
    }
    return FitJob(**(fields | changes))


def rows_of(sizes, seed, kinds=()):
    random = np.random.default_rng(seed)
    times, values = [], []
    for i, size in enumerate(sizes):
        at = np.arange(size)
        kind = kinds[i % len(kinds)] if kinds else ""
        if kind == "gaps":
            at = np.sort(random.choice(size + 10, size, replace=False))
        elif kind == "irregular":
            at = np.cumsum(random.random(size))
        elif kind == "twice":
            at = at // 2
        value = 10 + np.sin(at * np.pi / 3 + i) + random.normal(size=size) * 0.3
        if kind == "constant":
            value = np.full(size, 4.2)
        elif kind == "negative":
            value -= 20
        elif kind == "holes":
            value[::7] = np.nan
        times.append(1.7e9 + HOUR * at)
        values.append(value)
    moments, target = np.concatenate(times), np.concatenate(values)
    table = pa.table({"0": moments, "target": target, "time": (moments * 1e6).astype(np.int64)})
    return table, np.cumsum([0, *sizes])


KINDS = ("", "gaps", "irregular", "twice", "constant", "negative", "holes")


@pytest.mark.parametrize("name", ESTIMATORS)
@settings(max_examples=12, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 70), min_size=1, max_size=8),
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=8),
    seed=st.integers(0, 1000),
    baseline=st.sampled_from(["mean", "last"]),
    windows=st.integers(1, 3),
)
def test_members_are_those_of_single_fits(name, sizes, kinds, seed, baseline, windows) -> None:
    table, offsets = rows_of(sizes, seed, kinds)
    jobs = [
        job(ESTIMATORS[name], baseline=baseline, backtest=windows, batched=batched)
        for batched in (True, False)
    ]
    ours, theirs = (fit_segments(table, offsets, each) for each in jobs)
    assert ours.schema == theirs.schema
    for column in ("status", "reason", "error", "template", "state", "rows_train", "rows_holdout",
                   "rows_dropped", "rows_hash", "interval"):  # fmt: skip
        assert ours.column(column).to_pylist() == theirs.column(column).to_pylist(), column
    for metric in ("mae", "rmse", "mase", "baseline"):
        kind = "mae" if metric == "baseline" else metric
        for pair in zip(
            *(b.column(f"sums_{metric}").to_pylist() for b in (ours, theirs)), strict=True
        ):
            if pair[0] is None:
                assert pair[1] is None
                continue
            np.testing.assert_allclose(
                *(metric_values(kind, np.array([p])) for p in pair), rtol=1e-8
            )


def test_most_segments_are_fitted_at_once() -> None:
    table, offsets = rows_of([50] * 40, 0)
    for build in ESTIMATORS.values():
        assert is_batched(job(build))
        assert least_together(job(build)) == 512
        batch = fit_segments(table, offsets, job(build))
        # An equal share each: that is how those fitted at once are told.
        assert len(set(batch.column("fit_seconds").to_pylist())) == 1
    assert least_together(job(Ridge)) == 0


def test_waves_are_batched_with_the_regression_after_them() -> None:
    table, offsets = rows_of([60, 45, 80], 0)
    build = lambda: make_pipeline(Fourier(period="6h"), StandardScaler(), Ridge())  # noqa: E731
    ours, theirs = (fit_segments(table, offsets, job(build, batched=b)) for b in (True, False))
    assert is_batched(job(build))
    assert ours.column("template").to_pylist() == theirs.column("template").to_pylist()
    asked = table.column("0").to_numpy()[:60, None] + 1e6
    for mine, other in zip(ours.to_pylist(), theirs.to_pylist(), strict=True):
        guess, expected = (decode(r["template"], r["state"]).predict(asked) for r in (mine, other))
        np.testing.assert_allclose(guess, expected, rtol=1e-8)


def declare(function, **changes):
    fields = {
        "table": "silver.readings",
        "target": "kwh",
        "by": ["meter"],
        "time": "at",
        "name": "load",
    }
    with collecting_models() as found:
        model(**(fields | changes))(function)
    return found[0]


@pytest.fixture
def lake(tmp_path) -> Lake:
    random = np.random.default_rng(0)
    frames = []
    for i in range(6):
        hours = np.flatnonzero(random.random(24 * 14) > 0.02)
        kwh = 10 + i + 3 * np.sin(hours * 2 * np.pi / 24) + random.normal(size=len(hours)) * 0.1
        at = [START + dt.timedelta(hours=int(h)) for h in hours]
        frames.append(pl.DataFrame({"meter": f"m{i}", "at": at, "kwh": kwh, "note": "x"}))
    rows = pl.concat(frames).sample(fraction=1, shuffle=True, seed=0)
    lake = Lake(tmp_path / "lake")
    lake.table("silver.readings").append(rows.to_arrow())
    return lake


def test_a_forecaster_learns_from_the_time_column(lake) -> None:
    trained = train(declare(lambda: HoltWinters(24)), lake, workers=1)
    assert trained.metrics["segments_ok"] == 6
    assert trained.metrics["mae"] < 0.2
    fleet = Fleet.open(trained.artifact)
    assert [f.name for f in fleet.header.features] == ["at"]
    later = [START + dt.timedelta(hours=24 * 14 + h) for h in range(48)]
    asked = pa.table({"meter": ["m3"] * 48, "at": later})
    found = fleet.predict(asked).column("prediction").to_numpy()
    np.testing.assert_allclose(found, 13 + 3 * np.sin(np.arange(48) * 2 * np.pi / 24), atol=0.4)
    # However the time is written.
    naive = asked.set_column(1, "at", asked.column("at").cast(pa.timestamp("ns")))
    assert fleet.predict(naive).column("prediction").to_numpy().tobytes() == found.tobytes()
    again = fleet.predict(pa.table({"meter": ["new"], "at": later[:1]}), explain=True).to_pylist()[
        0
    ]
    assert again["model_used"] == "[]"
    np.testing.assert_allclose(again["prediction"], 12.5, atol=0.4)


def test_times_and_dates_are_features_where_they_are_named(lake) -> None:
    def waves():
        return make_pipeline(Fourier("at", period=("1d", "1w")), StandardScaler(), Ridge())

    trained = train(declare(waves, features=["at"]), lake, workers=1)
    assert trained.metrics["mae"] < 0.2
    for changes, said in (
        ({"features": ["note"]}, "boolean, date or timestamp"),
        ({}, "no numeric or boolean column"),
    ):
        with pytest.raises(TrainingError, match=said):
            train(declare(waves, **changes), lake, workers=1)


def test_a_forecaster_without_a_time_is_refused(lake) -> None:
    with pytest.raises(TrainingError, match="no time column is declared"):
        train(declare(lambda: SeasonalNaive(24), time=None), lake, workers=1)


def test_a_series_off_the_grid_says_why_and_falls_back(lake) -> None:
    moments = START + np.cumsum(np.random.default_rng(0).random(100)) * dt.timedelta(hours=1)
    bad = pl.DataFrame(
        {"meter": "off", "at": moments.tolist(), "kwh": np.arange(100.0), "note": ""}
    )
    lake.table("silver.readings").append(bad.to_arrow())
    trained = train(declare(lambda: SeasonalNaive(24)), lake, workers=1)
    assert [k[:35] for k in trained.failures] == ["ValueError: the times are irregular"]
    member = Fleet.open(trained.artifact).member('["off"]')
    assert member["model_used"] == "[]"


def test_an_engine_fits_the_same_members(lake, engine) -> None:
    declared = declare(lambda: HoltWinters(24, trend=None))
    columns = ("segment", "status", "state", "mae", "rows_hash", "model_used")
    made = []
    for spark in (None, engine.spark):
        trained = train(declared, lake, workers=1, spark=spark)
        rows = pl.from_arrow(lake.table("shoal.fleet_load").scan().collect().to_arrow())
        rows = rows.filter(pl.col("fleet_version") == trained.fleet_version)
        made.append(rows.select(columns).sort("segment").to_dicts())
    assert made[0] == made[1]
    assert len(made[0]) >= 7


def test_a_forecaster_is_searched_too(lake) -> None:
    from shoal import Search
    from shoal.training.search import search

    declared = declare(
        lambda season: SeasonalNaive(season),  # noqa: PLW0108
        search=Search(space={"season": [7, 24]}, trials=4),
    )
    found = search(declared, lake, workers=1)
    trained = train(found.applied(declared), lake, workers=1)
    assert Fleet.open(trained.artifact).estimator('["m1"]').season == 24


def test_other_features_follow_the_time_where_the_forecaster_takes_them(lake) -> None:
    models = pytest.importorskip("statsforecast.models")
    frame = lake.table("silver.readings").scan().sort("meter", "at").collect()
    warm = np.random.default_rng(1).normal(size=len(frame))
    frame = frame.with_columns(pl.col("kwh") + 2 * pl.Series(warm), warm=pl.Series(warm))
    mine = Lake(lake.root.parent / "warm")
    mine.table("silver.readings").append(frame.filter(pl.col("meter") < "m2").to_arrow())

    def arima():
        return models.ARIMA(order=(1, 0, 0))

    trained = train(declare(arima, features=["warm"]), mine, workers=1)
    fleet = Fleet.open(trained.artifact)
    assert [f.name for f in fleet.header.features] == ["at", "warm"]
    assert fleet.estimator('["m0"]').coef_ == pytest.approx([2.0], abs=0.2)
    at = [START + dt.timedelta(days=14)] * 2
    asked = pa.table({"meter": ["m0"] * 2, "at": at, "warm": [0.0, 1.0]})
    cold, warm = fleet.predict(asked).column("prediction").to_pylist()
    assert warm - cold == pytest.approx(2.0, abs=0.2)
    with pytest.raises(
        TrainingError, match=r"forecasts from the time alone; found the features wa"
    ):
        train(declare(lambda: HoltWinters(24), features=["at", "warm"]), mine, workers=1)
