"""What a refresh reads, writes and leaves alone."""

import datetime as dt

import polars as pl
import pytest
from deltalake import DeltaTable

EVENTS = """
@dp.table(name="bronze.events", comment="as they came")
def events():
    rows = spark.readStream.format("json").schema("id BIGINT, kind STRING, amount DOUBLE")
    return rows.load("landing")
"""
SILVER = """
@dp.table(name="silver.events")
@shoal.expect_or_drop("positive", "amount > 0")
def silver():
    return spark.readStream.table("bronze.events")
"""
GOLD = """
@dp.materialized_view(name="gold.totals")
def totals():
    rows = spark.read.table("silver.events").groupBy("kind")
    return rows.agg(F.sum("amount").alias("total"), F.count("*").alias("n"))
"""


def event(number: int, kind: str = "a", amount: float = 1.0) -> dict:
    return {"id": number, "kind": kind, "amount": amount}


@pytest.fixture
def medallion(project):
    """Three tables in a row, after their first run over three events."""
    project.python(EVENTS + SILVER + GOLD)
    project.land("1.jsonl", [event(1), event(2, "b", -5.0), event(3, "b", 2.5)])
    first = project.ok()
    assert {name: r.rows for name, r in first.items()} == {
        "bronze.events": 3, "silver.events": 2, "gold.totals": 2
    }  # fmt: skip
    return project


def test_a_streaming_table_takes_only_new_files_and_new_versions(medallion) -> None:
    medallion.land("2.jsonl", [event(4, "b", 4.0)])
    second = medallion.ok()
    assert {n: (r.rows, r.files, r.refresh) for n, r in second.items()} == {
        "bronze.events": (1, 1, "incremental"),
        "silver.events": (1, 1, "incremental"),
        "gold.totals": (2, 1, "incremental"),
    }
    assert medallion.rows("silver.events", "id") == [1, 3, 4]
    assert medallion.rows("gold.totals", "kind", "n", "total") == [("a", 1, 1.0), ("b", 2, 6.5)]
    assert medallion.lake.table("bronze.events").comment() == "as they came"


def test_a_second_run_commits_nothing_anywhere(medallion) -> None:
    before = medallion.versions()
    assert "shoal.expectations" in before
    again = medallion.ok()
    assert {r.status for r in again.values()} == {"unchanged"}
    assert {r.rows for r in again.values()} == {0}
    assert medallion.versions() == before


def test_rows_written_by_others_to_a_source_are_streamed_once(project) -> None:
    """A table of the lake that the project does not declare, appended to by several writers."""
    import pyarrow as pa

    outside = project.lake.table("raw.in")
    outside.append(pa.table({"id": [1]}))
    project.python("""
        @dp.table(name="silver.out")
        def out():
            return spark.readStream.table("raw.in")
    """)
    project.ok()
    outside.append(pa.table({"id": [2]}))
    pl.DataFrame({"id": [3]}).write_delta(outside.path, mode="append")
    DeltaTable(outside.path).optimize.compact()
    assert project.ok()["silver.out"].rows == 2
    assert project.rows("silver.out", "id") == [1, 2, 3]


def test_files_whose_writer_gave_no_row_counts_are_streamed(project) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from deltalake import Schema
    from deltalake.transaction import AddAction

    outside = project.lake.table("raw.in")
    rows = pa.table({"id": [1, 2]})
    outside.commit([], rows.schema)
    project.python("""
        @dp.table(name="out")
        def out():
            return spark.readStream.table("raw.in")
    """)
    project.ok()

    def append(name: str) -> None:
        path = f"{outside.path}/{name}"
        pq.write_table(rows, path)
        action = AddAction(name, pq.ParquetFile(path).metadata.serialized_size, {}, 0, True, "")
        opened = DeltaTable(outside.path)
        opened.create_write_transaction([action], "append", Schema.from_arrow(rows.schema))

    append("a.parquet")
    project.ok()
    assert project.rows("out", "id") == [1, 2]
    append("b.parquet")
    project.ok()
    assert project.rows("out", "id") == [1, 1, 2, 2]
    assert project.ok()["default.out"].status == "unchanged"


