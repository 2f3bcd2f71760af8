"""Tests of pipelines as their authors write them: rows in, tables out, on the real engine."""

import datetime as dt
import subprocess
import sys
import textwrap

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pyspark import pipelines as dp

import shoal
from projects import SmallProject
from shoal.errors import ExpectationFailed, PipelineError, ProjectError, TableError, TableNotFound
from shoal.testing import load, run, session

SOURCE = """
@dp.table(name="bronze.flights", schema="id BIGINT, carrier STRING, dep_delay DOUBLE")
def bronze():
    return spark.readStream.schema("id INT, carrier STRING, dep_delay DOUBLE").json("landing")

@dp.temporary_view(name="departed")
def departed():
    return spark.readStream.table("bronze.flights").where("carrier <> 'XX'")

@dp.table(name="silver.flights")
@shoal.expect_or_drop("departed", "dep_delay IS NOT NULL")
def flights():
    return late(spark.readStream.table("departed"))

@dp.materialized_view(name="gold.carriers")
@shoal.polars("silver.flights")
def carriers(flights):
    return flights.group_by("carrier").agg(n="id").with_columns(n=pl.col("n").list.len())

@dp.materialized_view(name="gold.names")
def names():
    return spark.read.table("silver.flights").join(spark.read.table("bronze.airlines"), "carrier")

@dp.materialized_view(name="bronze.airlines")
def airlines():
    return spark.createDataFrame([("AA", "American")], "carrier STRING, name STRING")

def late(frame):
    return frame.withColumn("late", F.col("dep_delay") > 15)

import polars as pl
"""
FLIGHTS = [
    {"id": 1, "carrier": "AA", "dep_delay": 20.0},
    {"id": 2, "carrier": "AA"},
    {"id": 3, "carrier": "XX", "dep_delay": 1.0},
]


@pytest.fixture
def project(tmp_path):
    made = SmallProject(tmp_path / "project")
    made.python(SOURCE)
    return made


def test_a_project_runs_over_given_rows(project):
    result = run(project.root, {"bronze.flights": FLIGHTS})
    assert result["silver.flights"].rows() == [
        {"id": 1, "carrier": "AA", "dep_delay": 20.0, "late": True}
    ]
    assert result["gold.names"].rows("name", "id") == [{"name": "American", "id": 1}]
    departed = result.expectations["silver.flights"]["departed"]
    assert (departed.passed, departed.failed) == (1, 1)
    assert set(result) == {
        "bronze.airlines", "bronze.flights", "gold.carriers", "gold.names", "silver.flights"
    }  # fmt: skip
    assert not project.storage.exists()


def test_more_rows_are_taken_incrementally_and_earlier_results_stay(project):
    first = run(project.root, {"bronze.flights": FLIGHTS}, select="silver.*")
    second = first.run({"bronze.flights": [{"id": 4, "carrier": "BB", "dep_delay": 0.0}]})
    assert second.refreshes["silver.flights"].action == "incremental"
    assert second.refreshes["silver.flights"].rows == 1
    assert [row["id"] for row in second["silver.flights"].rows()] == [1, 4]
    assert [row["id"] for row in first["silver.flights"].rows()] == [1]
    third = second.run()
    assert third.refreshes["silver.flights"].action == "none"
    assert third.run(full_refresh=["silver.flights"]).refreshes["silver.flights"].rows == 2
    assert "gold.names" not in third


@pytest.mark.parametrize(
    "rows",
    [
        pd.DataFrame({"id": [1, 2], "day": pd.to_datetime(["2026-01-01", None])}, index=[7, 8]),
        pl.DataFrame({"id": [1, 2], "day": [dt.datetime(2026, 1, 1), None]}),
        pa.table({"id": [1, 2], "day": pa.array([dt.datetime(2026, 1, 1), None])}),
        [{"id": 1, "day": dt.datetime(2026, 1, 1)}, {"id": 2}],
        "spark",
    ],
    ids=["pandas", "polars", "arrow", "dicts", "spark"],
)
def test_rows_may_be_any_frame(rows):
    if isinstance(rows, str):
        rows = session().createDataFrame(
            [(1, dt.datetime(2026, 1, 1)), (2, None)], "id BIGINT, day TIMESTAMP_NTZ"
        )

    def tables():
        @dp.materialized_view(name="days")
        def days():
            return session().sql("SELECT id, date_format(day, 'yyyy') AS year FROM given")

    result = run(tables, {"given": rows})
    assert result["days"].rows() == [{"id": 1, "year": "2026"}, {"id": 2, "year": None}]
    assert result["days"].to_pandas()["id"].sum() == 3
    assert result["days"].to_arrow("year").column_names == ["year"]
    assert result["days"].to_polars().height == len(result["days"]) == 2


