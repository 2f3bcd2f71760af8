"""Flows that are plain functions of Polars, Arrow and pandas tables."""

import datetime as dt
import decimal

import polars as pl
import pyarrow as pa
import pytest

import shoal
from shoal.errors import PipelineError

EVENTS = """
import polars as pl
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

@dp.table(name="bronze.events")
def events():
    rows = spark.readStream.format("json").schema("id BIGINT, kind STRING, amount DOUBLE")
    return rows.load("landing")
"""
TOTALS = {
    "polars": 'return events.group_by("kind").agg(pl.sum("amount").alias("total"))',
    "polars, eager": 'return events.collect().group_by("kind").agg(pl.sum("amount").alias("total"))',
    "arrow": """
    grouped = events.group_by("kind").aggregate([("amount", "sum")])
    return grouped.rename_columns(["kind", "total"])""",
    "arrow, as batches": """
    grouped = events.group_by("kind").aggregate([("amount", "sum")])
    return grouped.rename_columns(["kind", "total"]).to_reader(max_chunksize=1)""",
    "pandas": 'return events.groupby("kind", as_index=False).agg(total=("amount", "sum"))',
}


def land(project, *numbers: int) -> None:
    rows = [{"id": n, "kind": "ab"[n % 2], "amount": float(n)} for n in numbers]
    project.land(f"{numbers[0]}.jsonl", rows)


def failed(project, table: str) -> str:
    report = project.run()[table]
    assert report.status == "failed"
    assert not project.lake.table(table).exists()
    return report.error


@pytest.mark.parametrize("way", TOTALS)
def test_a_view_follows_its_inputs_and_its_code(project, way) -> None:
    text = f"""{EVENTS}
@dp.materialized_view(name="gold.totals", comment="by kind")
@shoal.{way.partition(",")[0]}("bronze.events")
def totals(events):
    {TOTALS[way]}
"""
    project.python(text)
    land(project, 1, 2)
    assert project.ok()["gold.totals"].refresh == "full"
    assert project.rows("gold.totals", "kind", "total") == [("a", 2.0), ("b", 1.0)]
    assert project.plan()["gold.totals"] == ("none", "nothing changed")
    land(project, 4)
    project.ok()
    assert project.rows("gold.totals", "kind", "total") == [("a", 6.0), ("b", 1.0)]
    assert project.lake.table("gold.totals").comment() == "by kind"
    project.python(text.replace('"total"', '"sum"').replace("total=", "sum="))
    assert project.plan()["gold.totals"] == ("full", "its definition changed")
    project.ok()
    assert project.rows("gold.totals", "sum") == [1.0, 6.0]


@pytest.mark.parametrize(
    ("language", "positive"),
    [
        ("polars", 'new.filter(pl.col("amount") > 0)'),
        ("arrow", 'new.filter(pc.greater(new["amount"], 0))'),
        ("pandas", 'new[new["amount"] > 0]'),
    ],
)
def test_a_streaming_table_gets_only_the_new_rows(project, language, positive) -> None:
    project.python(f"""{EVENTS}
@dp.table(name="silver.positive", partition_cols=["kind"])
@shoal.{language}(shoal.stream("bronze.events"))
@shoal.expect_or_drop("small", "amount < 10")
def positive(new):
    return {positive}
""")
    land(project, 1, 2, 11)
    first = project.ok()["silver.positive"]
    assert (first.rows, first.dropped) == (2, 1)
    land(project, 3, -4)
    second = project.ok()["silver.positive"]
    assert (second.rows, second.refresh) == (1, "incremental")
    assert project.rows("silver.positive", "id") == [1, 2, 3]
    assert project.ok()["silver.positive"].status == "unchanged"
    project.ok(full_refresh=["silver.positive"])
    assert project.rows("silver.positive", "id") == [1, 2, 3]


def test_inputs_come_by_position_and_name_also_from_views_and_foreign_tables(project) -> None:
    project.lake.table("raw.names").append(pa.table({"kind": ["a"], "name": ["Alpha"]}))
    project.python(
        EVENTS
        + """
@dp.temporary_view
def large():
    return spark.read.table("bronze.events").where("amount > 1")

@dp.materialized_view(name="gold.joined")
@shoal.polars("large", names="raw.names")
def joined(rows, *, names):
    return rows.join(names, on="kind", how="inner")

@dp.table(name="silver.named")
@shoal.pandas(shoal.stream("bronze.events"), "raw.names")
def named(new, names):
    return new.merge(names, on="kind")
"""
    )
    land(project, 1, 2)
    project.ok()
    assert project.rows("gold.joined", "id", "name") == [(2, "Alpha")]
    land(project, 4, 5)
    project.ok()
    assert project.rows("gold.joined", "id") == [2, 4]
    assert project.rows("silver.named", "id") == [2, 4]