def test_a_materialized_view_is_recomputed_when_its_definition_changes(medallion) -> None:
    before = medallion.versions()
    medallion.python(EVENTS + SILVER + GOLD.replace('alias("n")', 'alias("m")'))
    changed = medallion.ok()
    assert changed["gold.totals"].reason == "its definition changed"
    assert changed["silver.events"].status == "unchanged"
    assert medallion.lake.table("gold.totals").schema().names == ["kind", "total", "m"]
    after = medallion.versions()
    assert after == before | {"gold.totals": before["gold.totals"] + 1}


def test_comments_and_moved_lines_change_nothing(medallion) -> None:
    before = medallion.versions()
    medallion.python("# moved\n\n" + GOLD + "\n\n# a comment\n" + SILVER + EVENTS)
    assert {r.status for r in medallion.ok().values()} == {"unchanged"}
    assert medallion.versions() == before


def test_a_view_over_files_follows_the_files(project) -> None:
    project.python("""
        @dp.materialized_view(name="ref.names")
        def names():
            return spark.read.schema("id INT, name STRING").option("header", True).csv("landing")
    """)
    project.land("names.csv", "id,name\n1,a\n")
    assert project.ok()["ref.names"].reason == "the table is new"
    assert project.ok()["ref.names"].status == "unchanged"
    project.land("names.csv", "id,name\n1,b\n2,c\n")
    assert project.ok()["ref.names"].reason == "its input files changed"
    assert project.rows("ref.names", "id", "name") == [(1, "b"), (2, "c")]
    (project.root / "landing" / "names.csv").unlink()
    assert project.ok()["ref.names"].rows == 0
    assert project.rows("ref.names", "id") == []


def test_temporary_views_are_seen_through(project) -> None:
    project.python(
        EVENTS
        + """
@dp.temporary_view(name="good")
def good():
    return spark.readStream.table("bronze.events").where("amount > 0")

@dp.temporary_view(name="better")
def better():
    return spark.readStream.table("good").withColumn("double", F.col("amount") * 2)

@dp.table(name="silver.events")
def silver():
    return spark.readStream.table("better")

@dp.temporary_view(name="counted")
def counted():
    return spark.sql("SELECT kind, count(*) AS n FROM silver.events GROUP BY kind")

@dp.materialized_view(name="gold.counted")
def gold():
    return spark.sql("SELECT counted.n, kind FROM counted JOIN good USING (kind)"
                     if False else "SELECT counted.n, kind FROM counted")
"""
    )
    project.land("1.jsonl", [event(1), event(2, "b", -1.0)])
    project.ok()
    project.land("2.jsonl", [event(3, "a", 3.0)])
    assert project.ok()["silver.events"].rows == 1
    assert project.rows("silver.events", "id", "double") == [(1, 2.0), (3, 6.0)]
    assert project.rows("gold.counted", "kind", "n") == [("a", 2)]
    assert sorted(project.versions()) == ["bronze.events", "gold.counted", "silver.events"]
    before = project.versions()
    project.python(
        (project.root / "transformations" / "tables.py").read_text().replace("* 2", "* 3")
    )
    project.ok()
    assert project.versions() == before, "a stream's new definition waits for new rows"


def test_several_flows_append_to_one_table(project) -> None:
    project.python("""
        dp.create_streaming_table("all_events", comment="from everywhere")

        @dp.append_flow(target="all_events")
        def north():
            return spark.readStream.schema("id BIGINT").json("landing/north")

        @dp.append_flow(target="all_events", name="from_the_south")
        def south():
            return spark.readStream.schema("id BIGINT").json("landing/south")
    """)
    project.land("north/1.json", [{"id": 1}])
    project.land("south/1.json", [{"id": 2}, {"id": 3}])
    assert project.ok()["default.all_events"].rows == 3
    project.land("south/2.json", [{"id": 4}])
    assert (project.ok()["default.all_events"].rows, project.ok()["default.all_events"].rows) == (
        1,
        0,
    )
    assert project.rows("all_events", "id") == [1, 2, 3, 4]
    assert project.lake.table("all_events").progress("from_the_south").number == 1
    assert project.lake.table("all_events").comment() == "from everywhere"


def test_flows_whose_types_clash_fail_their_table_only(project) -> None:
    project.python(
        EVENTS
        + """
dp.create_streaming_table("mixed")

@dp.append_flow(target="mixed")
def one():
    return spark.readStream.schema("id BIGINT").json("landing")

@dp.append_flow(target="mixed")
def other():
    return spark.readStream.schema("id STRING").json("landing")
"""
    )
    project.land("1.json", [event(1)])
    found = project.run()
    assert found["bronze.events"].status == "refreshed"
    assert found["default.mixed"].status == "failed"
    assert "id" in found["default.mixed"].error
    assert "default.mixed" not in project.versions()


