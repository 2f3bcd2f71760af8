"""Databricks' names: the old ``dlt`` module, and what it adds to the decorators."""

import sys

import pytest

from shoal.errors import ShoalError
from shoal.pipeline import Kind

OLD = """
import dlt

@dlt.table(comment="as landed", table_properties={"quality": "bronze"})
@dlt.expect_or_drop("has a kind", "kind IS NOT NULL")
def raw():
    return (spark.readStream.format("cloudFiles").option("cloudFiles.format", "json")
            .schema("id BIGINT, kind STRING").load("landing"))

@dlt.view
def big():
    return dlt.read_stream("LIVE.raw").where("id > 1")

@dlt.create_table(name="kept")
def copy():
    return dlt.read_stream("big")

@dlt.table
def counts():
    return dlt.read("raw").groupBy("kind").agg(F.count("*").alias("n"))

@dlt.table
def whole():
    return spark.read.table("LIVE.raw").where(F.col("id") > 0)

dlt.create_streaming_live_table("all", expect_all_or_drop={"small": "id < 100"},
                                expect_all={"odd": "id % 2 = 1"})

@dlt.append_flow(target="all")
def first():
    return dlt.read_stream("raw")

@dlt.append_flow(target="all", name="second")
def more():
    return dlt.read_stream("raw").withColumn("id", F.col("id") + 98)

dlt.create_target_table("users")
dlt.apply_changes(target="users", source="raw", keys=["kind"], sequence_by="id")
"""


def test_the_old_module(project) -> None:
    assert "dlt" not in sys.modules
    project.python(OLD)
    project.land("1.json", [
        {"id": 1, "kind": "a"}, {"id": 2, "kind": "b"}, {"id": 3, "kind": "b"}, {"id": 4},
    ])  # fmt: skip
    with project.open() as space:
        kinds = {name.table: node.dataset.kind for name, node in space.graph.nodes.items()}
    assert kinds == {
        "raw": Kind.STREAMING_TABLE,
        "big": Kind.TEMPORARY_VIEW,
        "kept": Kind.STREAMING_TABLE,
        "counts": Kind.MATERIALIZED_VIEW,
        "whole": Kind.MATERIALIZED_VIEW,
        "all": Kind.STREAMING_TABLE,
        "users": Kind.STREAMING_TABLE,
    }
    found = project.ok()
    assert found["default.raw"].dropped == 1
    assert project.rows("default.kept", "id") == [2, 3]
    assert project.rows("default.counts", "kind", "n") == [("a", 1), ("b", 2)]
    assert project.rows("default.all", "id") == [1, 2, 3, 99]
    assert project.rows("default.users", "kind", "id") == [("a", 1), ("b", 3)]
    assert {r.status for r in project.ok().values()} == {"unchanged"}
    assert "dlt" not in sys.modules


def test_decorators_return_the_function(project) -> None:
    project.python("""
        import dlt

        @dp.materialized_view(name="one")
        def one():
            return spark.sql("SELECT 1 AS x")

        @dp.table
        def two():
            return spark.readStream.schema("id BIGINT").json("landing")

        @dp.view
        def three():
            return one()

        @dlt.table
        def four():
            return three().withColumn("y", F.lit(2))

        assert [f.__name__ for f in (one, two, three, four)] == ["one", "two", "three", "four"]
    """)
    project.land("1.json", [{"id": 1}])
    project.ok()
    assert project.rows("default.four", "x", "y") == [(1, 2)]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ('@dp.table(path="/x")\ndef t(): ...', "'t' has a path"),
        ('@dp.table(row_filter="f")\ndef t(): ...', "the argument row_filter"),
        ('@dp.table(partition_cols="day")\ndef t(): ...', "must be a list of column names"),
        ("@dp.table(name=3)\ndef t(): ...", "name must be text"),
        ('dp.create_streaming_table("t", path="/x")', "'t' has a path"),
        ("dp.view(3)", "decorator was put on int"),
    ],
)
def test_what_is_not_supported_is_refused_with_its_line(project, source, message) -> None:
    project.python(f"\n{source}\n")
    with pytest.raises(ShoalError, match=rf"tables.py:\d+: .*{message}"):
        project.run()
