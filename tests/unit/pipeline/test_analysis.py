"""What flow functions may ask for while the graph is analysed, and what is refused there."""

import pytest

from shoal.errors import PipelineError

EVENTS = """
@dp.table(name="bronze.events")
def events():
    rows = spark.readStream.format("json").schema("id BIGINT, kind STRING, amount DOUBLE")
    return rows.load("landing")
"""


def land(project, number: int, **more) -> None:
    row = {"id": number, "kind": "ab"[number % 2], "amount": float(number), **more}
    project.land(f"{number}.jsonl", [row])


def refused(project) -> PipelineError:
    with pytest.raises(PipelineError) as caught, project.open() as space:
        _ = space.graph
    assert project.versions() == {}
    return caught.value


def view(body: str, name: str = "gold.view") -> str:
    lines = "\n".join(f"    {line}" for line in body.strip().splitlines())
    return f'\n@dp.materialized_view(name="{name}")\ndef {name.rsplit(".", maxsplit=1)[-1]}():\n{lines}\n'


def test_columns_and_types_of_tables_declared_later_are_known(project) -> None:
    project.python(
        view(
            """
rows = spark.read.table("silver.events")
numbers = [f.name for f in rows.schema if f.dataType.typeName() in ("long", "double")]
return rows.select(*(F.col(name).alias(f"{name}_x") for name in numbers))"""
        )
        + view(
            """
rows = spark.read.table("bronze.events")
return rows.select(*rows.columns, (rows["amount"] * 2).alias("double"))""",
            "silver.events",
        )
        + EVENTS
    )
    land(project, 1)
    project.ok()
    assert project.rows("gold.view", "id_x", "amount_x", "double_x") == [(1, 1.0, 2.0)]
    assert project.ok()["gold.view"].refresh == "none"


def test_a_temporary_view_sql_and_a_stream_are_seen_through(project) -> None:
    project.python(
        EVENTS
        + """
@dp.temporary_view
def recent():
    return spark.read.table("bronze.events").withColumn("year", F.lit(2024))
"""
        + view(
            'rows = spark.sql("SELECT * FROM recent WHERE id > 0")\nreturn rows.select(rows.columns)'
        )
        + """
@dp.table(name="silver.stream")
def stream():
    rows = spark.readStream.table("bronze.events")
    return rows.drop(*[c for c in rows.columns if c.startswith("a")])
"""
    )
    land(project, 1)
    project.ok()
    assert project.rows("gold.view") == [(1.0, 1, "b", 2024)]
    assert project.rows("silver.stream") == [(1, "b")]
    land(project, 2)
    assert project.ok()["silver.stream"].rows == 1


def test_flows_into_one_table_are_put_together_and_a_declared_schema_counts(project) -> None:
    project.python(
        EVENTS
        + """
dp.create_streaming_table("silver.both")

@dp.append_flow(target="silver.both")
def first():
    return spark.readStream.table("bronze.events").select("id")

@dp.append_flow(target="silver.both")
def second():
    return spark.readStream.table("bronze.events").select("id", "kind")

@dp.materialized_view(name="silver.typed", schema="id STRING")
def typed():
    return spark.read.table("bronze.events").select("id")

SEEN = {}
"""
        + view(
            """
both, typed = spark.read.table("silver.both"), spark.read.table("silver.typed")
assert both.columns == ["id", "kind"] and typed.schema["id"].dataType.typeName() == "string"
return both.select(both.columns)"""
        )
    )
    land(project, 1)
    project.ok()
    assert len(project.rows("gold.view", "id")) == 2


def test_tables_of_the_lake_and_files_have_columns_too(project) -> None:
    project.python(EVENTS)
    land(project, 1)
    project.ok()
    project.python(
        view('rows = spark.read.table("bronze.events")\nreturn rows.select(rows.columns)')
        + view(
            'rows = spark.read.format("json").load("landing")\nreturn rows.select(rows.columns)',
            "gold.files",
        )
    )
    project.ok()
    assert project.rows("gold.view") == project.rows("gold.files") == [(1.0, 1, "b")]


def test_a_circle_of_tables_that_ask_for_columns_is_told(project) -> None:
    project.python(
        view('rows = spark.read.table("b")\nreturn rows.select(rows.columns)', "a")
        + view('rows = spark.read.table("a")\nreturn rows.select(rows.columns)', "b")
    )
    error = refused(project)
    assert "in a circle" in error.message
    assert "default.a" in error.message
    assert "default.b" in error.message


def test_an_error_is_told_with_the_place_of_the_flow_that_has_it(project) -> None:
    project.python(
        view('rows = spark.read.table("silver.wrong")\nreturn rows.select(rows.columns)')
        + EVENTS
        + view('raise ValueError("broken")', "silver.wrong")
    )
    error = refused(project)
    assert error.message.count("tables.py:") == 1
    assert "tables.py:15: ValueError: broken" in error.message