def test_partitioned_tables_with_awkward_values(project) -> None:
    kinds = ["plain", "two words", "größe", "a/b", "100%", "x=y", None]
    project.python("""
        @dp.table(name="bronze.parts", partition_cols=["kind", "day"])
        @shoal.expect_or_drop("known", "id >= 0")
        def parts():
            return spark.readStream.schema("id BIGINT, kind STRING, day DATE").json("landing")

        @dp.table(name="silver.parts", partition_cols=["kind"])
        def silver():
            return spark.readStream.table("bronze.parts").where("id <> 1")

        @dp.materialized_view(name="gold.parts")
        def gold():
            return spark.read.table("silver.parts").groupBy("kind", "day").agg(F.max("id").alias("id"))
    """)
    days = ["2024-01-01", None]
    rows = [{"id": i, "kind": kind, "day": days[i % 2]} for i, kind in enumerate(kinds)]
    project.land("1.json", [*rows, {"id": -1, "kind": "bad", "day": None}])
    project.ok()
    more = [{**row, "id": row["id"] + 100} for row in rows]
    project.land("2.json", more)
    second = project.ok()
    assert (second["bronze.parts"].rows, second["silver.parts"].rows) == (7, 7)
    expected = [
        (r["id"], r["kind"], r["day"] and dt.date.fromisoformat(r["day"])) for r in rows + more
    ]
    assert project.rows("bronze.parts", "id", "kind", "day") == sorted(expected, key=repr)
    kept = [row for row in expected if row[0] != 1]
    assert project.rows("silver.parts", "id", "kind", "day") == sorted(kept, key=repr)
    assert project.lake.table("bronze.parts").partitions() == ("kind", "day")
    newest = [row for row in kept if row[0] >= 100]
    assert project.rows("gold.parts", "id", "kind", "day") == sorted(newest, key=repr)


@pytest.mark.parametrize(
    ("kind", "value", "read"),
    [
        ("INT", 5, 5),
        ("BOOLEAN", True, True),
        ("DOUBLE", 1.5, 1.5),
        ("DATE", "2024-01-31", dt.date(2024, 1, 31)),
        ("TIMESTAMP", "2024-01-31 10:30:00", dt.datetime(2024, 1, 31, 10, 30, tzinfo=dt.UTC)),
    ],
)
def test_a_null_partition_stays_null_whatever_its_type(project, kind, value, read) -> None:
    project.python(f"""
        @dp.table(name="a", partition_cols=["p"])
        def a():
            return spark.readStream.schema("id INT, p {kind}").json("landing")

        @dp.table(name="b", partition_cols=["p"])
        def b():
            return spark.readStream.table("a")
    """)
    project.land("1.json", [{"id": 1, "p": value}, {"id": 2, "p": None}])
    project.ok()
    project.land("2.json", [{"id": 3, "p": None}, {"id": 4, "p": value}])
    assert project.ok()["default.b"].rows == 2
    for table in ("a", "b"):
        assert project.rows(table, "id", "p") == [(1, read), (2, None), (3, None), (4, read)]


def test_a_partition_column_that_is_not_there_is_an_error(project) -> None:
    project.python("""
        @dp.table(name="t", partition_cols=["knd"])
        def t():
            return spark.readStream.schema("id BIGINT, kind STRING").json("landing")
    """)
    project.land("1.json", [event(1)])
    error = project.run()["default.t"].error
    assert "transformations/tables.py:" in error
    assert "the partition column 'knd' is not among id, kind" in error
    assert project.versions() == {}


def test_declared_columns_are_cast_and_checked(project) -> None:
    source = """
        @dp.table(name="t", schema="id STRING, amount DECIMAL(10, 2)")
        def t():
            return spark.readStream.schema("amount DOUBLE, id BIGINT").json("landing")
    """
    project.python(source)
    project.land("1.json", [event(7, amount=2.5)])
    project.ok()
    table = project.lake.table("t")
    assert [str(field.type) for field in table.schema()] == ["string", "decimal128(10, 2)"]
    assert [str(value) for row in project.rows("t") for value in row] == ["2.50", "7"]
    project.python(source.replace('name="t"', 'name="u"').replace("id STRING", "ident STRING"))
    error = project.run()["default.u"].error
    assert "the query lacks ['ident'] and adds ['id']" in error


