"""What a source file may do while it is loaded: declare, and register functions."""

import pytest

from shoal.errors import ShoalError

VIEW = """
    @dp.materialized_view(name="gold.one")
    def one():
        return spark.range(3)
"""


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('spark.sql("CREATE TABLE t (id int)")', "the statement CREATE"),
        ('spark.sql("INSERT INTO t VALUES (1)")', "the statement INSERT"),
        ('spark.sql("DROP TABLE IF EXISTS t")', "the statement DROP"),
        ('spark.range(3).write.mode("overwrite").parquet("out")', "write_operation"),
        ('spark.range(3).write.saveAsTable("t")', "write_operation"),
        ('spark.range(3).writeTo("t").create()', "write_operation_v2"),
        ("spark.range(3).collect()", "asks for rows"),
        ("spark.range(3).count()", "asks for rows"),
        ("spark.range(3).show()", "asks for rows"),
        ("spark.range(3).toPandas()", "asks for rows"),
        ('spark.conf.set("a", "b")', "SET_RUNTIME_CONF"),
        ('spark.range(3).createOrReplaceTempView("v")', "CREATE_OR_REPLACE_TEMP_VIEW"),
    ],
)
def test_nothing_is_executed_while_sources_load(project, line, found):
    project.python(VIEW + f"\n    {line}\n")
    with pytest.raises(ShoalError, match=r"tables.py:9: ") as error:
        project.plan()
    assert found in error.value.message
    assert not (project.root / "out").exists()
    assert project.versions() == {}


def test_columns_and_lazy_queries_are_no_execution(project):
    project.python(
        """
        numbers = spark.sql("SELECT 1 AS a, 2 AS b")
        names = numbers.columns
        static = spark.createDataFrame([(1, "x")], "id int, name string")

        @dp.materialized_view(name="gold.one")
        def one():
            return numbers.select(*names).crossJoin(static)
        """
    )
    project.ok()
    assert project.rows("gold.one", "a", "b", "id", "name") == [(1, 2, 1, "x")]


def test_a_registered_function_serves_sql_and_is_part_of_the_definition(project):
    text = """
        def more(value):
            return value + {by}

        spark.udf.register("shoal_more", more, "long")
    """
    project.python(text.format(by=1))
    project.sql(
        """
        CREATE MATERIALIZED VIEW a AS SELECT shoal_more(id) AS x FROM range(3);
        CREATE MATERIALIZED VIEW b AS SELECT id AS x FROM range(3);
        """
    )
    project.ok()
    assert project.rows("default.a", "x") == [1, 2, 3]
    assert project.plan()["default.a"][0] == "none"
    project.python(text.format(by=10))
    assert project.plan()["default.a"] == ("full", "its definition changed")
    assert project.plan()["default.b"][0] == "none"
    project.ok()
    assert project.rows("default.a", "x") == [10, 11, 12]
