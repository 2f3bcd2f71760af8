from contextlib import ExitStack

import cloudpickle
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    PolynomialFeatures,
    StandardScaler,
)

from shoal.models import decode
from shoal.models.metrics import metric_values
from shoal.training import FitJob, fit_segments
from shoal.training.batched import fit_batched, is_batched
from shoal.training.local import Local
from shoal.training.pool import Pool, Task
from shoal.training.rows import SortedRows
from shoal.training.run import new_nursery
from shoal.training.split import split_windows

METRICS = ("mae", "rmse", "r2", "bias", "smape", "wape", "mase", "pinball_90")
ESTIMATORS = {
    "ridge": Ridge,
    "ridge without an intercept": lambda: Ridge(alpha=0.3, fit_intercept=False),
    "ols": LinearRegression,
    "ols without an intercept": lambda: LinearRegression(fit_intercept=False),
    "standard": lambda: make_pipeline(StandardScaler(), Ridge(solver="svd")),
    "spread": lambda: make_pipeline(StandardScaler(with_mean=False), Ridge()),
    "centre": lambda: make_pipeline(StandardScaler(with_std=False), LinearRegression()),
    "min max": lambda: make_pipeline(MinMaxScaler((-1, 2)), LinearRegression()),
    "max abs": lambda: make_pipeline("passthrough", MaxAbsScaler(), Ridge(fit_intercept=False)),
    "two scalers": lambda: make_pipeline(MinMaxScaler(), StandardScaler(), Ridge(alpha=5)),
    "powers": lambda: make_pipeline(PolynomialFeatures(2), StandardScaler(), Ridge()),
    "waves": lambda: make_pipeline(
        FunctionTransformer(np.sin), FunctionTransformer(), StandardScaler(), LinearRegression()
    ),
}


def job(build, **changes) -> FitJob:
    fields = {
        "build": build,
        "features": 3,
        "classes": 0,
        "timed": True,
        "nan_ok": False,
        "metrics": METRICS,
        "metric": "mae",
        "baseline": "mean",
        "holdout": 0.25,
        "min_rows": 12,
        "centre": 3.0,
        "interval": 0.8,
    }
    return FitJob(**(fields | changes))


def table(features, target, weights=None) -> pa.Table:
    columns = {str(i): features[:, i].copy() for i in range(features.shape[1])}
    columns |= {} if weights is None else {"weight": weights}
    return pa.table({**columns, "target": target, "time": np.arange(len(target))})


def clean(features, target) -> SortedRows:
    return SortedRows(features=features, target=target)