@pytest.mark.parametrize(
    "ask", ["rows.count()", "rows.collect()", "rows.toPandas()", "rows.show()", "rows.first()"]
)
def test_rows_are_refused_with_the_line_that_asks(project, ask) -> None:
    project.python(EVENTS + view(f'rows = spark.read.table("bronze.events")\n{ask}\nreturn rows'))
    error = refused(project)
    assert "transformations/tables.py:13: " in error.message
    assert "asks for rows" in error.message


def test_a_statement_that_changes_something_is_refused(project) -> None:
    project.python(EVENTS + view('return spark.sql("CREATE TABLE x (id INT) USING parquet")'))
    assert "tables.py:12: " in refused(project).message


def test_a_name_that_does_not_exist_is_told_when_its_columns_are_asked_for(project) -> None:
    project.python(EVENTS + view('return spark.read.table("bronze.event").select("*").toDF("x")'))
    assert "bronze.event" in refused(project).message


OVER_STREAM = {
    "applyInPandas": 'rows.groupBy("kind").applyInPandas(lambda g: g, rows.schema)',
    "aggregation": 'rows.withWatermark("at", "1 hour").groupBy("kind").count()',
    "dropDuplicates": 'rows.dropDuplicates(["id"])',
    "dropDuplicatesWithinWatermark": 'rows.withWatermark("at", "1 hour").dropDuplicatesWithinWatermark(["id"])',
    "applyInPandasWithState": 'rows.groupBy("kind").applyInPandasWithState('
    'lambda k, g, s: g, "id BIGINT", "id BIGINT", "append", "NoTimeout")',
    "join": 'rows.withWatermark("at", "1 hour").join(spark.readStream.table("bronze.other"), "id")',
    "transformWithStateInPandas": 'rows.groupBy("kind").transformWithStateInPandas('
    'Processor(), "id BIGINT", "Append", "None")',
    "transformWithState": 'rows.groupBy("kind").transformWithState('
    'Processor(), "id BIGINT", "Append", "None")',
}


@pytest.mark.parametrize("operator", OVER_STREAM)
def test_operators_that_remember_rows_of_a_stream_are_refused_up_front(project, operator) -> None:
    project.python(
        """
from pyspark.sql.streaming import StatefulProcessor

class Processor(StatefulProcessor):
    def init(self, handle): ...
    def handleInputRows(self, key, rows, timers): ...
    def close(self): ...

@dp.table(name="bronze.events")
def events():
    return spark.readStream.schema("id BIGINT, kind STRING, at TIMESTAMP").json("landing")

@dp.table(name="bronze.other")
def other():
    return spark.readStream.schema("id BIGINT").json("landing")

@dp.table(name="silver.state")
def state():
    rows = spark.readStream.table("bronze.events")
    return """
        + OVER_STREAM[operator]
        + "\n"
    )
    land(project, 1)
    error = refused(project)
    assert "transformations/tables.py:" in error.message
    assert "over a stream" in error.message


def test_sql_that_does_not_parse_is_told_before_anything_is_committed(project) -> None:
    project.python(EVENTS)
    project.sql("CREATE MATERIALIZED VIEW gold.x AS SELECT FROM WHERE id;")
    land(project, 1)
    assert "tables.sql:1" in refused(project).message


@pytest.mark.parametrize(
    "wrong", ['select("nothing")', 'filter("nothing > 1")', 'selectExpr("no_such_function(id)")']
)
def test_a_column_or_function_that_does_not_exist_is_told_before_the_first_commit(
    project, wrong
) -> None:
    project.python(EVENTS + view(f'return spark.read.table("bronze.events").{wrong}'))
    land(project, 1)
    with pytest.raises(PipelineError, match=r"^transformations/tables.py:10: "):
        project.run()
    assert project.versions() == {}


@pytest.mark.parametrize("scd_type", [1, 2])
def test_a_table_that_changes_are_merged_into_has_its_own_columns(project, scd_type) -> None:
    more = ["__START_AT", "__END_AT"] if scd_type == 2 else []
    project.python(
        EVENTS
        + f"""
dp.create_streaming_table("silver.state")
dp.create_auto_cdc_flow(target="silver.state", source="bronze.events", keys=["kind"],
    sequence_by="id", except_column_list=["amount"], stored_as_scd_type={scd_type})
"""
        + view(
            f"""
rows = spark.read.table("silver.state")
assert rows.columns == ["id", "kind", *{more}], rows.columns
return rows.select(rows.columns)"""
        )
    )
    land(project, 1)
    project.ok()
    assert len(project.rows("gold.view", "id")) == 1