def test_table_properties_and_evolving_columns(project) -> None:
    source = """
        @dp.table(name="t", table_properties={"delta.logRetentionDuration": "interval 5 days"})
        def t():
            return spark.readStream.schema("id BIGINT").json("landing")
    """
    project.python(source)
    project.land("1.json", [event(1)])
    project.ok()
    metadata = DeltaTable(project.lake.table("t").path).metadata()
    assert metadata.configuration == {"delta.logRetentionDuration": "interval 5 days"}
    project.python(source.replace("id BIGINT", "id BIGINT, kind STRING"))
    project.land("2.json", [event(2, "b")])
    found = project.ok()["default.t"]
    assert found.notes == (
        "transformations/tables.py:5 changed: only new rows follow the new definition",
    )
    assert project.rows("t", "id", "kind") == [(1, None), (2, "b")]
    project.python(source.replace("id BIGINT", "id STRING"))
    project.land("3.json", [event(3)])
    failed = project.run()["default.t"]
    assert failed.status == "failed"
    assert "shoal run --full-refresh default.t" in failed.error
    assert project.ok(full_refresh=["t"])["default.t"].rows == 3
    assert project.rows("t", "id") == ["1", "2", "3"]


# Full refresh and selection ----------------------------------------------------------------------


def test_a_full_refresh_starts_from_the_files_that_are_there(medallion) -> None:
    medallion.land("2.jsonl", [event(4, "b", 4.0)])
    medallion.ok()
    (medallion.root / "landing" / "1.jsonl").unlink()
    found = medallion.ok(full_refresh_all=True)
    assert {r.reason for r in found.values()} == {"full refresh asked for"}
    assert medallion.rows("silver.events", "id") == [4]
    assert {r.status for r in medallion.ok().values()} == {"unchanged"}
    medallion.land("1.jsonl", [event(1)])  # it was forgotten, so it is new
    assert medallion.ok()["bronze.events"].rows == 1
    assert medallion.rows("silver.events", "id") == [1, 4]


def test_a_full_refresh_of_one_table_leaves_the_others(medallion) -> None:
    before = medallion.versions()
    found = medallion.ok(full_refresh=["silver.events"], select=["silver.events"])
    assert list(found) == ["silver.events"]
    after = medallion.versions()
    assert {name for name in after if after[name] != before[name]} == {
        "silver.events", "shoal.expectations"
    }  # fmt: skip
    assert medallion.rows("silver.events", "id") == [1, 3]


def test_a_stream_whose_source_was_rebuilt_says_what_to_do(medallion) -> None:
    found = medallion.ok(select=["bronze.events"], full_refresh=["bronze.events"])
    assert found["bronze.events"].status == "refreshed"
    found = medallion.run()
    silver = found["silver.events"]
    assert silver.status == "failed"
    assert "had rows changed or removed in version 1" in silver.error
    assert "shoal run --full-refresh silver.events" in silver.error
    assert found["gold.totals"].status == "skipped"
    assert medallion.ok(full_refresh=["silver.events"])["silver.events"].rows == 2
    assert medallion.rows("gold.totals", "kind") == ["a", "b"]


def test_a_stream_whose_source_was_made_anew_says_so(medallion) -> None:
    import shutil

    shutil.rmtree(medallion.lake.table("bronze.events").path)
    found = medallion.run()
    assert found["bronze.events"].reason == "the table is new"
    assert "was made anew since the last run" in found["silver.events"].error


def test_changed_commits_may_be_skipped(project) -> None:
    import pyarrow as pa

    outside = project.lake.table("raw.in")
    outside.append(pa.table({"id": [1, 2]}))
    project.python("""
        @dp.table(name="t")
        def t():
            return spark.readStream.option("skipChangeCommits", "true").table("raw.in")
    """)
    project.ok()
    DeltaTable(outside.path).delete("id = 1")
    outside.append(pa.table({"id": [3]}))
    project.ok()
    assert project.rows("t", "id") == [1, 2, 3]


def test_only_selected_tables_are_refreshed(medallion) -> None:
    medallion.land("2.jsonl", [event(4)])
    before = medallion.versions()
    assert list(medallion.ok(select=["bronze.events"])) == ["bronze.events"]
    after = medallion.versions()
    assert {name for name in after if after[name] != before[name]} == {"bronze.events"}
    assert medallion.ok()["silver.events"].rows == 1


