"""How members are measured: rolling origins, prediction intervals, the scale of mase."""

import datetime as dt
import itertools
import json
import math

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, QuantileRegressor, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from shoal.errors import ModelError, RequestError, TrainingError
from shoal.lake import Lake
from shoal.models import Fleet, collecting_models, model
from shoal.training import train
from shoal.training.intervals import conformal_widths, naive_scale
from shoal.training.split import split_windows


def ridge():
    return make_pipeline(StandardScaler(), Ridge())


def declare(function=ridge, **changes):
    fields = {"table": "gold.load", "target": "y", "by": ["meter"], "time": "t", "name": "load"}
    with collecting_models() as found:
        model(**(fields | changes))(function)
    return found[0]


def load(sizes=(120, 80, 200), seed: int = 0) -> pa.Table:
    random = np.random.default_rng(seed)
    tables = []
    for i, rows in enumerate(sizes):
        x = random.normal(size=rows)
        start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
        tables.append(
            pa.table(
                {
                    "meter": [f"m{i}"] * rows,
                    "t": pa.array(
                        [start + dt.timedelta(hours=h) for h in range(rows)],
                        pa.timestamp("us", tz="UTC"),
                    ),
                    "x": x,
                    "before": np.roll(x, 1),
                    "y": (i + 1) * x + random.normal(size=rows),
                }
            )
        )
    return pa.concat_tables(tables)


