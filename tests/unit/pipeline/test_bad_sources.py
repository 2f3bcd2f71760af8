"""Declarations that are wrong: refused before anything runs, with their place in the sources."""

import os
import sys

import pytest
from pyspark import pipelines

from shoal.errors import PipelineError, ProjectError, ShoalError

VIEW = """
@dp.materialized_view(name="{name}")
def {function}():
    return spark.read.table("{source}")
"""
STREAM = 'spark.readStream.schema("id INT, k STRING").json("landing")'
TABLE = 'spark.read.schema("id INT, k STRING").json("landing")'


def refused(project, source: str) -> ShoalError:
    project.python(source)
    with pytest.raises(ShoalError) as error:
        project.run()
    assert project.versions() == {}
    return error.value


def test_a_cycle_names_every_place(project) -> None:
    ring = [("a", "b"), ("b", "c"), ("c", "a")]
    source = "".join(VIEW.format(name=n, function=n, source=s) for n, s in ring)
    error = refused(project, source)
    assert "read each other in a circle: " in str(error)
    assert all(f"default.{name} (transformations/tables.py:" in error.hint for name in "abc")


def test_two_definitions_in_two_files_name_both_places(project) -> None:
    project.sql("CREATE MATERIALIZED VIEW A AS SELECT 1 AS x;", "other.sql")
    error = refused(project, VIEW.format(name="a", function="a", source="b"))
    assert "'default.a' is declared twice" in str(error)
    assert "transformations/tables.py:5" in str(error)
    assert "transformations/other.sql:1" in str(error)


@pytest.mark.parametrize("name", ["../x", "a/b", "a.b.c.d", "prod.a.b"])
def test_a_name_that_no_table_can_have_names_its_place(project, name) -> None:
    error = refused(project, VIEW.format(name=name, function="a", source="b"))
    assert str(error).startswith("transformations/tables.py:5: ")
    assert repr(name) in str(error)
    error = refused(project, VIEW.format(name="a", function="a", source=name))
    assert str(error).startswith("transformations/tables.py:5: ")
    assert repr(name) in str(error)
    assert not (project.root / "x").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1 / 0", "transformations/tables.py:5: ZeroDivisionError: division by zero"),
        ("def broken(:", "transformations/tables.py:5: SyntaxError"),
        ("import nowhere_to_be_found", "transformations/tables.py:5: ModuleNotFoundError"),
        ("def f():\n    raise ValueError('deep')\n\nf()", "tables.py:6: ValueError: deep"),
        ("spark.conf.set('a', 'b')", "transformations/tables.py:5: "),
        ("import json\njson.loads('{')", "transformations/tables.py:6: JSONDecodeError"),
    ],
)
def test_a_source_that_raises_names_its_line(project, source, message) -> None:
    error = refused(project, "\n" + source)
    assert isinstance(error, ProjectError)
    assert message in str(error)


def test_a_flow_that_raises_or_returns_no_dataframe_names_its_place(project) -> None:
    error = refused(project, '\n@dp.table(name="t")\ndef t():\n    raise KeyError("nothing")\n')
    assert str(error).startswith("transformations/tables.py:5: KeyError: 'nothing'")
    error = refused(project, '\n@dp.table(name="t")\ndef t():\n    return 3\n')
    assert str(error).startswith("transformations/tables.py:5: ")
    assert "must return a Spark DataFrame; it returned int" in str(error)


@pytest.mark.parametrize(
    ("kind", "query", "message"),
    [
        ("materialized_view", STREAM, "the materialized view 'default.t' reads a stream"),
        ("table", TABLE, "the streaming table 'default.t' reads no stream"),
        ("table", f"{STREAM}.groupBy('k').count()", "has an aggregation over a stream"),
        ("table", f"{STREAM}.dropDuplicates(['k'])", "has dropDuplicates over a stream"),
        ("table", f"{STREAM}.orderBy('k')", "has a sort over a stream"),
        ("table", f"{STREAM}.limit(2)", "has limit over a stream"),
        ("table", f"{STREAM}.join({STREAM}, 'id')", "has a join of two streams"),
        ("table", f"{TABLE}.join({STREAM}, 'id', 'left')", "has a left join to a stream"),
        ("table", f"{STREAM}.select(F.max('id').alias('m'))", "has an aggregation over a stream"),
    ],
)
def test_what_does_not_fit_the_kind_is_refused_with_its_place(
    project, kind, query, message
) -> None:
    error = refused(project, f'\n@dp.{kind}(name="t")\ndef t():\n    return {query}\n')
    assert isinstance(error, PipelineError)
    assert str(error).startswith("transformations/tables.py:5: ")
    assert message in str(error)


def test_an_aggregation_over_a_stream_is_seen_through_views(project) -> None:
    error = refused(
        project,
        f"""
        @dp.temporary_view(name="v")
        def v():
            return {STREAM}

        @dp.table(name="t")
        def t():
            return spark.read.table("v").groupBy("k").count()
        """,
    )
    assert "transformations/tables.py:9: 'default.t' has an aggregation over a stream" in str(error)


def test_a_flow_into_nowhere_names_the_nearest(project) -> None:
    error = refused(
        project,
        f"""
        dp.create_streaming_table("events")

        @dp.append_flow(target="evnts")
        def f():
            return {STREAM}
        """,
    )
    assert "transformations/tables.py:7: flow 'f' writes into 'default.evnts'" in str(error)
    assert error.hint == "Did you mean 'default.events'?"


def test_what_is_not_supported_says_so(project) -> None:
    error = refused(
        project,
        """
        @dp.table(name="t", format="parquet")
        def t():
            return spark.read.table("x")
        """,
    )
    assert "asks for the format 'parquet'" in str(error)


def test_loading_sources_leaves_the_process_as_it_was(project) -> None:
    before = (os.getcwd(), list(sys.path), set(dir(pipelines)))
    refused(project, "\nraise ValueError('x')\n")
    project.python(f'\n@dp.table(name="t")\ndef t():\n    return {STREAM}\n')
    project.ok()
    assert (os.getcwd(), list(sys.path), set(dir(pipelines))) == before
