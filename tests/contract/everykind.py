"""One project with every kind of table, flow and source, and its landing files in two parts."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa

from projects import SmallProject
from shoal.engines import Engine
from shoal.lake import Lake

PYTHON = """
from pyspark.sql import Window

@dp.table(name="bronze.sales", partition_cols=["shop"], comment="as landed")
@dp.expect("cheap", "price < 100")
@dp.expect_or_drop("sold", "n > 0")
def sales():
    rows = spark.readStream.format("json").schema(
        "id BIGINT, shop STRING, n INT, price DECIMAL(10,2), at TIMESTAMP, day DATE, open BOOLEAN, "
        "rate DOUBLE, tags ARRAY<STRING>, place STRUCT<x: DOUBLE, name: STRING>, "
        "_corrupt_record STRING"
    ).option("columnNameOfCorruptRecord", "_corrupt_record").load("landing/sales")
    return rows.withColumn("file", F.col("_metadata.file_name"))

@dp.table(name="bronze.loaded")
def loaded():
    return (spark.readStream.format("cloudFiles").option("cloudFiles.format", "json")
            .option("cloudFiles.inferColumnTypes", "true").load("landing/loaded"))

@dp.materialized_view(name="bronze.products")
def products():
    return spark.read.format("csv").schema("shop STRING, city STRING, since DATE").option(
        "header", True).load("landing/shops.csv")

@dp.materialized_view(name="bronze.by_day")
def by_day():
    return spark.read.format("parquet").load("landing/days")

@dp.table(name="silver.sales")
def silver_sales():
    rows = spark.readStream.table("bronze.sales")
    return rows.select(
        "id", "shop", "n", "price", (F.col("n") * F.col("price")).alias("amount"), "at", "day",
        "open", "rate", F.hour("at").alias("hour"), F.dayofweek("day").alias("weekday"),
        F.date_format("at", "yyyy-MM-dd HH:mm").alias("text"), F.size("tags").alias("tags"),
        F.col("place.name").alias("place"), F.expr("try_cast(rate AS INT)").alias("whole"),
        F.col("at").cast("date").alias("on"), F.lower(F.trim("shop")).alias("trimmed"),
    )

@dp.temporary_view(name="open_sales")
def open_sales():
    return spark.read.table("silver.sales").where("open")

@dp.materialized_view(name="gold.shops")
def shops():
    sales = spark.read.table("open_sales")
    return sales.join(spark.read.table("bronze.products"), "shop", "left").groupBy("shop", "city").agg(
        F.count("*").alias("sales"), F.sum("n").alias("pieces"), F.sum("amount").alias("amount"),
        F.avg("n").alias("mean"), F.min("at").alias("first"), F.max("day").alias("last"))

@dp.materialized_view(name="gold.ranked")
def ranked():
    order = Window.partitionBy("shop").orderBy(F.desc("amount"), "id")
    return (spark.read.table("silver.sales").withColumn("place", F.row_number().over(order))
            .where("place <= 2").drop("text"))

def doubled(batches):
    import pyarrow as pa
    import pyarrow.compute as pc

    for batch in batches:
        yield pa.RecordBatch.from_pydict(
            {"id": batch.column("id"), "twice": pc.multiply(batch.column("n"), pa.scalar(2, pa.int32()))})

@dp.materialized_view(name="gold.by_arrow")
def by_arrow():
    rows = spark.read.table("silver.sales").select("id", "n")
    return rows.mapInArrow(doubled, "id BIGINT, twice INT")

@F.pandas_udf("double")
def halved(values):
    return values / 2

@dp.materialized_view(name="gold.by_pandas")
def by_pandas():
    return spark.read.table("silver.sales").select("id", halved(F.col("n")).alias("half"))

@dp.materialized_view(name="gold.in_polars")
@shoal.polars("silver.sales")
def in_polars(sales):
    return sales.group_by("shop").agg(__import__("polars").col("n").sum().alias("n"))

dp.create_streaming_table("silver.all")

@dp.append_flow(target="silver.all", name="one")
def one():
    return spark.readStream.table("bronze.sales").select("id", "shop")

@dp.append_flow(target="silver.all", name="two")
def two():
    return spark.readStream.table("bronze.loaded").select(F.col("id").cast("bigint").alias("id"), F.lit("x").alias("shop"))

@dp.append_flow(target="silver.all", once=True)
def backfill():
    return spark.range(100, 103).select("id", F.lit("old").alias("shop"))