def rows_of(sizes, seed, kinds=()):
    """Made-up segments; those named in ``kinds`` have something unusual."""
    random = np.random.default_rng(seed)
    total = sum(sizes)
    features = random.normal(size=(total, 3)) * [1.0, 5.0, 0.2] + [0.0, 20.0, 1.0]
    target = features @ [1.0, -0.5, 4.0] + random.normal(size=total)
    offsets = np.cumsum([0, *sizes])
    for i, kind in kinds:
        part = slice(offsets[i % len(sizes)], offsets[i % len(sizes) + 1])
        share = features[part]
        if kind == "constant feature":
            share[:, 1] = 0.1
        elif kind == "constant at first":
            share[: len(share) * 4 // 5, 2] = 7.0
        elif kind == "constant target":
            target[part] = 4.2
        elif kind == "the same twice":
            share[:, 2] = share[:, 0]
        elif kind == "nearly the same":
            share[:, 2] = share[:, 0] + 1e-7 * share[:, 2]
        elif kind == "far away":
            share[:, 0] += 1e13
        elif kind == "holes":
            share[::5, 0] = np.nan
            target[part][::7] = np.inf
        elif kind == "huge":
            share[:, 1] *= 1e200 if np.abs(share[:, 1]).max(initial=0) < 1e9 else 1.0
    return features, target, offsets


def attributes(estimator):
    """All fitted numbers by name."""
    steps = getattr(estimator, "steps", [("", estimator)])
    found = {}
    for name, step in steps:
        for key, value in vars(
            step if not isinstance(step, str) else object.__new__(Ridge)
        ).items():
            if key.endswith("_") and value is not None and not isinstance(value, str):
                found[f"{name}.{key}"] = np.asarray(value)
    return found


def assert_equal(ours, theirs, features, offsets) -> None:
    assert ours.schema == theirs.schema
    for name in ("status", "reason", "error", "template", "rows_train", "rows_holdout",
                 "rows_dropped", "rows_hash"):  # fmt: skip
        assert ours.column(name).to_pylist() == theirs.column(name).to_pylist()
    for metric in (*METRICS, "baseline"):
        mine, other = (b.column(f"sums_{metric}").to_pylist() for b in (ours, theirs))
        assert [m is None for m in mine] == [o is None for o in other]
        if metric in ("mae", "rmse", "mase", "pinball_90", "baseline"):
            kind = "mae" if metric == "baseline" else metric
            for m, o in zip(mine, other, strict=True):
                if m is not None:
                    values = [metric_values(kind, np.array([s])) for s in (m, o)]
                    np.testing.assert_allclose(*values, rtol=1e-8, atol=1e-10)
    widths = [b.column("interval").to_numpy(zero_copy_only=False) for b in (ours, theirs)]
    np.testing.assert_allclose(*widths, rtol=1e-8, atol=1e-10)
    for i, pair in enumerate(zip(ours.to_pylist(), theirs.to_pylist(), strict=True)):
        if pair[0]["state"] is None:
            continue
        mine, other = (decode(r["template"], r["state"]) for r in pair)
        here, there = attributes(mine), attributes(other)
        assert list(here) == list(there)
        for name, value in here.items():
            scale = np.abs(there[name]).max(initial=1e-300)
            assert value.dtype == there[name].dtype
            np.testing.assert_allclose(value, there[name], rtol=0, atol=1e-8 * scale, err_msg=name)
        part = features[offsets[i] : offsets[i + 1]]
        part = part[np.isfinite(part).all(axis=1)]
        guess, expected = mine.predict(part), other.predict(part)
        np.testing.assert_allclose(guess, expected, rtol=0, atol=1e-8 * np.abs(expected).max())


@pytest.mark.parametrize("name", ESTIMATORS)
def test_members_are_those_of_scikit_learn(name) -> None:
    build = ESTIMATORS[name]
    features, target, offsets = rows_of([40, 25, 100, 33, 64], 0)
    for baseline, windows in (("mean", 1), ("mean", 3), ("last", 4), (1, 2)):
        ours, theirs = (
            fit_segments(
                table(features, target),
                offsets,
                job(build, baseline=baseline, backtest=windows, batched=batched),
            )
            for batched in (True, False)
        )
        assert_equal(ours, theirs, features, offsets)
    edges = split_windows(offsets, None, 0.25, 1)
    together = fit_batched(clean(features, target), offsets, edges, job(build))
    assert together is not None
    assert together.at.tolist() == [0, 1, 2, 3, 4]


KINDS = [
    "constant feature", "constant at first", "constant target", "the same twice",
    "nearly the same", "far away", "holes", "huge",
]  # fmt: skip


@pytest.mark.parametrize("name", ESTIMATORS)
def test_weighted_members_are_those_of_scikit_learn(name) -> None:
    features, target, offsets = rows_of([60, 45, 90, 30, 12, 0, 80], 4, [(1, "constant feature")])
    weights = np.random.default_rng(5).exponential(size=len(target))
    weights[offsets[2] : offsets[2] + 20] = 0.0
    weights[offsets[3] : offsets[4]] = 0.0
    weights[[0, 70, 71]] = np.nan, -1.0, np.inf
    ours, theirs = (
        fit_segments(
            table(features, target, weights),
            offsets,
            job(ESTIMATORS[name], weighted=True, backtest=2, batched=batched),
        )
        for batched in (True, False)
    )
    assert_equal(ours, theirs, features, offsets)
    said = ours.to_pylist()
    assert [row["rows_dropped"] for row in said] == [1, 2, 0, 0, 0, 0, 0]
    assert said[3]["reason"] == "all training rows have the weight 0"
    alike = fit_segments(table(features, target), offsets, job(ESTIMATORS[name]))
    assert alike["state"][6] != ours["state"][6]
    assert alike["rows_hash"][6] != ours["rows_hash"][6]


@settings(max_examples=100, deadline=None)
@given(
    name=st.sampled_from(sorted(ESTIMATORS)),
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=6),
    kinds=st.lists(st.tuples(st.integers(0, 5), st.sampled_from(KINDS)), max_size=4),
    seed=st.integers(0, 10**6),
    holdout=st.sampled_from([0.0, 0.2, 0.6]),
    windows=st.integers(1, 3),
)
def test_unusual_segments_are_those_of_scikit_learn(
    name, sizes, kinds, seed, holdout, windows
) -> None:
    features, target, offsets = rows_of(sizes, seed, kinds)
    rows = table(features, target)
    ours, theirs = (
        fit_segments(
            rows,
            offsets,
            job(ESTIMATORS[name], holdout=holdout, backtest=windows, batched=batched),
        )
        for batched in (True, False)
    )
    assert_equal(ours, theirs, features, offsets)


