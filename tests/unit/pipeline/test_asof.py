"""The point-in-time correct join, against a plain reference and against Polars."""

from __future__ import annotations

import datetime as dt

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import shoal
from shoal.errors import PipelineError

KEYS = st.sampled_from(["a", "b", None])
TIMES = st.one_of(st.none(), st.integers(0, 6))
LABELS = st.lists(st.tuples(KEYS, TIMES), min_size=1, max_size=8)
FEATURES = st.lists(
    st.tuples(KEYS, TIMES, st.one_of(st.none(), st.integers(0, 3))), min_size=1, max_size=12
)


def frame(engine, columns: dict[str, pa.Array]):
    return engine.spark.createDataFrame(pa.table(columns))


def labels_of(rows) -> dict[str, pa.Array]:
    return {
        "id": pa.array(range(len(rows)), pa.int64()),
        "key": pa.array([key for key, _ in rows], pa.string()),
        "time": pa.array([time for _, time in rows], pa.int64()),
    }


def features_of(rows) -> dict[str, pa.Array]:
    return {
        "key": pa.array([key for key, _, _ in rows], pa.string()),
        "time": pa.array([time for _, time, _ in rows], pa.int64()),
        "value": pa.array([value for *_, value in rows], pa.int64()),
    }


def reference(labels, features, tolerance, exact) -> list[tuple[int, int | None, int | None]]:
    """For each label the newest feature that is not later, as anyone would write it by hand."""
    found = []
    for number, (key, time) in enumerate(labels):
        known = [
            (then, value is not None, value or 0)
            for other, then, value in features
            if None not in (key, time, then)
            and other == key
            and (then < time or (exact and then == time))
        ]
        then, real, value = max(known, default=(None, False, 0))
        if then is not None and tolerance is not None and time - then > tolerance:
            then, real = None, False
        found.append((number, then, value if real else None))
    return found


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    labels=LABELS,
    features=FEATURES,
    tolerance=st.one_of(st.none(), st.integers(0, 3)),
    exact=st.booleans(),
)
def test_it_is_the_newest_row_that_was_known(engine, labels, features, tolerance, exact) -> None:
    joined = shoal.asof_join(
        frame(engine, labels_of(labels)),
        frame(engine, features_of(features)),
        on="time",
        by="key",
        tolerance=tolerance,
        allow_exact_matches=exact,
    ).toArrow()
    rows = sorted(joined.to_pylist(), key=lambda row: row["id"])
    found = [(row["id"], row["time_right"], row["value"]) for row in rows]
    assert found == reference(labels, features, tolerance, exact)
    assert [(row["key"], row["time"]) for row in rows] == labels


@pytest.mark.parametrize("exact", [True, False])
def test_polars_joins_the_same_rows(engine, exact) -> None:
    start = dt.datetime(2026, 1, 1)
    times = [start + dt.timedelta(hours=7 * n % 50) for n in range(60)]
    labels = {
        "shop": pa.array([f"s{n % 4}" for n in range(60)]),
        "time": pa.array(times, pa.timestamp("us")),
    }
    features = {
        "shop": pa.array([f"s{n % 3}" for n in range(40)]),
        "known": pa.array([start + dt.timedelta(hours=n * 11 % 47) for n in range(40)]),
        "price": pa.array([n * 1.5 for n in range(40)]),
    }
    joined = shoal.asof_join(
        frame(engine, labels),
        frame(engine, features),
        left_on="time",
        right_on="known",
        by=["shop"],
        tolerance=dt.timedelta(hours=9),
        allow_exact_matches=exact,
    ).toArrow()
    left, right = pl.from_arrow(pa.table(labels)), pl.from_arrow(pa.table(features))
    expected = left.sort("time").join_asof(
        right.sort("known", "price"),
        left_on="time",
        right_on="known",
        by="shop",
        tolerance="9h",
        allow_exact_matches=exact,
        coalesce=False,
        check_sortedness=False,
    )
    found = pl.from_arrow(joined).with_columns(pl.col("time", "known").dt.replace_time_zone(None))
    names = ["shop", "time", "known", "price"]
    assert found.select(names).sort(names).equals(expected.select(names).sort(names))
    assert expected["known"].null_count() not in (0, 60)


def test_ties_are_decided_by_what_is_named(engine) -> None:
    labels = frame(engine, {"day": pa.array([dt.date(2026, 1, 5)])})
    features = frame(
        engine,
        {
            "day": pa.array([dt.date(2026, 1, 4)] * 3),
            "price": pa.array([9.0, 2.0, 5.0]),
            "loaded": pa.array([1, 3, 2]),
        },
    )
    (plain,) = shoal.asof_join(labels, features, on="day").collect()
    (loaded,) = shoal.asof_join(labels, features, on="day", ties="loaded").collect()
    assert (plain["price"], loaded["price"]) == (9.0, 2.0)


def test_it_is_a_step_of_a_pipeline(project) -> None:
    project.python(
        """
        @dp.table(name="bronze.labels")
        def labels():
            return spark.readStream.schema("shop STRING, time BIGINT, y DOUBLE").json(
                "landing/labels")

        @dp.table(name="bronze.prices")
        def prices():
            return spark.readStream.schema("shop STRING, time BIGINT, price DOUBLE").json(
                "landing/prices")

        @dp.materialized_view(name="gold.training")
        def training():
            return shoal.asof_join(
                spark.read.table("bronze.labels"), spark.read.table("bronze.prices"),
                on="time", by="shop")
        """
    )
    project.land("labels/a.json", [{"shop": "a", "time": t, "y": 1.0} for t in (3, 9)])
    project.land("prices/a.json", [{"shop": "a", "time": t, "price": t * 10.0} for t in (1, 4)])
    project.ok()
    assert project.rows("gold.training", "time", "price") == [(3, 10.0), (9, 40.0)]
    project.land("prices/b.json", [{"shop": "a", "time": 9, "price": 90.0}])
    project.ok()
    assert project.rows("gold.training", "time", "price") == [(3, 10.0), (9, 90.0)]
    with project.open() as space:
        tree = space.lineage.upstream("gold.training.price")
    assert any((b.source, b.column) == ("bronze.prices", "price") for b in tree.below)


def test_wrong_arguments_are_told(engine) -> None:
    left = frame(engine, {"key": pa.array(["a"]), "time": pa.array([1]), "price_right": [1]})
    right = frame(engine, {"key": pa.array(["a"]), "time": pa.array([1]), "price": pa.array([2])})
    for arguments, words in [
        ({}, "column of time of both sides"),
        ({"on": "time", "left_on": "time"}, "column of time of both sides"),
        ({"on": "tim"}, "left side of an as-of join has no column 'tim'"),
        ({"on": "time", "by": "shop"}, "no column 'shop'"),
        ({"on": "time", "by": "key", "ties": "x"}, "right side .* no column 'x'"),
        ({"on": "time", "tolerance": -1}, "expected 0 or more"),
        ({"on": "time", "tolerance": dt.timedelta(-1)}, "expected 0 or more"),
        ({"on": "time", "by": "key", "suffix": ""}, "Both sides .* column 'time'"),
    ]:
        with pytest.raises(PipelineError, match=words):
            shoal.asof_join(left, right, **arguments)