def test_functions_of_a_loaded_file_are_called_and_run_alone(project):
    tables = load(project.root / "transformations/tables.py")
    frame = tables.late(session().createDataFrame([(16.0,)], "dep_delay DOUBLE"))
    assert frame.collect()[0].late is True
    given = pl.LazyFrame({"carrier": ["AA", "AA"], "id": [1, 2]})
    assert tables.carriers(given).collect().rows() == [("AA", 2)]
    alone = run(tables.carriers, {"silver.flights": [{"id": 1, "carrier": "AA"}]})
    assert alone["gold.carriers"].rows() == [{"carrier": "AA", "n": 1}]
    assert set(alone) == {"silver.flights", "gold.carriers"}
    whole = run(tables, {"bronze.flights": FLIGHTS}, select=["silver.flights"])
    assert len(whole["silver.flights"]) == 1


def test_a_sql_file_runs(tmp_path):
    file = tmp_path / "gold.sql"
    file.write_text("CREATE MATERIALIZED VIEW gold.n AS SELECT count(*) AS n FROM silver.t;")
    empty = session().createDataFrame([], "id INT")
    first = run(file, {"silver.t": empty})
    assert first["gold.n"].rows() == [{"n": 0}]
    assert first.run({"silver.t": pa.table({"id": pa.array([1], pa.int32())})})[
        "gold.n"
    ].rows() == [{"n": 1}]


def test_a_rows_error_is_raised_or_told(project):
    def strict():
        @dp.materialized_view(name="checked")
        @shoal.expect_or_fail("positive", "n > 0")
        def checked():
            return session().table("numbers")

    with pytest.raises(ExpectationFailed, match="1 of 2 rows") as caught:
        run(strict, {"numbers": [{"n": 1}, {"n": -1}]})
    assert caught.value.counts[0].failed == 1
    told = run(strict, {"numbers": [{"n": -1}]}, check=False)
    assert told.refreshes["checked"].error
    assert "checked" not in told


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"bronze.flights": [{"id": 1, "carier": "AA"}]}, "column 'carier'.*id, carrier"),
        ({"bronze.flights": [{"id": "one"}]}, "different types"),
        ({"bronze.flights": [(1, "AA")]}, "rows in a list are dicts"),
        ({"bronze.flights": 3}, "a int; they can be"),
        ({"other": []}, "columns are not known"),
        ({"other": [{"a": None}]}, "always null"),
        ({"other": [{"a": 1}, {"a": "x"}]}, "different types"),
    ],
)
def test_wrong_rows_are_refused(project, inputs, message):
    with pytest.raises(PipelineError, match=message):
        run(project.root, inputs)


def test_wrong_names_are_refused(project, tmp_path):
    def reads_two():
        @dp.materialized_view(name="both")
        def both():
            return session().sql("SELECT * FROM one CROSS JOIN two")

    with pytest.raises(PipelineError, match="reads 'default.two', which is neither") as caught:
        run(reads_two, {"one": [{"a": 1}]})
    assert "inputs=" in str(caught.value.hint)
    with pytest.raises(PipelineError, match="nothing in the sources reads") as caught:
        run(project.root, {"silver.flight": [{"a": 1}]})
    assert "'silver.flights'" in str(caught.value.hint)
    with pytest.raises(PipelineError, match="declares no 'silver.flight'"):
        run(project.root, {"bronze.flights": FLIGHTS}, select="silver.flight")
    result = run(project.root, {"bronze.flights": FLIGHTS}, select="silver.flights")
    with pytest.raises(TableNotFound, match="had no table 'silver.flight'") as caught:
        _ = result["silver.flight"]
    assert "silver.flights" in str(caught.value.hint)
    with pytest.raises(TableNotFound, match="no column 'carier'"):
        result["silver.flights"].rows("carier")
    with pytest.raises(PipelineError, match="not among the inputs"):
        result.run({"bronze.airlines": [{"carrier": "AA"}]})
    with pytest.raises(TableError, match="refused the rows"):
        run(reads_two, {"one": [{"a": 1}], "two": [{"b": 1}]}).run({"one": [{"a": "x"}]})
    with pytest.raises(ProjectError, match="no file or folder"):
        run(tmp_path / "nowhere")
    with pytest.raises(ProjectError, match=r"no spark-pipeline\.yml"):
        run(tmp_path)
    with pytest.raises(ProjectError, match="is no source file"):
        load(project.root / "spark-pipeline.yml")


def test_a_users_test_file_runs_under_pytest(project):
    (project.root / "tests").mkdir()
    (project.root / "tests/test_flights.py").write_text(
        textwrap.dedent("""
        import pytest
        from shoal.testing import load, run, session

        @pytest.fixture
        def spark():
            return session()

        def test_late(spark):
            late = load("transformations/tables.py").late
            frame = spark.createDataFrame([(1.0,), (16.0,)], "dep_delay DOUBLE")
            assert [row.late for row in late(frame).collect()] == [False, True]

        def test_flights_that_did_not_depart_are_dropped():
            result = run(".", {"bronze.flights": [{"id": 1, "carrier": "AA"}]})
            assert result["silver.flights"].rows() == []

        def test_that_fails():
            result = run(".", {"bronze.flights": [{"id": 1, "carrier": "AA", "dep_delay": 0.0}]})
            assert result["silver.flights"].rows("id") == [{"id": 2}]
        """)
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"],
        cwd=project.root,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "1 failed, 2 passed" in done.stdout, done.stdout + done.stderr
    assert "{'id': 1} != {'id': 2}" in done.stdout
    assert not done.stderr