@pytest.mark.parametrize("kind", ["nearly the same", "the same twice", "far away"])
def test_what_the_sums_cannot_tell_goes_to_scikit_learn(kind) -> None:
    features, target, offsets = rows_of([50] * 4, 1, [(2, kind)])
    edges = split_windows(offsets, None, 0.25, 1)
    together = fit_batched(clean(features, target), offsets, edges, job(LinearRegression))
    assert together is not None
    assert together.at.tolist() == [0, 1, 3]
    rows = fit_segments(table(features, target), offsets, job(LinearRegression))
    expected = LinearRegression().fit(features[100:150], target[100:150])
    member = decode(rows["template"][2].as_py(), rows["state"][2].as_py())
    assert member.coef_.tobytes() == expected.coef_.tobytes()


def test_a_member_does_not_depend_on_its_neighbours() -> None:
    features, target, offsets = rows_of([50, 80, 30, 44], 2)
    whole = fit_segments(table(features, target), offsets, job(ESTIMATORS["standard"]))
    for i in range(4):
        part = slice(offsets[i], offsets[i + 1])
        alone = table(features[part], target[part])
        row = fit_segments(alone, np.array([0, alone.num_rows]), job(ESTIMATORS["standard"]))
        assert row["state"][0] == whole["state"][i]


class Doubled(Ridge):
    def predict(self, X):
        return 2 * super().predict(X)


@pytest.mark.parametrize(
    "build",
    [
        Doubled,
        lambda: Ridge(positive=True),
        lambda: Ridge(solver="lsqr"),
        lambda: Ridge(alpha=[1.0]),
        lambda: make_pipeline(MinMaxScaler(clip=True), Ridge()),
        lambda: make_pipeline(StandardScaler(), PolynomialFeatures(), Ridge()),
        lambda: make_pipeline(FunctionTransformer(lambda x: x - x.mean()), Ridge()),
        lambda: make_pipeline(StandardScaler(), Ridge(), verbose=True),
        lambda: 1 / 0,
    ],
)
def test_what_is_not_supported_is_fitted_as_ever(build) -> None:
    assert not is_batched(job(build))


def test_classes_gaps_and_the_switch_turn_it_off() -> None:
    assert is_batched(job(Ridge))
    assert not is_batched(job(Ridge, batched=False))
    assert not is_batched(job(Ridge, nan_ok=True))
    assert not is_batched(job(Ridge, classes=2))


def test_a_wrong_parameter_is_told_as_without_batches() -> None:
    features, target, offsets = rows_of([40, 40], 3)
    wrong = job(lambda: Ridge(alpha=1.0, tol=-1.0), fast=False)
    rows = fit_segments(table(features, target), offsets, wrong).to_pylist()
    assert [r["status"] for r in rows] == ["failed", "failed"]
    assert rows[0]["error"].startswith("InvalidParameterError")


def test_processes_take_over_what_is_left_to_the_same_bits(tmp_path, monkeypatch) -> None:
    features, target, offsets = rows_of([60] * 12, 4, [(7, "constant target")])
    path, described = tmp_path / "rows.arrow", tmp_path / "job"
    with pa.ipc.new_file(path, table(features, target).schema) as writer:
        writer.write_table(table(features, target))
    described.write_bytes(cloudpickle.dumps(job(Ridge)))
    tasks = [Task(first=i, offsets=offsets[i : i + 4]) for i in (0, 3, 6, 9)]
    tasks.append(Task(first=12, offsets=offsets[[0, -1]], group=True))
    found = []
    for patience in (1e9, 0.0):
        monkeypatch.setattr("shoal.training.local._PATIENCE", patience)
        states = {}
        with ExitStack() as stack:

            def start(stack: ExitStack = stack) -> Pool:
                return stack.enter_context(Pool(stack.enter_context(new_nursery()), 2))

            pool = Local(2, start)
            pool.open(described, path)
            pool.run(tasks, lambda t, b, to=states: to.update({t.first: b["state"].to_pylist()}))
        assert sorted(states) == [0, 3, 6, 9, 12]
        found.append(states)
    assert found[0] == found[1]
