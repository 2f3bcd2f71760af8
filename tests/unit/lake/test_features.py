"""Tables that Apache Spark wrote with one protocol feature each: read right, or refused by name."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from shoal.errors import TableError
from shoal.lake import Table, TableName, staged_files, vacuum
from shoal.workspace.maintain import parse_duration

DATA = Path(__file__).parents[2] / "data" / "delta"
ROWS = json.loads((DATA / "rows.json").read_text())
ENGINE_ONLY = {"type_widening", "vacuum_protocol", "variant"}
WRITABLE = {"append_only", "change_feed", "check_constraint", "deletion_vectors", "not_null"}
WRITABLE |= {"v2_checkpoint"}


def foreign(name: str, folder: Path) -> Table:
    """A copy of a table that Spark wrote."""
    shutil.copytree(DATA / name, folder / "a" / name)
    return Table(name=TableName(schema="a", table=name), path=str(folder / "a" / name))


def as_text(rows) -> list[list[str]]:
    return sorted([str(value) for value in row] for row in rows)


def stage(table: Table, rows: list[dict], folder: str, schema: pa.Schema):
    Path(folder).mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), f"{folder}/rows.parquet")
    return staged_files(folder)


def add(table: Table, rows: list[dict], *, overwrite: bool = False) -> int:
    """Commits rows as a pipeline does: files that somebody else wrote."""
    schema = pa.schema([pa.field(f.name, f.type) for f in table.schema()])
    with table.staging() as folder:
        files = stage(table, rows, folder, schema)
        return table.commit(files, schema, overwrite=overwrite)


@pytest.mark.parametrize("name", sorted(ROWS))
def test_is_read_as_spark_reads_it_or_refused_by_its_feature(name, tmp_path) -> None:
    table = foreign(name, tmp_path)
    if name not in ENGINE_ONLY:
        assert as_text(table.scan().collect().rows()) == ROWS[name]
        assert table.size()[0] == len(ROWS[name])
        return
    with pytest.raises(TableError) as error:
        table.scan()
    assert "engine only" in error.value.message
    assert "shoal sql" in error.value.hint


@pytest.mark.parametrize("name", sorted(set(ROWS) - {"variant"}))
def test_the_engine_reads_what_spark_reads(name, engine) -> None:
    path = DATA / name
    version = max(int(file.stem) for file in (path / "_delta_log").glob("*[0-9].json"))
    frame = engine.spark.read.format("delta").option("versionAsOf", str(version)).load(str(path))
    assert as_text(frame.collect()) == ROWS[name]


@pytest.mark.parametrize("name", sorted(ROWS))
def test_is_written_by_its_rules_or_refused_with_nothing_changed(name, tmp_path) -> None:
    table = foreign(name, tmp_path)
    before = sorted(p for p in Path(table.path).rglob("*") if p.is_file())
    if name in WRITABLE:
        version = table.version()
        assert add(table, [{"id": 99, "name": "z"}]) == version + 1
        assert as_text(table.scan().collect().rows()) == sorted([*ROWS[name], ["99", "z"]])
        return
    with pytest.raises(TableError, match="does not write") as error:
        add(table, [{"id": 99}])
    features = {
        "column_mapping_name": "column mapping",
        "column_mapping_dropped": "column mapping",
        "column_mapping_partitioned": "column mapping",
        "row_tracking": "rowTracking",
        "type_widening": "typeWidening",
        "clustered": "clustering",
        "defaults": "a default value",
        "in_commit_timestamps": "inCommitTimestamp",
        "vacuum_protocol": "vacuumProtocolCheck",
        "variant": "variant",
    }
    assert features[name] in error.value.message
    assert sorted(p for p in Path(table.path).rglob("*") if p.is_file()) == before


def test_an_overwrite_takes_the_deletion_vectors_with_their_files(tmp_path) -> None:
    table = foreign("deletion_vectors", tmp_path)
    add(table, [{"id": 1, "name": "z"}], overwrite=True)
    assert table.scan().collect().rows() == [(1, "z")]
    assert table.size()[0] == 1


def test_an_overwrite_of_a_table_with_a_change_feed_tells_what_left_and_came(tmp_path) -> None:
    table = foreign("change_feed", tmp_path)
    version = add(table, [{"id": 1, "name": "z"}], overwrite=True)
    changes = pa.table(DeltaTable(table.path).load_cdf(version, version)).to_pylist()
    kinds = [change["_change_type"] for change in changes]
    assert (kinds.count("insert"), kinds.count("delete")) == (1, len(ROWS["change_feed"]))


def test_an_append_only_table_is_not_overwritten(tmp_path) -> None:
    table = foreign("append_only", tmp_path)
    with pytest.raises(TableError, match="appended rows only"):
        add(table, [{"id": 1, "name": "z"}], overwrite=True)
    assert as_text(table.scan().collect().rows()) == ROWS["append_only"]


@pytest.mark.parametrize("value", [-1, None])
def test_a_check_constraint_of_another_writer_holds(value, tmp_path) -> None:
    table = foreign("check_constraint", tmp_path)
    assert [rule.name for rule in table.constraints()] == ["positive"]
    with pytest.raises(TableError, match=r"1 of 2 new rows .*'positive'.*id >= 0"):
        add(table, [{"id": 3, "name": "a"}, {"id": value, "name": "b"}])
    assert as_text(table.scan().collect().rows()) == ROWS["check_constraint"]
    assert add(table, [{"id": 0, "name": "a"}]) == 3


def test_not_null_holds_and_outlives_an_overwrite(tmp_path) -> None:
    table = foreign("not_null", tmp_path)
    with pytest.raises(TableError, match="NOT NULL id"):
        add(table, [{"id": None, "name": "a"}])
    add(table, [{"id": 1, "name": None}], overwrite=True)
    with pytest.raises(TableError, match="NOT NULL id"):
        add(table, [{"id": None, "name": "a"}])
    assert [field.nullable for field in table.schema()] == [False, True]


def test_new_files_of_a_table_with_column_mapping_are_not_read_by_themselves(tmp_path) -> None:
    table = foreign("column_mapping_name", tmp_path)
    with pytest.raises(TableError, match="column mapping by name"):
        table.changes(after=0, until=table.version())


def test_a_version_that_brings_a_deletion_vector_is_no_plain_addition(tmp_path) -> None:
    table = foreign("deletion_vectors", tmp_path)
    changes = table.changes(after=0, until=table.version())
    assert changes.rewrites == (2, 4)


def test_vacuum_keeps_live_deletion_vectors_which_delta_rs_would_remove(tmp_path) -> None:
    table = foreign("deletion_vectors", tmp_path)
    doomed = DeltaTable(table.path).vacuum(
        0, dry_run=True, enforce_retention_duration=False, full=True
    )
    assert any("deletion_vector" in path for path in doomed), "delta-rs mended it: simplify"
    vacuum(table, parse_duration("0h"))
    assert as_text(table.scan().collect().rows()) == ROWS["deletion_vectors"]


def test_vacuum_leaves_a_table_alone_that_asks_for_other_rules(tmp_path) -> None:
    with pytest.raises(TableError, match="vacuumProtocolCheck"):
        vacuum(foreign("vacuum_protocol", tmp_path), parse_duration("0h"))