@pytest.mark.parametrize("batched", [True, False])
def test_a_backtest_predicts_each_window_from_all_rows_before_it(tmp_path, batched) -> None:
    lake = Lake(tmp_path)
    rows = load()
    lake.table("gold.load").append(rows)
    declared = declare(
        holdout=0.3, backtest=3, metrics=["rmse", "mase", "pinball_90"], batched=batched
    )
    trained = train(declared, lake)
    members = lake.table("shoal.fleet_load").scan().collect()
    for i in range(3):
        part = rows.filter(pa.array([m == f"m{i}" for m in rows["meter"].to_pylist()]))
        x = np.column_stack([part["x"].to_numpy(), part["before"].to_numpy()])
        y = part["y"].to_numpy()
        cut = len(y) - math.ceil(0.3 * len(y))
        edges = cut + (len(y) - cut) * np.arange(4) // 3
        errors, scaled = [], []
        for begin, end in itertools.pairwise(edges):
            guess = ridge().fit(x[:begin], y[:begin]).predict(x[begin:end])
            errors.append(y[begin:end] - guess)
            scaled.append(np.abs(errors[-1]) / np.abs(np.diff(y[:begin])).mean())
        error = np.concatenate(errors)
        row = members.row(by_predicate=pl.col("segment") == json.dumps([f"m{i}"]), named=True)
        assert row["rows_holdout"] == len(error)
        assert row["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-9)
        assert row["rmse"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-9)
        assert row["mase"] == pytest.approx(np.concatenate(scaled).mean(), rel=1e-9)
        pinball = np.maximum(0.9 * error, -0.1 * error).mean()
        assert row["pinball_90"] == pytest.approx(pinball, rel=1e-9)
    assert trained.params["backtest"] == "3"


@settings(max_examples=60, deadline=None)
@given(
    data=st.lists(st.lists(st.integers(0, 12), max_size=25), min_size=1, max_size=4),
    share=st.sampled_from([0.0, 0.2, 0.5, 0.9]),
    windows=st.integers(1, 5),
)
def test_windows_cover_the_holdout_and_never_split_a_moment(data, share, windows) -> None:
    moments = np.array([m for part in data for m in sorted(part)], dtype=np.int64)
    bounds = np.cumsum([0, *map(len, data)])
    edges = split_windows(bounds, moments, share, windows)
    assert edges.shape == (len(data), windows + 1)
    assert (np.diff(edges, axis=1) >= 0).all()
    assert (edges[:, -1] == bounds[1:]).all()
    assert (edges[:, 0] == split_windows(bounds, moments, share, 1)[:, 0]).all()
    for start, end, row in zip(bounds[:-1], bounds[1:], edges, strict=True):
        for edge in row.tolist():
            assert not (start < edge < end and moments[edge] == moments[edge - 1])


def test_widths_are_the_conformal_quantile() -> None:
    errors = np.array([3.0, -1.0, 2.0, -5.0, 4.0, 0.0, 1.0, 2.0, -9.0, 1.0, 1.0])
    found = conformal_widths(errors, np.array([0, 9]), 0.9)
    assert found[0] == 9.0  # nine rows: the largest, ceil(10 * 0.9) = 9
    assert np.isnan(found[1])  # two rows cannot tell
    assert conformal_widths(errors, np.array([0]), 0.5)[0] == 2.0  # the sixth of eleven


@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_intervals_cover_what_they_promise(coverage) -> None:
    random = np.random.default_rng(1)
    errors = random.standard_t(3, size=(4_000, 51))
    widths = conformal_widths(errors[:, :50].ravel(), np.arange(0, 4_000 * 50, 50), coverage)
    covered = (np.abs(errors[:, 50]) <= widths).mean()
    # Exactly ceil(51 c) / 51 for exchangeable rows; 4 standard errors of 4,000 draws.
    exact = math.ceil(51 * coverage) / 51
    assert abs(covered - exact) < 4 * math.sqrt(exact * (1 - exact) / 4_000)


def test_the_naive_scale() -> None:
    y = np.array([1.0, 3.0, 2.0, 7.0, 7.0])
    starts, ends = np.array([0, 3, 4]), np.array([3, 5, 5])
    assert naive_scale(y, None, starts, ends).tolist() == [1.5, 0.0, 0.0]
    assert naive_scale(y, y + 2, starts, ends).tolist() == [2.0, 2.0, 2.0]


def test_predictions_carry_their_interval(tmp_path) -> None:
    lake = Lake(tmp_path)
    rows = load((200, 200, 20))
    lake.table("gold.load").append(rows)
    trained = train(declare(interval=0.8, min_rows=10), lake)
    members = lake.table("shoal.fleet_load").scan().collect()
    widths = dict(zip(members["segment"], members["interval"], strict=True))
    assert widths['["m0"]'] > 0
    assert widths['["m2"]'] is not None  # four held-out rows are just enough for 0.8
    fleet = Fleet.open(trained.artifact)
    found = fleet.predict(rows, interval=True)
    assert found.column_names == ["prediction", "prediction_lower", "prediction_upper"]
    middle = found["prediction"].to_numpy()
    low, high = found["prediction_lower"].to_numpy(), found["prediction_upper"].to_numpy()
    np.testing.assert_allclose(middle[:200] - low[:200], widths['["m0"]'])
    np.testing.assert_allclose(high[200:400] - middle[200:400], widths['["m1"]'])
    # A segment that was never seen has the global model's.
    unseen = pa.table({"meter": ["new"], "x": [0.0], "before": [0.0]})
    row = fleet.predict(unseen, interval=True).to_pylist()[0]
    assert row["prediction_upper"] - row["prediction"] == pytest.approx(widths["[]"])


def test_too_few_rows_give_no_interval(tmp_path) -> None:
    lake = Lake(tmp_path)
    lake.table("gold.load").append(load((200, 40)))
    trained = train(declare(interval=0.95), lake)
    found = Fleet.open(trained.artifact).predict(load((1, 1)), interval=True)
    assert found["prediction"].null_count == 0
    assert found["prediction_lower"].is_valid().to_pylist() == [True, False]


def test_a_model_without_intervals_says_so(tmp_path) -> None:
    lake = Lake(tmp_path)
    lake.table("gold.load").append(load())
    trained = train(declare(), lake)
    with pytest.raises(RequestError, match="no prediction intervals"):
        Fleet.open(trained.artifact).predict(load(), interval=True)


def test_a_quantile_is_learnt_and_measured(tmp_path) -> None:
    lake = Lake(tmp_path)
    lake.table("gold.load").append(load())

    def high():
        return QuantileRegressor(quantile=0.9, alpha=0)

    trained = train(declare(high, metric="pinball_90"), lake)
    assert trained.metrics["skill"] > 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metric": "maee"}, "unknown metric 'maee'"),
        ({"metrics": ["pinball_0"]}, "unknown metric 'pinball_0'"),
        ({"backtest": 0}, "expected 1 or more"),
        ({"backtest": 2, "time": None}, "needs time="),
        ({"backtest": 2, "holdout": 0.0}, "needs time="),
        ({"interval": 1.0}, "expected 0 < interval < 1"),
        ({"interval": 0.9, "holdout": 0.0}, "expected 0 < interval < 1"),
        ({"metric": "mase", "time": None}, "naive forecast"),
    ],
)
def test_wrong_declarations(changes, said) -> None:
    with pytest.raises(ModelError, match=said):
        declare(**changes)


def test_classes_have_no_interval(tmp_path) -> None:
    lake = Lake(tmp_path)
    rows = load()
    lake.table("gold.load").append(
        rows.set_column(4, "y", pa.array((rows["y"].to_numpy() > 0).tolist()))
    )
    with pytest.raises(TrainingError, match="predicts classes"):
        train(declare(LogisticRegression, metric="accuracy", interval=0.9), lake)
