"""Makes the tables beside this file with Apache Spark 4.1.1 and Delta 4.2.0 (Java 17).

    uv venv V && uv pip install -p V pyspark==4.1.1
    mvn dependency:copy-dependencies of io.delta:delta-spark_2.13:4.2.0 into JARS
    V/bin/python make.py JARS FOLDER

Each table uses one feature of the Delta protocol. ``rows.json`` has what Spark reads in them, every
value as text.
"""

import json
import sys
from pathlib import Path

from pyspark.sql import SparkSession

COLUMNS = "id BIGINT, name STRING"
ROWS = "INSERT INTO $T SELECT /*+ COALESCE(1) */ id, concat('n', id) FROM range(0, 10, 1, 1)"
MORE = "INSERT INTO $T SELECT /*+ COALESCE(1) */ id, concat('n', id) FROM range(10, 14, 1, 1)"
PAIR = "INSERT INTO $T VALUES (1, 'a', {}), (2, 'b', {})"
MAPPED = {"delta.columnMapping.mode": "name"}

# Name: columns, properties, statements, and what follows the columns.
TABLES = {
    "append_only": (COLUMNS, {"delta.appendOnly": "true"}, [ROWS], ""),
    "change_feed": (
        COLUMNS,
        {"delta.enableChangeDataFeed": "true"},
        [ROWS, "UPDATE $T SET name = 'u' WHERE id < 2", "DELETE FROM $T WHERE id = 5"],
        "",
    ),
    "check_constraint": (
        COLUMNS,
        {},
        ["ALTER TABLE $T ADD CONSTRAINT positive CHECK (id >= 0)", ROWS],
        "",
    ),
    "clustered": (COLUMNS, {}, [ROWS], "CLUSTER BY (id)"),
    "column_mapping_dropped": (
        COLUMNS + ", extra INT",
        MAPPED,
        [PAIR.format(5, 6), "ALTER TABLE $T DROP COLUMN extra"],
        "",
    ),
    "column_mapping_name": (
        COLUMNS,
        MAPPED,
        [ROWS, "ALTER TABLE $T RENAME COLUMN name TO `full name`", MORE],
        "",
    ),
    "column_mapping_partitioned": (
        COLUMNS + ", day STRING",
        MAPPED,
        [PAIR.format("'mon'", "'tue'")],
        "PARTITIONED BY (day)",
    ),
    "defaults": (
        "id BIGINT, name STRING DEFAULT 'x'",
        {"delta.feature.allowColumnDefaults": "supported"},
        ["INSERT INTO $T (id) VALUES (1)"],
        "",
    ),
    "deletion_vectors": (
        COLUMNS,
        {"delta.enableDeletionVectors": "true"},
        [ROWS, "DELETE FROM $T WHERE id % 3 = 0", MORE, "UPDATE $T SET name = 'u' WHERE id = 11"],
        "",
    ),
    "in_commit_timestamps": (
        COLUMNS,
        {"delta.enableInCommitTimestamps": "true"},
        [ROWS, MORE],
        "",
    ),
    "not_null": ("id BIGINT NOT NULL, name STRING", {}, [ROWS], ""),
    "row_tracking": (COLUMNS, {"delta.enableRowTracking": "true"}, [ROWS], ""),
    "type_widening": (
        "id INT, name STRING",
        {"delta.enableTypeWidening": "true"},
        [
            "INSERT INTO $T VALUES (1, 'a')",
            "ALTER TABLE $T ALTER COLUMN id TYPE BIGINT",
            "INSERT INTO $T VALUES (3000000000, 'b')",
        ],
        "",
    ),
    "v2_checkpoint": (
        COLUMNS,
        {"delta.checkpointPolicy": "v2", "delta.checkpointInterval": "2"},
        [ROWS, MORE],
        "",
    ),
    "vacuum_protocol": (COLUMNS, {"delta.feature.vacuumProtocolCheck": "supported"}, [ROWS], ""),
    "variant": (
        "id BIGINT, v VARIANT",
        {},
        ["INSERT INTO $T SELECT 1, parse_json('{\"a\":1}')"],
        "",
    ),
}


def session(jars):
    delta = [str(jar) for jar in jars.glob("*.jar") if jar.name.startswith(("delta-", "unity"))]
    settings = {
        "spark.jars": ",".join(delta),
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.session.timeZone": "UTC",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "1",
        "spark.databricks.delta.snapshotPartitions": "1",
    }
    builder = SparkSession.builder.master("local[1]")
    for key, value in settings.items():
        builder = builder.config(key, value)
    return builder.getOrCreate()


def main():
    jars, folder = Path(sys.argv[1]), Path(sys.argv[2]).absolute()
    spark = session(jars)
    rows = {}
    for name, (columns, properties, statements, tail) in TABLES.items():
        table = f"delta.`{folder / name}`"
        said = ", ".join(f"'{key}' = '{value}'" for key, value in properties.items())
        spark.sql(
            f"CREATE TABLE {table} ({columns}) USING delta {tail}"
            + (f" TBLPROPERTIES ({said})" if said else "")
        )
        for statement in statements:
            spark.sql(statement.replace("$T", table))
        found = spark.read.format("delta").load(str(folder / name)).collect()
        rows[name] = sorted([str(value) for value in row] for row in found)
    for checksum in folder.rglob("*.crc"):
        checksum.unlink()
    (folder / "rows.json").write_text(json.dumps(rows, indent=1) + "\n")


main()