def test_a_selected_table_that_is_not_declared_names_the_nearest(medallion) -> None:
    from shoal.errors import PipelineError

    with pytest.raises(PipelineError, match=r"declares no 'silver\.event'") as error:
        medallion.run(select=["silver.event"])
    assert error.value.hint == "Did you mean 'silver.events'?"
    with pytest.raises(PipelineError, match="--full-refresh-all goes with neither"):
        medallion.run(select=["silver.events"], full_refresh_all=True)


# The plan ----------------------------------------------------------------------------------------


def test_a_plan_is_what_the_run_does(project) -> None:
    project.python(EVENTS + SILVER + GOLD)
    project.land("1.jsonl", [event(1)])

    def same(**options) -> dict:
        before = project.versions()
        planned = project.plan(**options)
        assert project.versions() == before, "a plan changes nothing"
        done = project.ok(**options)
        assert {n: r.refresh for n, r in done.items()} == {n: a for n, (a, _) in planned.items()}
        return planned

    assert {action for action, _ in same().values()} == {"full"}
    assert {action for action, _ in same().values()} == {"none"}
    project.land("2.jsonl", [event(2)])
    assert same() == {
        "bronze.events": ("incremental", "1 new file"),
        "silver.events": ("incremental", "follows bronze.events"),
        "gold.totals": ("incremental", "follows silver.events"),
    }
    project.python(EVENTS + SILVER + GOLD.replace("sum", "max"))
    assert same()["gold.totals"] == ("full", "its definition changed")
    assert same(full_refresh_all=True)["bronze.events"] == ("full", "full refresh asked for")
    assert list(same(select=["gold.totals"])) == ["gold.totals"]


# Failures ----------------------------------------------------------------------------------------


def test_a_failed_table_stops_only_those_that_read_it(project) -> None:
    project.python(
        EVENTS
        + GOLD.replace("silver.events", "silver.bad")
        + """
@dp.table(name="silver.bad")
def bad():
    return spark.readStream.table("bronze.events").withColumn("x", F.raise_error(F.lit("boom")))

@dp.table(name="silver.good")
def good():
    return spark.readStream.table("bronze.events")
"""
    )
    project.land("1.jsonl", [event(1)])
    found = project.run()
    assert {name: r.status for name, r in found.items()} == {
        "bronze.events": "refreshed",
        "silver.bad": "failed",
        "silver.good": "refreshed",
        "gold.totals": "skipped",
    }
    assert "transformations/tables.py:" in found["silver.bad"].error
    assert "boom" in found["silver.bad"].error
    assert found["gold.totals"].error == "'silver.bad' was not refreshed"
    assert sorted(project.versions()) == ["bronze.events", "silver.good"]
    project.python(
        EVENTS
        + GOLD.replace("silver.events", "silver.bad")
        + """
@dp.table(name="silver.bad")
def bad():
    return spark.readStream.table("bronze.events")
"""
    )
    project.ok()
    assert project.rows("gold.totals", "kind", "n") == [("a", 1)]


def test_python_functions_run_in_the_engine(project) -> None:
    """A UDF, with a helper and a constant of its file; changing the constant is a new definition."""
    source = """
        FACTOR = 2

        def helper(x):
            return x * FACTOR

        @F.udf("double")
        def twice(x):
            return helper(x)

        @dp.materialized_view(name="t")
        def t():
            return spark.read.schema("amount DOUBLE").json("landing").select(twice("amount").alias("x"))
    """
    project.python(source)
    project.land("1.json", [event(1, amount=1.5)])
    project.ok()
    assert project.rows("t", "x") == [3.0]
    project.python(source.replace("FACTOR = 2", "FACTOR = 10"))
    assert project.ok()["default.t"].reason == "its definition changed"
    assert project.rows("t", "x") == [15.0]


def test_flows_may_ask_for_the_columns_of_a_pipeline_table(project) -> None:
    project.python(
        EVENTS
        + """
@dp.materialized_view(name="gold.rows")
def rows():
    frame = spark.read.table("bronze.events")
    return frame.mapInArrow(lambda batches: batches, "id BIGINT, kind STRING, amount DOUBLE")
"""
    )
    project.land("1.jsonl", [event(1)])
    project.ok()
