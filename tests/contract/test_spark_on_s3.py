"""A project on Apache Spark whose storage is S3: only the profile differs."""

from __future__ import annotations

import textwrap

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from projects import SmallProject
from shoal.engines import SparkHome
from shoal.engines.servers import spark_server
from shoal.errors import EngineError
from stores import running_s3

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]
LIGHT = {"spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1", "spark.driver.memory": "2g"}

TABLES = """
@dp.table(name="bronze.sales")
def sales():
    return spark.readStream.schema("shop STRING, day INT, x DOUBLE, y DOUBLE").json("{landing}")

@dp.table(name="silver.sales", partition_cols=["shop"])
@shoal.expect_or_drop("sold", "y IS NOT NULL")
def silver():
    return spark.readStream.table("bronze.sales")

@dp.materialized_view(name="gold.sales")
def gold():
    return spark.read.table("silver.sales").withColumn("twice", F.col("x") * 2)
"""
MODEL = """
from sklearn.linear_model import Ridge
import shoal


@shoal.model(table="gold.sales", target="y", by=["shop"], time="day", key=["shop", "day"], min_rows=5)
def sold():
    return Ridge()
"""


def rows(first: int, days: int) -> list[dict[str, object]]:
    random = np.random.default_rng(first)
    return [
        {"shop": f"ä{shop}", "day": day, "x": float(x), "y": float(shop * x + 1)}
        for shop in range(6)
        for day, x in enumerate(random.normal(size=days), first)
    ]


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    with running_s3(tmp_path_factory.mktemp("s3")) as cloud, cloud.set():
        yield cloud


@pytest.fixture(scope="module")
def spark(s3):
    """A Spark that was started with S3's variables, as a person's shell has them."""
    try:
        if not SparkHome.find().reads_s3:
            pytest.skip("this Spark does not read s3://: shoal spark setup")
        server = spark_server(settings=LIGHT)
    except EngineError as error:
        pytest.skip(str(error))
    yield server
    server.stop()


def test_tables_fleets_and_predictions_are_the_same(spark, s3, tmp_path) -> None:
    found = {}
    for name in ("embedded", "spark"):
        bucket = s3.bucket()
        project = SmallProject(tmp_path / name)
        lines = [f'storage = "{bucket}/lake"']
        if name == "spark":
            lines += [f'engine = "{spark.url}"', 'training = "engine"']
        profile = "[profiles.default]\n" + "\n".join(lines) + "\n"
        (project.root / "shoal.toml").write_text(profile)
        project.python(TABLES.replace("{landing}", f"{bucket}/landing"))
        (project.root / "models").mkdir()
        (project.root / "models/sold.py").write_text(textwrap.dedent(MODEL))
        told = []
        for part, (first, days) in enumerate([(0, 30), (30, 10)]):
            body = pl.DataFrame(rows(first, days)).write_ndjson()
            s3.put(f"{bucket}/landing/{part}.json", body.encode())
            with project.open() as space:
                report = space.run(space.options())
                assert not report.failed, report
                told.append([(t.table, t.refresh, t.rows) for t in report.tables])
                if part:
                    assert {t.status for t in space.run(space.options()).tables} == {"unchanged"}
        tables = {}
        for table in ("silver/sales", "gold/sales", "gold/sold_predictions"):
            # Another reader, straight from the store.
            frame = pl.scan_delta(f"{bucket}/lake/{table}", credential_provider=None).collect()
            columns = [c for c in frame.columns if not c.startswith("_")]
            tables[table] = frame.select(sorted(columns)).sort("shop", "day")
        assert not [path for path in s3.names(bucket) if "_temporary" in path]
        found[name] = told, tables
    embedded, there = found["embedded"], found["spark"]
    assert embedded[0] == there[0]
    for table, frame in embedded[1].items():
        other = there[1][table]
        assert frame.height == other.height == 240, table
        kept = [c for c in ("shop", "day", "x", "y", "twice", "prediction") if c in frame.columns]
        assert frame.select(kept).equals(other.select(kept)), table


def test_a_table_of_the_project_is_read_and_written_by_spark_itself(spark, s3) -> None:
    """What Shoal made, Spark's own Delta appends to, and Shoal reads that."""
    from shoal.engines import connect
    from shoal.lake import Lake

    lake = Lake(f"{s3.bucket()}/lake")
    table = lake.table("silver.t")
    table.append(pa.table({"id": pa.array([1, 2], pa.int64())}))
    with connect(spark.url) as engine:
        frame = engine.spark.read.format("delta").load(str(table.path))
        frame.selectExpr("id + 10 AS id").write.format("delta").mode("append").save(str(table.path))
        old = engine.spark.read.format("delta").option("versionAsOf", 0).load(str(table.path))
        assert old.count() == 2
    assert sorted(table.scan().collect()["id"].to_list()) == [1, 2, 11, 12]
