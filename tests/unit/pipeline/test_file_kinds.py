"""Files as people have them: packed, odd, damaged, or read twice; nothing is lost or half-written."""

from __future__ import annotations

import bz2
import datetime as dt
import gzip
import json
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from projects import SmallProject, settle

LINES = b'{"id": 1, "name": "a"}\n{"id": 2, "name": "b"}\n'


def stream(project: SmallProject, read: str) -> None:
    project.python(f"""
    @dp.table(name="bronze.events")
    def events():
        return spark.readStream{read}
    """)


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        out.write(data)
    return sink.getvalue().to_pybytes()


PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "zst": zstd}
SCHEMA = '.schema("id BIGINT, name STRING")'


# Formats ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", PACKERS)
def test_packed_files_are_read_and_damaged_ones_are_named(project, ending) -> None:
    stream(project, f'.format("json"){SCHEMA}.load("landing")')
    project.land(f"1.json.{ending}", PACKERS[ending](LINES))
    project.ok()
    rows = "".join(json.dumps({"id": i, "name": str(i * 7919)}) + "\n" for i in range(3, 5000))
    whole = PACKERS[ending](rows.encode())
    bad = project.land(f"2.json.{ending}", whole[: len(whole) // 2])
    project.land("3.json", '{"id": 9000, "name": "z"}\n')
    error = project.run()["bronze.events"].error
    assert str(bad) in error, error
    assert project.rows("bronze.events", "id") == [1, 2], "a failed run leaves nothing"
    project.land(f"2.json.{ending}", whole)
    project.ok()
    assert len(project.rows("bronze.events", "id")) == 5000


def test_json_over_many_lines_and_csv_fields_with_line_ends(project) -> None:
    stream(project, f'.format("json").option("multiLine", True){SCHEMA}.load("landing")')
    project.land("1.json", json.dumps([{"id": 1, "name": "a\nb"}, {"id": 2}], indent=2))
    project.land("2.json", json.dumps({"id": 3, "name": "c"}, indent=2))
    project.ok()
    assert project.rows("bronze.events", "id", "name") == [(1, "a\nb"), (2, None), (3, "c")]
    options = '.option("multiLine", True).option("header", True)'
    stream(project, f'.format("csv"){options}{SCHEMA}.load("more")')
    project.land("../more/1.csv", 'id,name\n7,"x\ny"\n8,z\n')
    project.ok(full_refresh_all=True)
    assert project.rows("bronze.events", "id", "name") == [(7, "x\ny"), (8, "z")]


def test_text_logs_in_another_encoding(project) -> None:
    stream(project, '.format("text").option("encoding", "ISO-8859-1").load("landing")')
    project.land("a.log", "grün 1\nblau 2\n".encode("iso-8859-1"))
    project.ok()
    assert project.rows("bronze.events", "value") == ["blau 2", "grün 1"]


def test_late_files_are_read_however_old_they_are(project) -> None:
    stream(project, f'.format("json"){SCHEMA}.load("landing")')
    project.land("2.json", LINES)
    project.ok()
    settle(project.land("1.json", '{"id": 0}\n'), 86_400)
    project.ok()
    assert project.rows("bronze.events", "id") == [0, 1, 2]


@pytest.mark.parametrize("kind", ["parquet", "binaryFile", "csv"])
def test_metadata_of_each_file(project, kind) -> None:
    schema = SCHEMA if kind == "csv" else ""
    stream(project, f'.format("{kind}"){schema}.load("landing").select("_metadata.file_name")')
    for name in ("a b.x", "ü.x"):
        path = project.land(name, "1,a\n")
        if kind == "parquet":
            pq.write_table(pa.table({"id": [1]}), path)
            settle(path)
    project.ok()
    assert project.rows("bronze.events", "file_name") == ["a%20b.x", "ü.x"]  # as Spark has it


def test_folders_with_columns_are_found_by_plain_batch_reads_too(project) -> None:
    project.python("""
    @dp.materialized_view(name="bronze.events")
    def events():
        return spark.read.option("header", True).csv("landing")
    """)
    project.land("year=2025/month=1/a.csv", "id\n1\n")
    project.land("year=2026/month=12/a.csv", "id\n2\n")
    project.ok()
    assert project.rows("bronze.events", "year", "month", "id") == [(2025, 1, "1"), (2026, 12, "2")]


def test_cloud_files_in_sql(project) -> None:
    project.sql("""
    CREATE OR REFRESH STREAMING TABLE bronze.events AS
    SELECT id, name FROM cloud_files('landing', 'csv', map('header', 'true',
      'cloudFiles.inferColumnTypes', 'true'));
    """)
    project.land("1.csv", "id,name\n1,a\n")
    project.ok()
    assert project.rows("bronze.events", "id", "name") == [(1, "a")]


# Two reads in one query ---------------------------------------------------------------------------


def test_two_reads_of_one_folder_have_columns_of_their_own(project) -> None:
    project.python("""
    def part(name):
        found = spark.readStream.format("cloudFiles").option("cloudFiles.format", "json")
        return found.option("pathGlobFilter", name).load("landing")

    @dp.table(name="bronze.events")
    def events():
        left = part("a*.json").select("id", F.col("x").alias("value"), "_rescued_data")
        return left.unionAll(part("b*.json").select("id", F.col("y").alias("value"), "_rescued_data"))
    """)
    for turn in (1, 2):
        project.land(f"a{turn}.json", [{"id": turn, "x": "left"}])
        project.land(f"b{turn}.json", [{"id": turn, "y": "right"}])
        notes = project.ok()["bronze.events"].notes
        assert not notes, "neither read has the other's columns"
    assert project.rows("bronze.events", "id", "value", "_rescued_data") == [
        ("1", "left", None), ("1", "right", None), ("2", "left", None), ("2", "right", None)
    ]  # fmt: skip


# Damaged and contradicting files -------------------------------------------------------------------


@pytest.mark.parametrize("read", ["read", "readStream"])
def test_a_wrong_parquet_file_is_named_and_costs_nothing(project, read) -> None:
    kind = "materialized_view" if read == "read" else "table"
    project.python(f"""
    @dp.{kind}(name="bronze.events")
    def events():
        return spark.{read}.schema("id BIGINT").parquet("landing")
    """)
    path = project.root / "landing" / "1.parquet"
    pq.write_table(pa.table({"id": [1]}), path)
    settle(path)
    project.ok()
    bad = project.land("2.parquet", b"PAR1 this is no Parquet file PAR1")
    error = project.run()["bronze.events"].error
    assert "2.parquet" in error, error
    assert project.rows("bronze.events", "id") == [1]
    bad.unlink()
    project.ok()


def test_a_file_whose_types_contradict_the_others_is_named(project) -> None:
    stream(project, '.schema("id BIGINT, name STRING").parquet("landing")')
    for name, values in (("1", [1]), ("2", [["a", "list"]])):
        path = project.root / "landing" / f"{name}.parquet"
        pq.write_table(pa.table({"id": values, "name": ["x"]}), path)
        settle(path)
    error = project.run()["bronze.events"].error
    assert "2.parquet" in error, error


def test_types_that_contradict_are_rescued_where_auto_loader_reads(project) -> None:
    stream(project, '.format("cloudFiles").option("cloudFiles.format", "parquet").load("landing")')
    for name, values in (("1", [1]), ("2", ["many"])):
        path = project.root / "landing" / f"{name}.parquet"
        pq.write_table(pa.table({"id": values}), path)
        settle(path)
        project.ok()
    rows = dict(project.rows("bronze.events", "id", "_rescued_data"))
    assert rows[1] is None
    assert json.loads(rows[None])["id"] == "many"


def test_a_column_of_a_type_that_spark_lacks_is_no_matter_where_nobody_asks_for_it(project) -> None:
    stream(project, '.schema("id BIGINT").parquet("landing")')
    path = project.root / "landing" / "1.parquet"
    pq.write_table(pa.table({"id": [1], "took": pa.array([5], pa.duration("us"))}), path)
    settle(path)
    project.ok()
    assert project.rows("bronze.events", "id") == [1]


def test_parquet_with_declared_columns_of_every_kind(project) -> None:
    project.python("""
    @dp.table(name="bronze.events")
    def events():
        columns = "id INT, at TIMESTAMP, local TIMESTAMP_NTZ, day DATE, price DECIMAL(10, 2)"
        return spark.readStream.schema(columns).parquet("landing")
    """)
    at = dt.datetime(2026, 1, 2, 3, 4, 5)
    columns = {
        "id": pa.array([1], pa.int32()),
        "at": pa.array([at.replace(tzinfo=dt.UTC)], pa.timestamp("us", "UTC")),
        "local": pa.array([at], pa.timestamp("us")),
        "day": pa.array([at.date()]),
        "price": pa.array([Decimal("1.50")], pa.decimal128(10, 2)),
    }
    pq.write_table(pa.table(columns), project.root / "landing" / "a.parquet")
    settle(project.root / "landing" / "a.parquet")
    project.ok()
    assert project.rows("bronze.events", "id", "at", "local", "day", "price") == [
        (1, at.replace(tzinfo=dt.UTC), at, at.date(), Decimal("1.50"))
    ]
