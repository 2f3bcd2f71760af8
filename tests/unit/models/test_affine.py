"""Straight members are predicted all at once: within rounding of scikit-learn, always one value."""

import warnings

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.impute import SimpleImputer
from sklearn.linear_model import BayesianRidge, LassoCV, LinearRegression, Ridge, SGDRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import LinearSVR
from sklearn.tree import DecisionTreeRegressor

from shoal.models import FeatureField, Fleet, FleetHeader, encode, write_fleet
from shoal.models.affine import Lines, affine
from shoal.models.segments import segment_codes, segment_key
from shoal.models.straight import Straight

STRAIGHT = {
    "ols": LinearRegression,
    "ridge": Ridge,
    "lasso": LassoCV,
    "bayes": BayesianRidge,
    "sgd": lambda: make_pipeline(StandardScaler(), SGDRegressor(random_state=0)),
    "svr": lambda: make_pipeline(StandardScaler(), LinearSVR()),
    "scaled": lambda: make_pipeline(StandardScaler(), Ridge()),
    "no mean": lambda: make_pipeline(StandardScaler(with_mean=False), Ridge()),
    "no std": lambda: make_pipeline(StandardScaler(with_std=False), Ridge(fit_intercept=False)),
    "range": lambda: make_pipeline(MinMaxScaler((-2, 5)), Ridge()),
    "robust": lambda: make_pipeline(RobustScaler(), Ridge()),
    "two": lambda: make_pipeline(MaxAbsScaler(), "passthrough", StandardScaler(), Ridge()),
    "filled": lambda: make_pipeline(SimpleImputer(), StandardScaler(), Ridge()),
}
CURVED = {
    "squares": lambda: make_pipeline(PolynomialFeatures(), Ridge()),
    "clipped": lambda: make_pipeline(MinMaxScaler(clip=True), Ridge()),
    "flagged": lambda: make_pipeline(SimpleImputer(add_indicator=True), Ridge()),
    "late filled": lambda: make_pipeline(StandardScaler(), SimpleImputer(), Ridge()),
    "tree": DecisionTreeRegressor,
}


def fitted(build, seed=0, rows=60):
    random = np.random.default_rng(seed)
    # Far from zero, so that what cancels badly is found.
    x = random.normal(size=(rows, 4)) * 10.0 ** random.integers(-3, 4, 4) + [1.7e9, 0, 1e3, -5]
    if build in (STRAIGHT["filled"], CURVED["flagged"], CURVED["late filled"]):
        x[::7, 1] = np.nan
    y = random.normal(size=rows) * 10 + np.nan_to_num(x) @ random.normal(size=4) / 1e3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build().fit(x, y), x


@pytest.mark.parametrize("name", STRAIGHT)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_a_line_is_the_estimator_to_rounding(name, seed) -> None:
    estimator, x = fitted(STRAIGHT[name], seed)
    line = affine(estimator, 4)
    lines = Lines(members=2, features=4)
    lines.add(1, line)
    found = lines.predict(list(x.T.copy()), np.ones(len(x), dtype=np.int64))
    terms = (np.where(np.isnan(x), line.gap, x) - line.center) * line.weight
    # What scikit-learn's own sum of products may be off by is in the bound, too.
    last = estimator[-1] if hasattr(estimator, "steps") else estimator
    size = np.abs(terms).sum(1) + abs(line.intercept) + np.abs(np.sum(last.intercept_))
    if name == "range":  # scikit-learn multiplies before it subtracts
        size += np.abs(x * line.weight).sum(1)
    assert (np.abs(found - estimator.predict(x)) <= 64 * 2.0**-53 * size).all()


@pytest.mark.parametrize("name", CURVED)
def test_what_is_no_line_is_not_taken_for_one(name) -> None:
    assert affine(fitted(CURVED[name])[0], 4) is None


def test_an_own_ridge_may_predict_anything() -> None:
    class Mine(Ridge):
        def predict(self, features):
            return super().predict(features) ** 2

    assert affine(Mine().fit(*np.ones((2, 5, 1)) * [[[1.0]], [[2.0]]]), 1) is None