@dp.table(name="bronze.changes")
def changes():
    return spark.readStream.format("json").schema(
        "id int, seq int, op string, name string, city string").load("landing/changes")

for kind in (1, 2):
    dp.create_streaming_table(f"silver.people{kind}")
    dp.create_auto_cdc_flow(
        target=f"silver.people{kind}", source="bronze.changes", keys=["id"], sequence_by="seq",
        apply_as_deletes="op = 'D'", except_column_list=["op", "seq"], stored_as_scd_type=kind)
"""
SQL = """
CREATE STREAMING TABLE silver.cities (
  CONSTRAINT known EXPECT (city IS NOT NULL) ON VIOLATION DROP ROW
) AS SELECT id, city, upper(name) AS name FROM STREAM(bronze.changes);

CREATE MATERIALIZED VIEW gold.days AS
WITH per_day AS (SELECT day, shop, count(*) AS n, sum(amount) AS amount, max(rate) AS top
                 FROM silver.sales GROUP BY day, shop)
SELECT day, count(shop) AS shops, sum(n) AS n, sum(amount) AS amount, max(top) AS top
FROM per_day GROUP BY day HAVING count(shop) >= 0;
"""
TABLES = (
    "bronze.by_day", "bronze.changes", "bronze.loaded", "bronze.products", "bronze.sales",
    "gold.by_arrow", "gold.by_pandas", "gold.days", "gold.in_polars", "gold.ranked", "gold.shops",
    "silver.all", "silver.cities", "silver.people1", "silver.people2", "silver.sales",
)  # fmt: skip


def sale(number: int, **changes: object) -> dict[str, object]:
    """A sale; some of its values are null."""
    shop = ["a", "b ", "Ü", None][number % 4]
    zone = ["Z", "+02:00", "-05:30"][number % 3]
    return {
        "id": number,
        "shop": shop,
        "n": number % 7,
        "price": f"{number}.{number % 100:02}",
        "at": f"2026-03-29T0{number % 10}:30:00.123456{zone}",
        "day": f"2026-0{1 + number % 3}-28",
        "open": [True, False, None][number % 3],
        "rate": [0.1, -2.5, None, 1e300, 3.99][number % 5],
        "tags": [["x", None], [], None][number % 3],
        "place": {"x": number / 3, "name": f"p{number}"} if number % 4 else None,
    } | changes


def make(root: Path, engine: Engine) -> SmallProject:
    """The project, with the first part of its files."""
    project = SmallProject(root, engine)
    project.python(PYTHON)
    project.sql(SQL)
    project.land("sales/1.json", [sale(i) for i in range(40)])
    project.land("sales/odd [1]%20.json", '{"id": 40, "n": 1}\n{"id": broken\n')
    project.land("loaded/1.json", [{"id": 1, "a": 1.5, "b": {"c": "x"}}, {"id": 2, "a": None}])
    project.land("shops.csv", "shop,city,since\na,Köln,2020-01-01\nÜ,,\n")
    days = Lake(root / "other").table("x.days")
    days.append(
        pa.table({"day": [dt.date(2026, 1, 1), None], "v": pa.array([1, None], pa.int16())})
    )
    for file in Path(days.path).glob("*.parquet"):
        project.land(f"days/{file.name}", file.read_bytes())
    project.land("changes/1.json", changes(range(30)))
    return project


def land_more(project: SmallProject) -> None:
    """The second part."""
    project.land("sales/2.json", [sale(i) for i in range(41, 60)])
    project.land("loaded/2.json", [{"id": "three", "new": [1, 2]}])
    project.land("changes/2.json", changes(range(30, 45)))
    project.land("shops.csv", "shop,city,since\na,Bonn,2020-01-01\nb ,Ulm,1999-12-31\n")


def changes(numbers: range) -> list[dict[str, object]]:
    """Change events, some out of order."""
    return [
        {
            "id": i % 5,
            "seq": i ^ 3,
            "op": "D" if i % 11 == 10 else "U",
            "name": ["a", "b", None][i % 3],
            "city": ["x", None][i // 7 % 2],
        }
        for i in numbers
    ]


def content(lake: Lake, name: str) -> tuple[list[tuple[str, str]], list[str]]:
    """A table's columns with their types, and its rows in an order of their own."""
    table = lake.table(name)
    columns = [(field.name, str(field.type)) for field in table.schema()]
    rows = table.scan().select([column for column, _ in columns]).collect().rows()
    return columns, sorted(map(repr, rows))
