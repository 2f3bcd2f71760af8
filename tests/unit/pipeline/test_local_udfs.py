"""Functions over pandas and Arrow batches inside Spark flows: batch, and stateless over a stream."""

import pytest

SOURCE = """
@dp.table(name="bronze.events")
def events():
    rows = spark.readStream.format("json").schema("id BIGINT, kind STRING, amount DOUBLE")
    return rows.load("landing")
"""
DOUBLED = """
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql.functions import pandas_udf

FACTOR = 2

def by_pandas(batches):
    for batch in batches:
        yield batch.assign(amount=batch["amount"] * FACTOR)

def by_arrow(batches):
    for batch in batches:
        amounts = pc.multiply(batch.column("amount"), FACTOR)
        yield pa.record_batch([batch.column("id"), amounts], names=["id", "amount"])

@pandas_udf("double")
def twice(amounts: pd.Series) -> pd.Series:
    return amounts * FACTOR
"""
WAYS = {
    "mapInPandas": 'rows.select("id", "amount").mapInPandas(by_pandas, "id BIGINT, amount DOUBLE")',
    "mapInArrow": 'rows.mapInArrow(by_arrow, "id BIGINT, amount DOUBLE")',
    "pandas_udf": 'rows.select("id", twice("amount").alias("amount"))',
    "pandas_udf over text": 'rows.select("id", twice(F.col("amount")).cast("string").alias("amount"))',
}


def land(project, number: int) -> None:
    project.land(f"{number}.jsonl", [{"id": number, "kind": "a", "amount": float(number)}])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["table", "materialized_view"])
def test_a_function_over_batches_runs_in_views_and_over_streams(project, way, kind) -> None:
    reader = "readStream" if kind == "table" else "read"
    project.python(f"""{SOURCE}{DOUBLED}
@dp.{kind}(name="silver.doubled")
def doubled():
    rows = spark.{reader}.table("bronze.events")
    return {WAYS[way]}
""")
    land(project, 1)
    project.ok()
    land(project, 2)
    second = project.ok()
    by_row = kind == "table" or way.startswith("pandas_udf")
    assert second["silver.doubled"].rows == (1 if by_row else 2)
    found = project.rows("silver.doubled", "id", "amount")
    assert [(number, float(amount)) for number, amount in found] == [(1, 2.0), (2, 4.0)]


def test_a_grouped_function_runs_in_a_view(project) -> None:
    project.python(
        SOURCE
        + """
def widest(group):
    return group.nlargest(1, "amount")[["kind", "id"]]

@dp.materialized_view(name="gold.widest")
def gold():
    rows = spark.read.table("bronze.events").groupBy("kind")
    return rows.applyInPandas(widest, "kind STRING, id BIGINT")
"""
    )
    land(project, 1)
    land(project, 2)
    project.ok()
    assert project.rows("gold.widest", "kind", "id") == [("a", 2)]


def test_a_function_that_changes_is_another_definition(project) -> None:
    text = (
        SOURCE
        + """
def by_pandas(batches):
    for batch in batches:
        yield batch.assign(amount=batch["amount"] * 2)

@dp.materialized_view(name="gold.doubled")
def gold():
    return spark.read.table("bronze.events").mapInPandas(by_pandas, "id BIGINT, kind STRING, amount DOUBLE")
"""
    )
    project.python(text)
    land(project, 1)
    project.ok()
    assert project.plan()["gold.doubled"] == ("none", "nothing changed")
    project.python(text.replace("* 2", "* 3"))
    assert project.plan()["gold.doubled"] == ("full", "its definition changed")
    project.ok()
    assert project.rows("gold.doubled", "amount") == [3.0]


def test_a_function_that_fails_is_told_with_its_flow_its_error_and_its_line(project) -> None:
    """Over files, whose columns are known without asking for a pipeline table's."""
    project.python("""
def broken(batches):
    for batch in batches:
        yield batch["nothing"]

@dp.materialized_view(name="gold.broken")
def gold():
    rows = spark.read.schema("id BIGINT").json("landing")
    return rows.mapInPandas(broken, "id BIGINT")
""")
    land(project, 1)
    report = project.run()["gold.broken"]
    assert report.status == "failed"
    assert report.error == "transformations/tables.py:9: KeyError: 'nothing' (tables.py:7)"
    assert not project.lake.table("gold.broken").exists()
