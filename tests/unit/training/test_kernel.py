import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from shoal.models import decode
from shoal.training import FitJob, fit_segments
from shoal.training.lean import lean_fit, lean_predict


def job(**changes) -> FitJob:
    fields = {
        "build": lambda: make_pipeline(StandardScaler(), Ridge()),
        "features": 2,
        "classes": 0,
        "timed": True,
        "nan_ok": False,
        "metrics": ("mae",),
        "metric": "mae",
        "baseline": "mean",
        "holdout": 0.25,
        "min_rows": 5,
    }
    return FitJob(**(fields | changes))


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=8),
    holes=st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(["0", "1", "target"]),
                             st.sampled_from([np.nan, np.inf, -np.inf])), max_size=6),
    seed=st.integers(0, 10**6),
)  # fmt: skip
def test_every_segment_gets_one_row_and_bad_rows_are_counted(sizes, holes, seed) -> None:
    random = np.random.default_rng(seed)
    columns = {name: random.normal(size=sum(sizes)) for name in ("0", "1", "target")}
    columns["time"] = np.arange(sum(sizes))
    for at, name, value in holes:
        if sum(sizes):
            columns[name][at % sum(sizes)] = value
    offsets = np.cumsum([0, *sizes])
    found = fit_segments(pa.table(columns), offsets, job(batched=False)).to_pylist()
    assert len(found) == len(sizes)
    for i, row in enumerate(found):
        part = slice(offsets[i], offsets[i + 1])
        matrix = np.column_stack([columns["0"][part], columns["1"][part]])
        good = np.isfinite(matrix).all(axis=1) & np.isfinite(columns["target"][part])
        assert row["rows_dropped"] == (~good).sum()
        assert row["rows_train"] + row["rows_holdout"] == good.sum()
        assert (row["status"] == "ok") == (row["rows_train"] >= 5)
        if row["status"] == "ok":
            x, y = matrix[good], columns["target"][part][good]
            expected = make_pipeline(StandardScaler(), Ridge()).fit(x, y).predict(x)
            again = decode(row["template"], row["state"])
            assert again.predict(x).tobytes() == expected.tobytes()
        else:
            assert row["state"] is None
            assert "min_rows" in row["reason"]


def test_the_seasonal_naive_and_last_baselines() -> None:
    target = np.arange(20.0)
    rows = pa.table({"0": target - 1, "1": np.ones(20), "target": target, "time": np.arange(20)})
    for baseline, expected in [(0, 1.0), ("last", 3.0)]:
        row = fit_segments(rows, np.array([0, 20]), job(baseline=baseline)).to_pylist()[0]
        total, count = row["sums_baseline"]
        assert total / count == expected


def test_short_cuts_give_the_same_bits() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(60, 3)), random.normal(size=60)
    for build in (
        lambda: make_pipeline(StandardScaler(), PolynomialFeatures(), Ridge()),
        lambda: make_pipeline("passthrough", Ridge()),
        lambda: make_pipeline(StandardScaler(), Ridge(), memory=None, verbose=False),
        Ridge,
    ):
        ours, theirs = build(), build().fit(x, y)
        lean_fit(ours, x, y)
        assert lean_predict(ours, x).tobytes() == theirs.predict(x).tobytes()
        assert ours.predict(x).tobytes() == theirs.predict(x).tobytes()
