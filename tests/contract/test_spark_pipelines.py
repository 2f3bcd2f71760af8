"""Sources that run in Shoal run under Spark's own ``spark-pipelines run``, to the same tables."""

import os
import subprocess
import sys

import pytest

from projects import SmallProject
from shoal.engines import SparkHome, connect, java
from shoal.errors import EngineError

PYTHON = """
@dp.table(name="{schema}.events")
def events():
    return spark.readStream.format("json").schema(
        "id BIGINT, kind STRING, at TIMESTAMP, price DECIMAL(10,2)").load("{landing}")

@dp.temporary_view(name="large")
def large():
    return spark.read.table("{schema}.events").where("price > 3")

@dp.materialized_view(name="{schema}.kinds")
def kinds():
    return spark.read.table("large").groupBy("kind").agg(
        F.count("*").alias("n"), F.sum("price").alias("price"), F.max("at").alias("last"))

dp.create_streaming_table("{schema}.all")

@dp.append_flow(target="{schema}.all", name="one")
def one():
    return spark.readStream.table("{schema}.events").select("id")

@dp.append_flow(target="{schema}.all", name="two")
def two():
    return spark.readStream.table("{schema}.events").select((F.col("id") + 100).alias("id"))
"""
SQL = """
CREATE MATERIALIZED VIEW {schema}.total AS SELECT sum(n) AS n FROM {schema}.kinds;
"""
TABLES = ("events", "kinds", "all", "total")


@pytest.mark.heavy
@pytest.mark.timeout(900)
def test_the_same_tables_under_spark_pipelines(tmp_path, engine, spark_url) -> None:
    try:
        home = SparkHome.find()
    except EngineError as error:
        pytest.skip(str(error))
    schema = f"s{os.getpid()}"
    project = SmallProject(tmp_path / "p", engine)
    where = {"schema": schema, "landing": project.root / "landing"}
    project.python(PYTHON.format(**where))
    project.sql(SQL.format(**where))
    project.land(
        "1.json",
        [
            {"id": i, "kind": "ab"[i % 2] if i else None, "at": f"2026-01-0{i + 1}T00:00:00+02:00",
             "price": f"{i}.50"}
            for i in range(8)
        ],
    )  # fmt: skip
    project.ok()
    (project.root / "spark-pipeline.yml").write_text(
        f"name: small\nstorage: file://{tmp_path / 'checkpoints'}\n"
        # Spark's own file sink takes one flow's batches for the other's; Delta's does not.
        "configuration:\n  spark.sql.sources.default: delta\n"
        "libraries:\n  - glob:\n      include: transformations/**\n"
    )
    with connect(spark_url) as spark:
        spark.spark.sql(f"CREATE SCHEMA {schema}").collect()
        done = subprocess.run(
            [home.folder / "bin/spark-pipelines", "--remote", spark_url, "run"],
            cwd=project.root,
            env={
                **os.environ,
                "JAVA_HOME": java(),
                "PYSPARK_PYTHON": sys.executable,
                "SPARK_HOME": str(home.folder),
            },
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        for name in TABLES:
            table = project.lake.table(f"{schema}.{name}")
            columns = [field.name for field in table.schema()]
            theirs = spark.spark.read.table(f"{schema}.{name}").select(*columns)
            ours = spark.spark.read.format("delta").load(table.path).select(*columns)
            assert theirs.schema == ours.schema, name
            assert sorted(theirs.collect(), key=repr) == sorted(ours.collect(), key=repr), name
        spark.spark.sql(f"DROP SCHEMA {schema} CASCADE").collect()
