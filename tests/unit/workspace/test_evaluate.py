"""Two versions compared: on which rows, what they saw, and who won where."""

import datetime as dt
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from shoal.errors import ModelError, ProjectError, TableError, TableNotFound, TrackingError
from shops import Shops, sales


@pytest.fixture(scope="module")
def shops(tmp_path_factory) -> Shops:
    """Version 1, the champion, and a better version 2, the challenger."""
    shops = Shops(tmp_path_factory.mktemp("evaluate") / "project")
    shops.train(100.0)
    shops.train(0.1, alias="challenger")
    return shops


@pytest.fixture(scope="module")
def test_rows() -> pa.Table:
    """In region r1 the champion's weaker slopes are right."""
    rows = pl.from_arrow(sales(100, 30))
    weak = pl.when(pl.col("region") == "r1").then(0.29 * pl.col("y")).otherwise("y")
    return rows.with_columns(y=weak).to_arrow()


def kept(space, found) -> pl.DataFrame:
    rows = space.lake.table("shoal.evaluations_sales").scan().collect()
    return rows.filter(pl.col("evaluation") == found.id).sort("segment", nulls_last=True)


def test_without_new_rows_it_says_that_both_saw_them(shops) -> None:
    with shops.open() as space:
        found = space.evaluate("sales")
    assert (found.challenger, found.champion, found.table_version) == (2, 1, 0)
    assert found.which == "the last 20% of each segment by day"
    assert found.seen == "both"
    assert found.rows == 11 * 8 + 1
    assert (found.verdict, found.segments["lost"]) == ("won", 0)


def test_another_table_tells_winners_and_losers(shops, test_rows) -> None:
    with shops.open() as space:
        space.lake.table("gold.test").append(test_rows)
        found = space.evaluate("sales", rows="gold.test@0")
        rows = kept(space, found)
        fleets = [space.tracker.fleet(f"sales/{n}") for n in (1, 2)]
    assert (found.table, found.which, found.seen) == ("gold.test", "all rows", "unknown")
    assert found.segments == {"won": 5, "lost": 6, "tied": 0}
    assert rows["segment"].null_count() == 1
    each = rows.drop_nulls("segment")
    won = each["segment"].str.starts_with('["r0"')
    assert each["verdict"].to_list() == ["won" if w else "lost" for w in won]
    # The numbers are those of the predictions.
    for row in each.to_dicts():
        region, shop = pl.Series([row["segment"]]).str.json_decode(pl.List(pl.String))[0]
        here = pl.from_arrow(test_rows).filter(region=region, shop=shop)
        for fleet, name in zip(fleets, ("champion", "challenger"), strict=True):
            guess = fleet.predict(here.to_arrow()).column("prediction").to_numpy()
            error = np.abs(guess - here["y"].to_numpy())
            assert row[f"{name}_value"] == pytest.approx(error.mean())
        assert row["gain"] == pytest.approx(row["champion_value"] - row["challenger_value"])
    whole = rows.row(-1, named=True)
    assert whole["n"] == found.rows == test_rows.num_rows
    assert whole["challenger_value"] == found.values["challenger"]
    assert whole["p"] == found.p


def test_rows_since_a_time_and_what_was_seen_of_them(shops) -> None:
    with shops.open() as space:
        found = space.evaluate("sales", since="30", test="wilcoxon")
        assert (found.which, found.seen, found.rows) == ("day >= 30", "both", 110)
        with pytest.raises(ModelError, match=r"No row to compare: .* \(day >= 99\)"):
            space.evaluate("sales", since="99")
        with pytest.raises(ModelError, match=r"'soon' is no value of gold\.sales\.day"):
            space.evaluate("sales", since="soon")


def test_rows_without_target_or_prediction_are_counted_apart(shops, test_rows) -> None:
    rows = pl.from_arrow(test_rows).with_row_index()
    rows = rows.with_columns(
        y=pl.when(pl.col("index") % 50 == 0).then(None).otherwise("y"),
        x0=pl.when(pl.col("index") % 50 == 1).then(float("nan")).otherwise("x0"),
    )
    with shops.open() as space:
        space.lake.table("gold.gaps").append(rows.drop("index").to_arrow())
        found = space.evaluate("sales", rows="gold.gaps")
    assert found.skipped == 14
    assert found.rows == rows.height - 14


def test_bad_input_is_told(shops) -> None:
    with shops.open() as space:
        before = space.lake.table("shoal.evaluations_sales").version()
        with pytest.raises(TrackingError, match="are the same version, 1"):
            space.evaluate("sales", challenger="1")
        with pytest.raises(TrackingError, match="has no version 9; it has 1, 2"):
            space.evaluate("sales", challenger="9")
        with pytest.raises(TrackingError, match="has no alias 'blue'"):
            space.evaluate("sales", champion="blue")
        with pytest.raises(ProjectError, match="Did you mean 'sales'"):
            space.evaluate("sale")
        with pytest.raises(TableNotFound, match=r"gold\.tests"):
            space.evaluate("sales", rows="gold.tests")
        with pytest.raises(TableError, match="has no version 7"):
            space.evaluate("sales", rows="gold.sales@7")
        with pytest.raises(TableError, match="no snapshot 'last'"):
            space.evaluate("sales", rows="gold.sales@last")
        with pytest.raises(ModelError, match="alpha is 5"):
            space.evaluate("sales", alpha=5)
        space.lake.table("gold.narrow").append(pa.table({"region": ["r0"], "shop": ["s1"]}))
        with pytest.raises(ModelError, match="has no column 'y'"):
            space.evaluate("sales", rows="gold.narrow")
        assert space.lake.table("shoal.evaluations_sales").version() == before


