"""The medallion by hand on a Spark session: each query once, in order, written as Delta.

    python spark.py FOLDER OUTPUT sail            embedded Sail, through Spark Connect
    python spark.py FOLDER OUTPUT JARS            PySpark local mode with Delta's jars (a folder)

Prints one JSON object with the seconds of each part.
"""

import json
import sys
import time
from pathlib import Path

from queries import CATEGORIES, DAILY, PAID, SCHEMA, SILVER


def session(engine):
    if engine == "sail":
        from shoal.engines import connect

        opened = connect()
        return opened.spark, opened.close
    from pyspark.sql import SparkSession

    jars = [str(p) for p in Path(engine).glob("*.jar") if p.name.startswith(("delta-", "unity"))]
    settings = {
        "spark.jars": ",".join(jars),
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.session.timeZone": "UTC",
        "spark.driver.memory": "3g",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        # What a person who runs Spark on one machine sets.
        "spark.sql.shuffle.partitions": "4",
        "spark.databricks.delta.snapshotPartitions": "2",
    }
    builder = SparkSession.builder.master("local[*]")
    for key, value in settings.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return spark, spark.stop


def main():
    folder, output, engine = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    begun = time.perf_counter()
    spark, close = session(engine)
    seconds = {"start": time.perf_counter() - begun}
    begun = time.perf_counter()

    tables = {}

    def save(frame, name):
        started = time.perf_counter()
        frame.write.format("delta").save(str(output / name))
        tables[name] = round(time.perf_counter() - started, 3)

    def load(name):
        return spark.read.format("delta").load(str(output / name))

    spark.read.format("delta").load(str(folder / "products")).createOrReplaceTempView("products")
    save(spark.read.schema(SCHEMA).parquet(str(folder / "landing")), "bronze")
    save(load("bronze").selectExpr(*SILVER).where(PAID), "silver")
    load("silver").createOrReplaceTempView("silver")
    save(spark.sql(DAILY.format(silver="silver")), "daily")
    save(spark.sql(CATEGORIES.format(silver="silver", products="products")), "categories")
    seconds["full"] = time.perf_counter() - begun
    close()
    print(json.dumps({**seconds, "tables": tables}))


main()