def test_a_stream_reaches_a_function_through_a_view(project) -> None:
    project.python(
        EVENTS
        + """
@dp.temporary_view
def large():
    return spark.readStream.table("bronze.events").where("amount > 1")

@dp.table(name="silver.large")
@shoal.polars("large")
def stored(rows):
    return rows
"""
    )
    land(project, 1, 2)
    project.ok()
    land(project, 3)
    assert project.ok()["silver.large"].rows == 1
    assert project.rows("silver.large", "id") == [2, 3]


def test_a_function_without_inputs_runs_once(project) -> None:
    project.python("""
import polars as pl
@dp.materialized_view(name="silver.days")
@shoal.polars()
def days():
    return pl.LazyFrame({"day": [1, 2]})
""")
    project.ok()
    assert project.rows("silver.days", "day") == [1, 2]
    assert project.plan()["silver.days"] == ("none", "nothing changed")


def test_the_declared_function_is_still_the_function() -> None:
    @shoal.polars("silver.flights")
    def late(flights):
        return flights.filter(pl.col("delay") > 15)

    found = late(pl.LazyFrame({"delay": [10, 20]})).collect()
    assert found["delay"].to_list() == [20]


VALUES = {
    "b": pa.array([True, None]),
    "tiny": pa.array([-128, None], pa.int8()),
    "small": pa.array([1, None], pa.int16()),
    "i": pa.array([2**31 - 1, None], pa.int32()),
    "l": pa.array([2**63 - 1, None]),
    "f": pa.array([1.5, None], pa.float32()),
    "d": pa.array([float("inf"), None]),
    "s": pa.array(["é\n", None]),
    "raw": pa.array([b"\0x", None]),
    "day": pa.array([dt.date(1969, 7, 20), None]),
    "at": pa.array([dt.datetime(2024, 1, 2, 3, 4, 5, 6, dt.UTC), None], pa.timestamp("us", "UTC")),
    "clock": pa.array([dt.datetime(2024, 1, 2, 3, 4, 5, 6), None], pa.timestamp("us")),
    "money": pa.array([decimal.Decimal("12345678901234567890.123"), None], pa.decimal128(38, 3)),
    "many": pa.array([[1, None], None], pa.list_(pa.int64())),
    "deep": pa.array([{"a": 1, "b": ["x"]}, None], pa.struct({"a": pa.int64(), "b": pa.list_(pa.string())})),
}  # fmt: skip


@pytest.mark.parametrize("language", ["polars", "arrow", "pandas"])
def test_every_type_of_a_table_goes_through_a_function_unchanged(project, language) -> None:
    project.lake.table("raw.all").append(pa.table(VALUES))
    project.python(f"""
@dp.materialized_view(name="gold.all")
@shoal.{language}("raw.all")
def same(rows):
    return rows
""")
    project.ok()
    before, after = project.lake.table("raw.all"), project.lake.table("gold.all")
    assert pa.schema(after.schema()).equals(pa.schema(before.schema()))
    assert after.scan().collect().equals(before.scan().collect())


def test_types_that_delta_lacks_become_their_like_or_are_refused_by_name(project) -> None:
    project.python("""
import polars as pl, datetime as dt
@dp.materialized_view(name="gold.like")
@shoal.polars()
def like():
    return pl.DataFrame({
        "category": pl.Series(["x", None], dtype=pl.Categorical),
        "enum": pl.Series(["x", None], dtype=pl.Enum(["x"])),
        "unsigned": pl.Series([255, None], dtype=pl.UInt8),
        "nothing": [None, None],
        "pair": pl.Series([[1, 2], None], dtype=pl.Array(pl.Int64, 2)),
        "inside": pl.Series([{"c": "x"}, None], dtype=pl.Struct({"c": pl.Categorical})),
        "at": pl.Series([dt.datetime(2024, 7, 1, 12), None]).dt.replace_time_zone("Europe/Berlin"),
        "ns": pl.Series([dt.datetime(2024, 7, 1, 12), None]).dt.cast_time_unit("ns"),
    })
""")
    project.ok()
    found = project.lake.table("gold.like").scan().collect().row(0, named=True)
    assert found == {
        "category": "x", "enum": "x", "unsigned": 255, "nothing": None, "pair": [1, 2],
        "inside": {"c": "x"}, "at": dt.datetime(2024, 7, 1, 10, tzinfo=dt.UTC),
        "ns": dt.datetime(2024, 7, 1, 12),
    }  # fmt: skip


