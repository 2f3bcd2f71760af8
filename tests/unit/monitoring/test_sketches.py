"""Sketches and distances, against scipy one segment at a time."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from shoal.monitoring import drift, profile


def frame(values: dict[str, list], **more) -> pl.LazyFrame:
    keys = [key for key, column in values.items() for _ in column]
    flat = [value for column in values.values() for value in column]
    return pl.LazyFrame({"shop": keys, "x": flat, **more})


numbers = st.lists(
    st.one_of(st.integers(-5, 5).map(float), st.floats(-1e6, 1e6)), min_size=1, max_size=60
)
windows = st.dictionaries(st.sampled_from(["a", "b", "ü"]), numbers, min_size=1)


@settings(max_examples=60, deadline=None)
@given(windows, windows)
def test_small_segments_have_the_distance_of_kolmogorov_and_smirnov(before, now):
    told = drift(
        profile(frame(before), ["shop"], ["x"]), profile(frame(now), ["shop"], ["x"])
    ).to_pylist()
    assert {row["segment"] for row in told} == {f'["{k}"]' for k in set(before) & set(now)}
    for row in told:
        key = row["segment"][2:-2]
        at = np.unique(before[key] + now[key])
        steps = [
            np.searchsorted(np.sort(side), at, "right") / len(side)
            for side in (before[key], now[key])
        ]
        wanted = np.abs(steps[0] - steps[1]).max()
        assert row["ks"] == pytest.approx(wanted, abs=1e-12)
        low, high = min(before[key]), max(before[key])
        share = np.mean([(v < low) or (v > high) for v in now[key]])
        assert row["outside"] == pytest.approx(share)


def test_large_segments_are_known_to_half_of_a_hundredth():
    random = np.random.default_rng(0)
    before, now = random.normal(size=5_000), random.normal(0.4, 1.3, size=4_000)
    told = drift(
        profile(frame({"a": before.tolist()}), ["shop"], ["x"]),
        profile(frame({"a": now.tolist()}), ["shop"], ["x"]),
    ).to_pylist()[0]
    assert told["ks"] == pytest.approx(stats.ks_2samp(before, now).statistic, abs=0.01)
    edges = np.quantile(before, np.linspace(0, 1, 11))
    edges[0], edges[-1] = -np.inf, np.inf
    p, q = (np.histogram(side, edges)[0] / len(side) for side in (before, now))
    assert told["psi"] == pytest.approx(((q - p) * np.log(q / p)).sum(), rel=0.1)
    assert told["js"] ** 2 == pytest.approx(
        stats.entropy(p, (p + q) / 2, base=2) / 2 + stats.entropy(q, (p + q) / 2, base=2) / 2,
        rel=0.1,
    )
    assert told["p"] < 1e-6


def test_the_same_distribution_is_rarely_called_another():
    random = np.random.default_rng(1)
    keys = [str(i) for i in range(400)]
    sides = [
        profile(frame({key: random.normal(size=n).tolist() for key in keys}), ["shop"], ["x"])
        for n in (300, 50)
    ]
    told = drift(*sides)
    p = np.asarray(told.column("p"))
    assert (p < 0.05).mean() < 0.05  # twice the smaller of two tests, one of which is empty
    assert np.median(np.asarray(told.column("psi"))) < 0.05  # its bias is taken away


def test_missing_values_are_a_drift_of_their_own():
    before = frame({"a": [1.0, 2.0, 3.0, 4.0] * 50})
    now = frame({"a": [1.0, 2.0, 3.0, 4.0, None, float("nan")] * 25})
    told = drift(profile(before, ["shop"], ["x"]), profile(now, ["shop"], ["x"])).to_pylist()[0]
    assert told["missing"] == pytest.approx(1 / 3)
    assert told["baseline_missing"] == 0
    assert told["ks"] == pytest.approx(0, abs=1e-9)
    assert told["p"] < 1e-6


def test_categories_have_pearsons_statistic():
    before = frame({"a": ["x"] * 60 + ["y"] * 30 + ["z"] * 10})
    now = frame({"a": ["x"] * 30 + ["y"] * 60 + ["w"] * 10})
    told = drift(profile(before, ["shop"], ["x"]), profile(now, ["shop"], ["x"])).to_pylist()[0]
    table = [[60, 30, 10, 0], [30, 60, 0, 10]]
    wanted = stats.chi2_contingency(table, correction=False)
    assert told["chi2"] == pytest.approx(wanted.statistic)
    assert told["p"] == pytest.approx(2 * wanted.pvalue)
    assert told["outside"] == pytest.approx(0.1)


def test_a_column_of_ten_thousand_categories_keeps_the_frequent_ones():
    values = [f"id{i}" for i in range(10_000)] + ["common"] * 500
    sketch = profile(frame({"a": values}), ["shop"], ["x"]).to_pylist()[0]
    assert len(sketch["labels"]) == 21
    assert sketch["labels"][0] == "common"
    assert sum(sketch["counts"]) == 10_500
    told = drift(
        profile(frame({"a": values}), ["shop"], ["x"]),
        profile(frame({"a": values}), ["shop"], ["x"]),
    ).to_pylist()[0]
    assert told["chi2"] == pytest.approx(0)


def test_booleans_moments_infinities_and_no_rows():
    import datetime as dt

    rows = pl.LazyFrame(
        {
            "shop": ["a", "a", "a"],
            "flag": [True, False, None],
            "when": [dt.date(2024, 1, 1), dt.date(2024, 1, 2), None],
            "x": [1.0, float("inf"), float("-inf")],
        }
    )
    sketch = {
        row["column"]: row for row in profile(rows, ["shop"], ["flag", "when", "x"]).to_pylist()
    }
    assert sketch["flag"]["kind"] == "category"
    assert sketch["when"]["low"] == 1_704_067_200.0
    assert sketch["x"]["high"] == float("inf")
    assert profile(rows.filter(pl.lit(False)), ["shop"], ["x"]).num_rows == 0
    assert profile(rows, [], ["x"]).column("segment").to_pylist() == ["[]"]