def fleet_of(folder, builds):
    members, templates, estimators = [], {}, {}
    for i, build in enumerate(builds):
        estimator, _ = fitted(build, seed=i)
        encoded = encode(estimator)
        templates.setdefault(encoded.template, f"t{len(templates)}")
        key = segment_key((str(i), None if i % 3 else "b"))
        estimators[str(i), None if i % 3 else "b"] = estimator
        members.append({"segment": key, "level": 0, "status": "ok", "model_used": key,
                        "reason": None, "template": templates[encoded.template],
                        "state": encoded.state})  # fmt: skip
    header = FleetHeader(
        model="m", fleet_version=1, task="regression", by=("a", "b"), target="y",
        levels=(("a", "b"),), features=tuple(FeatureField(name=f"x{i}", dtype="double") for i in range(4)),
        templates={v: k for k, v in templates.items()}, table="t", table_version=0,
    )  # fmt: skip
    write_fleet(folder, header, pa.Table.from_pylist(members))
    return Fleet.open(folder), estimators


def table(count, segments, seed=0, gaps=True):
    random = np.random.default_rng(seed)
    which = random.integers(0, segments + 1, count)  # the last has no model
    x = random.normal(size=(count, 4)) * 100
    if gaps:
        x[random.random((count, 4)) < 0.05] = np.nan
        x[random.random((count, 4)) < 0.02] = np.inf
    return pa.table(
        {"a": which, "b": pa.array([None if i % 3 else "b" for i in which], pa.string())}
        | {f"x{i}": x[:, i] for i in range(4)}
    )


@pytest.mark.parametrize(
    "builds",
    [list(STRAIGHT.values()), [*STRAIGHT.values(), CURVED["tree"], CURVED["tree"]]],
    ids=["lines", "lines and trees"],
)
def test_one_row_has_the_bits_of_the_batch(tmp_path, builds) -> None:
    fleet, estimators = fleet_of(tmp_path, builds)
    rows = table(20_000, len(builds))  # more than a chunk
    batch = fleet.predict(rows)["prediction"].combine_chunks()
    some = list(range(0, 20_000, 97))
    alone = [Fleet.predict(fleet, rows.slice(i, 1))["prediction"][0].as_py() for i in some]
    assert alone == batch.take(some).to_pylist()
    x = np.column_stack([rows[f"x{i}"] for i in range(4)])
    keys = list(zip(rows["a"].to_pylist(), rows["b"].to_pylist(), strict=True))
    for i in some:
        estimator = estimators.get((str(keys[i][0]), keys[i][1]))
        gap = not np.isfinite(x[i]).all()
        takes_nan = (
            estimator is not None
            and fleet._estimator(fleet._chosen[str(keys[i][0]), keys[i][1]])[1]
        )
        if estimator is None or (gap and not takes_nan) or np.isinf(x[i]).any():
            assert batch[i].as_py() is None
        else:
            assert batch[i].as_py() == pytest.approx(
                estimator.predict(x[i : i + 1])[0], rel=1e-9, abs=1e-9
            )


@pytest.mark.parametrize("name", [*STRAIGHT, *CURVED])
def test_a_line_read_from_the_template_is_that_of_the_estimator(name) -> None:
    estimator, _ = fitted({**STRAIGHT, **CURVED}[name])
    stored = encode(estimator)
    straight = Straight.of(stored.template, 4)
    found = straight.line(stored.state) if straight else None
    expected = affine(estimator, 4)
    assert (found is None) == (expected is None) == (name in CURVED)
    if found is not None:
        for part in ("center", "weight", "intercept", "gap"):
            left, right = getattr(found, part), getattr(expected, part)
            assert np.array_equal(left, right, equal_nan=True), part


def test_codes_and_keys_tell_the_rows_segments() -> None:
    rows = pa.table(
        {
            "a": pa.chunked_array([[1.0, float("nan")], [None, 1.0, 2.0]]),
            "b": pa.chunked_array([["x", "y"], ["y", "x", None]]).dictionary_encode(),
        }
    )
    codes, keys = segment_codes(rows, ("a", "b"))
    found = [keys[c] for c in codes]
    assert found == [("1", "x"), (None, "y"), (None, "y"), ("1", "x"), ("2", None)]
    assert len(set(keys)) == len(keys) == 3
    codes, keys = segment_codes(rows.slice(0, 0), ("a",))
    assert len(codes) == 0
    assert segment_codes(pa.table({"a": pa.array([None, None], pa.float64())}), ("a",))[1] == [
        (None,)
    ]