def test_new_rows_are_those_that_neither_saw(tmp_path) -> None:
    shops = Shops(tmp_path / "project")
    shops.train(100.0)
    shops.land(40, 10)
    shops.train(0.1, alias="challenger")
    with shops.open() as space:
        table = space.lake.table("gold.sales")
        found = space.evaluate("sales", since="40")
        assert found.seen == "challenger"
        table.append(sales(50, 10))
        found = space.evaluate("sales")
        assert (found.which, found.seen) == ("added in versions 2 to 2", "neither")
        assert found.rows == 110
        # A table that was rewritten does not tell by its log which rows are new.
        whole = table.scan().collect()
        table.append(whole.sample(fraction=1.0, shuffle=True).to_arrow(), overwrite=True)
        found = space.evaluate("sales")
        assert (found.which, found.seen, found.rows) == ("later than 49", "neither", 110)
    shops.declare(0.1, ', key=["shop", "day"]')
    with shops.open() as space:
        found = space.evaluate("sales")
        assert (found.which, found.rows) == ("keys that version 1 did not have", 110)
        for file in table.changes(after=-1, until=1).files:
            Path(file.path).unlink()
        found = space.evaluate("sales")
        assert (found.seen, found.which) == ("both", "the last 20% of each segment by day")
        with pytest.raises(TableError, match=r"Files of gold\.sales version 1 were deleted"):
            space.evaluate("sales", rows="gold.sales@1")


def test_a_classifier_is_compared_by_its_labels(tmp_path) -> None:
    shops = Shops(tmp_path / "project")
    text = """
import shoal
from sklearn.linear_model import LogisticRegression


@shoal.model(table="gold.labels", target="label", by=["shop"], time="day", metric="log_loss")
def sales(c={c}):
    return LogisticRegression(C=c)
"""
    model = shops.root / "models/sales.py"
    with shops.open() as space:
        rows = pl.from_arrow(sales(0, 60, shops=6))
        label = pl.when(pl.col("y") > 0).then(pl.lit("up")).otherwise(pl.lit("down"))
        space.lake.table("gold.labels").append(
            rows.with_columns(label=label).drop("y", "region").to_arrow()
        )
    for c, alias in ((1e-6, "champion"), (10.0, "challenger")):
        model.write_text(text.format(c=c))
        with shops.open() as space:
            (report,) = space.train(["sales"], alias=alias)
            assert report.status == "trained", report.error
    with shops.open() as space:
        found = space.evaluate("sales")
        rows = kept(space, found)
    assert found.metric == "accuracy"
    assert found.values["challenger"] > found.values["champion"]
    assert rows["challenger_value"].is_between(0, 1).all()


def test_one_model_without_segments_by_days(tmp_path) -> None:
    shops = Shops(tmp_path / "project")
    text = """
import shoal
from sklearn.linear_model import LogisticRegression


@shoal.model(table="gold.flags", target="flag", features=["x0", "x1"], time="at", metric="f1")
def sales(c={c}):
    return LogisticRegression(C=c)
"""
    days = pl.lit(dt.date(2026, 1, 1)).cast(pl.Date) + pl.duration(days="day")
    rows = pl.from_arrow(sales(0, 60, shops=3)).with_columns(at=days.cast(pl.Date))
    # Whole numbers that are stored as floats are labels, too.
    rows = rows.with_columns(flag=(pl.col("y") > 0.5).cast(pl.Float64))
    with shops.open() as space:
        space.lake.table("gold.flags").append(rows.drop("region", "shop", "day", "y").to_arrow())
    for c, alias in ((1e-4, "champion"), (10.0, "challenger")):
        (shops.root / "models/sales.py").write_text(text.format(c=c))
        with shops.open() as space:
            (report,) = space.train(["sales"], alias=alias)
            assert report.status == "trained", report.error
    with shops.open() as space:
        found = space.evaluate("sales", since="2026-02-01")
        assert (found.which, sum(found.segments.values())) == ("at >= 2026-02-01", 1)
        assert found.rows == rows.filter(pl.col("at") >= dt.date(2026, 2, 1)).height
        assert found.values["challenger"] > 0.9
        whole = space.evaluate("sales")
        assert whole.which == "the last 20% of each segment by at"
        assert whole.rows == pytest.approx(0.2 * rows.height, abs=2)
        assert kept(space, whole)["segment"].to_list() == ["[]", None]