REFUSED = {
    "a Polars duration": ("polars", 'pl.DataFrame({"x": [dt.timedelta(1)]})', "'x' is of the type Duration"),
    "a Polars time": ("polars", 'pl.DataFrame({"x": [dt.time(1)]})', "'x' is of the type Time"),
    "an Arrow time": ("arrow", 'pa.table({"x": [dt.time(1)]})', "'x' is of the type time64"),
    "a pandas duration": ("pandas", 'pd.DataFrame({"x": [pd.Timedelta(1)]})', "'x' is of the type duration"),
    "mixed objects": ("pandas", 'pd.DataFrame({"x": [1, "a"]})', "column x"),
    "an index": ("pandas", 'pd.DataFrame({"x": [1]}, index=pd.Index([1], name="kind"))', "has the index kind"),
    "a number's name": ("pandas", "pd.DataFrame({1: [1]})", "the name 1"),
    "names by case": ("arrow", 'pa.table({"x": [1], "X": [2]})', "column 'x' twice"),
    "no columns": ("polars", "pl.DataFrame()", "no columns"),
    "another library's": ("polars", 'pd.DataFrame({"x": [1]})', "returned pandas's DataFrame"),
    "nothing": ("arrow", "None", "returned nothing"),
    "too large": ("arrow", 'pa.table({"x": pa.array([2**64 - 1], pa.uint64())})', "'x' (uint64) does not fit"),
    "an error": ("pandas", '{}["missing"]', "KeyError: 'missing' (tables.py:10)"),
    "an error while it is written": ("polars", 'pl.LazyFrame({"x": ["a"]}).cast(pl.Int64)', "conversion"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_table_can_hold_is_refused(project, case) -> None:
    language, result, said = REFUSED[case]
    project.python(f"""
import datetime as dt
import pandas as pd, polars as pl, pyarrow as pa
@dp.materialized_view(name="gold.wrong")
@shoal.{language}()
def wrong():
    return {result}
""")
    error = failed(project, "gold.wrong")
    assert error.startswith("transformations/tables.py:")
    assert said in error


MISTAKES = {
    "an unknown table": ('@dp.materialized_view\n@shoal.polars("bronze.event")', "bronze.events"),
    "no names": ("@dp.materialized_view\n@shoal.polars", "takes names of tables"),
    "too few": ("@dp.materialized_view\n@shoal.polars()", "missing a required argument"),
    "another name": ('@dp.materialized_view\n@shoal.pandas(event="bronze.events")', "missing a required argument"),
    "above": ('@shoal.arrow("bronze.events")\n@dp.materialized_view', "stands above"),
    "a streamed view": ('@dp.materialized_view\n@shoal.polars(shoal.stream("bronze.events"))', "reads a stream"),
    "a table without stream": ('@dp.table\n@shoal.polars("bronze.events")', "reads no stream"),
    "itself": ('@dp.materialized_view(name="bronze.x")\n@shoal.polars("bronze.x")', "reads itself"),
    "a temporary view": ('@dp.temporary_view\n@shoal.polars("bronze.events")', "temporary view"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_found_before_anything_runs(project, case) -> None:
    decorators, said = MISTAKES[case]
    project.python(f"{EVENTS}\n{decorators}\ndef wrong(events):\n    return events\n")
    with pytest.raises(PipelineError) as error, project.open() as space:
        space.graph  # noqa: B018
    assert "transformations/tables.py:" in str(error.value)
    assert said in str(error.value)


def test_one_table_cannot_be_streamed_and_read_whole_by_one_name() -> None:
    with pytest.raises(PipelineError, match="both streams 'a.b' and reads it whole"):
        shoal.polars("a.b", shoal.stream("a.b"))


def test_several_functions_fill_one_streaming_table(project) -> None:
    project.python(
        EVENTS
        + """
dp.create_streaming_table("silver.both")

@dp.append_flow(target="silver.both", name="low")
@shoal.polars(shoal.stream("bronze.events"))
def low(new):
    return new.filter(pl.col("amount") < 2).select("id", side=pl.lit("low"))

@dp.append_flow(target="silver.both", name="high")
@shoal.arrow(shoal.stream("bronze.events"))
def high(new):
    ids = new.filter(pc.greater_equal(new["amount"], 2))["id"]
    return pa.table({"id": ids, "side": ["high"] * len(ids)})
"""
    )
    land(project, 1, 2)
    project.ok()
    land(project, 3)
    project.ok()
    assert project.rows("silver.both", "id", "side") == [(1, "low"), (2, "high"), (3, "high")]


def test_a_function_that_fails_leaves_the_table_at_its_version(project) -> None:
    text = (
        EVENTS
        + """
@dp.table(name="silver.checked")
@shoal.pandas(shoal.stream("bronze.events"))
def checked(new):
    if (new["amount"] < 0).any():
        raise ValueError("a negative amount")
    return new
"""
    )
    project.python(text)
    land(project, 1)
    project.ok()
    version = project.versions()["silver.checked"]
    land(project, -2)
    assert "ValueError: a negative amount (tables.py:" in project.run()["silver.checked"].error
    assert project.versions()["silver.checked"] == version
    project.python(
        text.replace('raise ValueError("a negative amount")', 'new = new[new["amount"] > 0]')
    )
    land(project, 3)
    project.ok()
    assert project.rows("silver.checked", "id") == [1, 3]
