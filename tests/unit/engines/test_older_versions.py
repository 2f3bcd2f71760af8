"""Versions before a table's last checkpoint, which Sail 0.7.2 by itself cannot read."""

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from projects import SmallProject


def test_time_travel_goes_past_the_last_checkpoint(tmp_path, engine) -> None:
    project = SmallProject(tmp_path / "p", engine)
    table = project.lake.table("raw.events")
    for i in range(106):
        rows = pa.table({"id": [i], "part": [str(i % 2)]})
        write_deltalake(table.path, rows, mode="append", partition_by=["part"])
    DeltaTable(table.path).create_checkpoint()

    def count(version: int) -> int:
        with project.open() as space:
            text = (
                f"SELECT count(*), max(id) FROM raw.events VERSION AS OF {version} WHERE part = '0'"
            )
            rows, newest = space.sql(text).to_pylist()[0].values()
            assert newest == 2 * (rows - 1)
            return rows

    assert [count(version) for version in (105, 104, 99, 50, 2)] == [53, 53, 50, 26, 2]
    read = engine.spark.read.format("delta").option("versionAsOf", "7")
    assert read.load(table.path).count() == 8
    write_deltalake(table.path, pa.table({"id": [106], "part": ["0"]}), mode="append")
    DeltaTable(table.path).create_checkpoint()
    assert [count(version) for version in (106, 105, 50)] == [54, 53, 26]
