"""Flows written with pandas-on-Spark."""

import numpy as np
import pandas as pd
import pytest

from shoal.errors import PipelineError

pytestmark = pytest.mark.filterwarnings("ignore")  # advice of pandas-on-Spark to its users
SOURCE = """
import pyspark.pandas as ps

@dp.table(name="bronze.sales")
def sales():
    rows = spark.readStream.format("json")
    return rows.schema("id BIGINT, shop STRING, item STRING, amount DOUBLE, at TIMESTAMP").load("landing")

@dp.materialized_view(name="bronze.shops")
def shops():
    return spark.createDataFrame([("a", "Bergen"), ("b", "Oslo")], "shop STRING, town STRING")
"""
SCRIPT = """
def cleaned(sales):
    sales = sales.drop_duplicates(subset=["id"])
    sales = sales.fillna({"amount": 0.0})
    sales["item"] = sales["item"].str.strip().str.lower()
    sales["month"] = sales["at"].dt.strftime("%Y-%m")
    sales["weekday"] = sales["at"].dt.dayofweek
    sales = sales[sales["amount"] >= 0]
    return sales.assign(large=sales["amount"] > 50)

def by_town(lib, sales, shops):
    joined = sales.merge(shops, on="shop", how="left")
    joined["town"] = joined["town"].fillna("unknown")
    doubled = lib.concat([joined, joined[joined["large"]]], ignore_index=True)
    grouped = doubled.groupby(["town", "month"], as_index=False).agg({"amount": "sum", "id": "count"})
    return grouped.rename(columns={"id": "sales"}).sort_values(["town", "month"])

def counts(sales):
    return sales["item"].value_counts().rename("n").rename_axis("item").reset_index()
"""
FLOWS = """
@dp.materialized_view(name="silver.sales")
def silver():
    return cleaned(spark.read.table("bronze.sales").pandas_api())

@dp.materialized_view(name="gold.towns")
def towns():
    return by_town(ps, ps.read_table("silver.sales"), ps.read_table("bronze.shops")).to_spark()

@dp.materialized_view(name="gold.items")
def items():
    return counts(ps.read_table("silver.sales"))

@dp.materialized_view(name="gold.ratios")
def ratios():
    def ratio(amount) -> float:
        return amount / 100
    sales = ps.read_table("silver.sales")
    sales["ratio"] = sales["amount"].apply(ratio)
    return sales[["id", "ratio"]]
"""


def given() -> pd.DataFrame:
    random = np.random.default_rng(1)
    count = 60
    rows = pd.DataFrame(
        {
            "id": range(count),
            "shop": random.choice(list("abc"), count),
            "item": random.choice([" Cup", "cup ", "Plate"], count),
            "amount": random.normal(40, 30, count).round(2),
            "at": pd.date_range("2024-01-01", periods=count, freq="31h"),
        }
    )
    rows.loc[[5, 9], "amount"] = np.nan
    return pd.concat([rows, rows.head(3)], ignore_index=True)


def alike(found: pd.DataFrame, want: pd.DataFrame, by: list[str]) -> None:
    found = found[list(want.columns)].sort_values(by).reset_index(drop=True)
    want = want.sort_values(by).reset_index(drop=True)
    pd.testing.assert_frame_equal(found, want, check_dtype=False)


def test_a_script_of_pandas_on_spark_fills_tables_as_pandas_would(project) -> None:
    project.python(SOURCE + SCRIPT + FLOWS)
    rows = given()
    texts = rows.assign(at=rows["at"].dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
    project.land("1.jsonl", texts.to_json(orient="records", lines=True))
    project.ok()

    names: dict = {}
    exec(SCRIPT, names)  # the same functions, over pandas
    silver = names["cleaned"](rows.copy())
    shops = pd.DataFrame({"shop": ["a", "b"], "town": ["Bergen", "Oslo"]})

    def table(name: str) -> pd.DataFrame:
        return project.lake.table(name).scan().collect().to_pandas()

    alike(table("silver.sales").drop(columns="at"), silver.drop(columns="at"), ["id"])
    alike(table("gold.towns"), names["by_town"](pd, silver, shops), ["town", "month"])
    alike(table("gold.items"), names["counts"](silver), ["item"])
    assert table("gold.ratios")["ratio"].sum() == pytest.approx(silver["amount"].sum() / 100)
    assert {report.refresh for report in project.ok().values()} == {"none"}


def test_a_step_that_needs_rows_is_refused_with_its_line(project) -> None:
    project.python(
        SOURCE
        + """
@dp.materialized_view(name="gold.many")
def many():
    sales = ps.read_table("bronze.sales")
    if len(sales) > 3:
        return sales
    return sales.head(3)
"""
    )
    with (
        pytest.raises(PipelineError, match=r"tables.py:19: it asks for rows"),
        project.open() as space,
    ):
        _ = space.graph


def test_a_function_the_engine_lacks_is_told_before_anything_is_committed(project) -> None:
    project.python(
        SOURCE
        + """
@dp.materialized_view(name="gold.smooth")
def smooth():
    return ps.read_table("bronze.sales")[["amount"]].interpolate()
"""
    )
    with pytest.raises(PipelineError, match="the embedded engine does not have") as caught:
        project.run()
    assert caught.value.message.startswith("transformations/tables.py:16: ")
    assert "to_spark()" in (caught.value.hint or "")
    assert project.versions() == {}
