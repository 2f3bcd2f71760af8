"""A Delta table: versions, commits, changes, restore, and who else can read it."""

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, QueryBuilder

from shoal.errors import Conflict, TableError, TableNotFound
from shoal.lake import Lake, Progress, Table, staged_files


def stage(folder: str | Path, rows: pa.Table, name: str = "a.parquet") -> None:
    path = Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, path)


def commit(table: Table, rows: pa.Table, **options) -> int:
    with table.staging() as folder:
        stage(folder, rows)
        return table.commit(staged_files(folder), rows.schema, **options)


def ids(*numbers: int, **more) -> pa.Table:
    return pa.table({"id": pa.array(numbers, pa.int64()), **more})


def found(table: Table, version: int | None = None) -> list:
    return sorted(table.scan(version).collect()["id"].to_list())


def test_append_and_overwrite_make_versions(lake) -> None:
    table = lake.table("a.b")
    assert not table.exists()
    assert [table.append(ids(1)), table.append(ids(2, 3))] == [0, 1]
    assert table.append(ids(9), overwrite=True) == 2
    assert [found(table, 0), found(table, 1), found(table, 2)] == [[1], [1, 2, 3], [9]]
    assert table.size() == (1, 1, table.size()[2])
    assert table.size(1)[:2] == (3, 2)
    assert [entry["version"] for entry in table.history()] == [2, 1, 0]
    assert [entry["version"] for entry in table.history(1)] == [2]


def test_commit_appends_and_overwrites_what_was_staged(lake) -> None:
    table = lake.table("a.b")
    made = commit(table, ids(1), comment="what it is", properties={"delta.appendOnly": "false"})
    assert made == 0
    assert table.comment() == "what it is"
    identity = table.id()
    assert commit(table, ids(2), metadata={"shoal.run": "r1"}) == 1
    assert table.history(1)[0]["shoal.run"] == "r1"
    assert commit(table, ids(3), overwrite=True) == 2
    assert [found(table, v) for v in range(3)] == [[1], [1, 2], [3]]
    assert table.id() == identity


def test_properties_of_other_products_are_kept(lake) -> None:
    table = lake.table("a.b")
    commit(table, ids(1), properties={"quality": "gold", "delta.appendOnly": "true"})
    configuration = DeltaTable(table.path).metadata().configuration
    assert configuration == {"quality": "gold", "delta.appendOnly": "true"}
    assert found(table) == [1]


def test_an_empty_commit_makes_a_table_with_columns(lake) -> None:
    table = lake.table("a.b")
    assert table.commit([], ids().schema) == 0
    assert table.schema() == ids().schema
    assert table.size() == (0, 0, 0)
    assert found(table) == []
    commit(table, ids(1))
    assert table.commit([], ids().schema, overwrite=True) == 2
    assert found(table) == []


def test_an_append_adds_new_columns_and_leaves_missing_ones_null(lake) -> None:
    table = lake.table("a.b")
    commit(table, ids(1, name=["x"]))
    commit(table, ids(2, score=[0.5]))
    rows = table.scan().collect().sort("id").to_dicts()
    assert rows == [
        {"id": 1, "name": "x", "score": None}, {"id": 2, "name": None, "score": 0.5}
    ]  # fmt: skip


def test_an_append_of_another_type_is_refused_and_changes_nothing(lake) -> None:
    table = lake.table("a.b")
    commit(table, ids(1, score=[1]))
    with pytest.raises(
        TableError, match=r"'score' of a\.b is int64; the new rows have string"
    ) as e:
        commit(table, ids(2, score=["high"]))
    assert "shoal run --full-refresh a.b" in e.value.hint
    assert table.version() == 0
    assert list(Path(table.path).glob("part-*/**/*.parquet")) == [
        Path(uri) for uri in DeltaTable(table.path).file_uris()
    ]
    with pytest.raises(TableError, match="refused the rows"):
        table.append(ids(2, score=["high"]))
    assert found(table) == [1]


def test_an_overwrite_may_change_types_and_partitions(lake) -> None:
    table = lake.table("a.b")
    commit(table, ids(1, score=[1]), progress=[(Progress(flow="f"), Progress(flow="f", number=0))])
    assert commit(table, ids(2, score=["high"]), overwrite=True) == 1
    assert table.scan().collect().to_dicts() == [{"id": 2, "score": "high"}]
    assert table.scan(0).collect().to_dicts() == [{"id": 1, "score": 1}]
    assert table.progress("f").number == 0, "progress outlives a change of columns"
    with table.staging() as folder:
        stage(folder, pa.table({"id": [3]}), "score=low/a.parquet")
        schema = ids(score=pa.array([], pa.string())).schema
        table.commit(staged_files(folder), schema, overwrite=True, partition_by=["score"])
    assert table.partitions() == ("score",)
    assert table.scan().select("id", "score").collect().rows() == [(3, "low")]


def test_versions_that_do_not_exist_are_named(lake) -> None:
    table = lake.table("a.b")
    for use in (table.version, table.id, table.schema, table.history, table.scan, table.size):
        with pytest.raises(TableNotFound, match=r"no table 'a\.b'"):
            use()
    table.append(ids(1))
    with pytest.raises(TableError, match=r"a\.b .*version 7.*the newest is 0") as error:
        table.scan(7)
    assert error.value.hint == "shoal history a.b"
    with pytest.raises(TableError, match="version 7"):
        table.restore(7)


def test_restore_makes_a_new_version_that_equals_an_old_one(lake) -> None:
    table = lake.table("a.b")
    for number in range(3):
        table.append(ids(number))
    assert table.restore(0) == 3
    assert [found(table), found(table, 2)] == [[0], [0, 1, 2]]
    assert table.append(ids(8)) == 4
    assert found(table) == [0, 8]


def test_restore_of_vacuumed_files_is_an_error(lake) -> None:
    table = lake.table("a.b")
    table.append(ids(1))
    table.append(ids(2), overwrite=True)
    opened = DeltaTable(table.path)
    opened.vacuum(0, dry_run=False, enforce_retention_duration=False)
    with pytest.raises(TableError, match="cannot go back to version 0"):
        table.restore(0)


# Changes -----------------------------------------------------------------------------------------


def changed_ids(table: Table, after: int) -> list[int]:
    changes = table.changes(after=after, until=table.version())
    return sorted(n for f in changes.files for n in pq.read_table(f.path)["id"].to_pylist())


def test_changes_name_what_was_appended(lake) -> None:
    table = lake.table("a.b")
    commit(table, ids(1))
    table.append(ids(2, 3))
    table.append(ids(4))
    changes = table.changes(after=0, until=2)
    assert (changes.append_only, changes.rows) == (True, 3)
    assert [file.version for file in changes.files] == [1, 2]
    assert changed_ids(table, -1) == [1, 2, 3, 4]
    assert table.changes(after=2, until=2).files == ()


def test_changes_tell_overwrites_deletes_and_updates(lake) -> None:
    table = lake.table("a.b")
    table.append(ids(1, 2))
    table.append(ids(3, 4))
    DeltaTable(table.path).delete("id = 1")  # version 2
    DeltaTable(table.path).update(updates={"id": "30"}, predicate="id = 3")  # version 3
    table.append(ids(5))
    table.append(ids(6), overwrite=True)
    changes = table.changes(after=0, until=5)
    assert changes.rewrites == (2, 3, 5)
    assert not changes.append_only
    assert [file.version for file in changes.appended().files] == [1, 4]
    assert changes.appended().append_only


def test_changes_leave_compaction_out(lake) -> None:
    table = lake.table("a.b")
    for number in range(3):
        table.append(ids(number))
    DeltaTable(table.path).optimize.compact()
    assert table.version() == 3
    assert table.size()[1] == 1
    changes = table.changes(after=1, until=3)
    assert (changes.append_only, changes.rows) == (True, 1)
    assert changed_ids(table, 1) == [2]


def test_changes_before_the_log_starts_are_an_error(lake) -> None:
    table = lake.table("a.b")
    for number in range(3):
        table.append(ids(number))
    (Path(table.path) / "_delta_log" / f"{1:020}.json").unlink()
    with pytest.raises(TableError, match="no longer has version 1") as error:
        table.changes(after=0, until=2)
    assert "--full-refresh" in error.value.hint


# Transactions ------------------------------------------------------------------------------------


def step(before: Progress, **fields) -> tuple[Progress, Progress]:
    return before, Progress(flow=before.flow, number=before.number + 1, **fields)


def test_progress_and_rows_land_together(lake) -> None:
    table = lake.table("a.b")
    before = table.progress("f")
    assert (before.number, before.files) == (-1, {})
    commit(table, ids(1), progress=[step(before, files={"/x": [1, 2]}, definition="d")])
    after = table.progress("f")
    assert (after.number, after.files, after.definition) == (0, {"/x": [1, 2]}, "d")
    assert table.transaction("shoal:f") == 0
    assert table.transaction("shoal:g") is None
    assert table.progress("g").number == -1


def test_the_slower_of_two_runs_with_one_progress_gets_a_conflict(lake) -> None:
    table = lake.table("a.b")
    commit(table, ids(1), progress=[step(table.progress("f"), files={"/a": [1, 1]})])
    read_by_both = table.progress("f")
    commit(table, ids(2), progress=[step(read_by_both, files={"/b": [1, 1]})])
    with pytest.raises(Conflict):
        commit(table, ids(2), progress=[step(read_by_both, files={"/c": [1, 1]})])
    assert found(table) == [1, 2]
    assert table.progress("f").files.keys() == {"/b"}, "the winner's document is untouched"


def test_the_first_commit_of_two_is_the_only_one(lake) -> None:
    table = lake.table("a.b")
    nothing = table.progress("f")
    commit(table, ids(1), progress=[step(nothing, files={"/a": [1, 1]})])
    with pytest.raises(Conflict):
        commit(table, ids(1), progress=[step(nothing, files={"/a": [1, 1]})])
    assert found(table) == [1]


APPEND = """
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
import pyarrow as pa
from shoal.errors import Conflict
from shoal.lake import Lake
table = Lake(sys.argv[1]).table("a.b")
print("ready", flush=True)
sys.stdin.readline()
kept = 0
for number in range(20):
    try:
        table.append(pa.table({"id": [number]}), app=(f"writer-{sys.argv[2]}", number))
        kept += 1
    except Conflict:
        pass
print(kept)
"""


def test_writers_side_by_side_lose_no_row(lake) -> None:
    table = lake.table("a.b")
    table.append(ids())
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", APPEND, str(lake.root), str(number)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for number in range(2)
    ]  # fmt: skip
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    kept = [int(writer.communicate(timeout=60)[0]) for writer in writers]
    assert sum(kept) == table.size()[0] == table.version()
    assert table.transaction("writer-0") == 19 or kept[0] < 20


def test_an_application_number_that_was_committed_is_a_conflict(lake) -> None:
    table = lake.table("a.b")
    table.append(ids(1), app=("scores", 5))
    assert table.transaction("scores") == 5
    with pytest.raises(Conflict):
        table.append(ids(1), app=("scores", 5))
    assert found(table) == [1]


# Staging -----------------------------------------------------------------------------------------


def test_staging_leaves_nothing_after_an_error(lake) -> None:
    table = lake.table("a.b")
    with pytest.raises(ValueError, match="no"), table.staging() as folder:
        stage(folder, ids(1))
        raise ValueError("no")
    assert not Path(table.path).exists()
    assert not Path(table.path).parent.exists()
    commit(table, ids(1))
    with pytest.raises(ValueError, match="no"), table.staging() as folder:
        stage(folder, ids(2))
        raise ValueError("no")
    kept = [p for p in Path(table.path).rglob("*.parquet")]
    assert len(kept) == 1
    assert found(table) == [1]


def test_staged_files_that_were_committed_stay_after_an_error(lake) -> None:
    table = lake.table("a.b")
    with pytest.raises(ValueError, match="late"), table.staging() as folder:
        stage(folder, ids(1))
        table.commit(staged_files(folder), ids().schema)
        raise ValueError("late")
    assert found(table) == [1]


# The lock ----------------------------------------------------------------------------------------

HOLD = """
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from shoal.lake import Lake
with Lake(sys.argv[1]).writing():
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_the_lock_is_held_against_other_processes_and_goes_with_its_own(lake) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lake.root)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(Conflict, match=rf"Another run \(process {holder.pid}\)") as error:
        with lake.writing():
            pytest.fail("two processes hold one lake")
    assert error.value.exit_code == 75
    holder.kill()
    holder.communicate()
    with lake.writing(), pytest.raises(Conflict), lake.writing():
        pytest.fail("two runs of one process hold one lake")
    with lake.writing():
        pass


# Other readers -----------------------------------------------------------------------------------

AWKWARD = [
    "plain",
    "two words",
    "größe",
    "a/b",
    "100%",
    "a%20b",
    "x=y",
    "日本",
    "q'q\"",
    "a:b",
    None,
]


def by_polars(table: Table) -> list:
    return pl.scan_delta(table.path).select("id", "kind").collect().sort("id").rows()


def by_delta_rs(table: Table) -> list:
    query = QueryBuilder().register("t", DeltaTable(table.path))
    rows = pa.table(query.execute("SELECT id, kind FROM t ORDER BY id").read_all())
    return [(row["id"], row["kind"]) for row in rows.to_pylist()]


def by_sail(table: Table, engine) -> list:
    frame = engine.spark.read.format("delta").load(table.path).orderBy("id")
    return [(row.id, row.kind) for row in frame.select("id", "kind").collect()]


def written_by_sail(table: Table, engine, values: list) -> None:
    """Rows written as the pipeline writes them: partitioned Parquet from the engine."""
    frame = engine.spark.createDataFrame(list(enumerate(values)), "id bigint, kind string")
    with table.staging() as folder:
        frame.write.mode("append").partitionBy("kind").parquet(folder)
        schema = ids(kind=pa.array([], pa.string())).schema
        table.commit(staged_files(folder), schema, partition_by=["kind"])


def test_every_reader_sees_awkward_partition_values(lake, engine) -> None:
    table = lake.table("a.b")
    written_by_sail(table, engine, AWKWARD)
    expected = list(enumerate(AWKWARD))
    assert by_delta_rs(table) == expected
    assert by_polars(table) == expected
    assert by_sail(table, engine) == expected
    added = table.changes(after=-1, until=0).files
    assert sorted((f.partition["kind"] for f in added), key=str) == sorted(AWKWARD, key=str)
    assert all(Path(file.path).is_file() for file in added)
    assert table.partitions() == ("kind",)


def test_every_reader_sees_appends_overwrites_and_old_versions(lake, engine) -> None:
    table = lake.table("a.b")
    commit(table, ids(0, 1, kind=["x", None]))
    commit(table, ids(2, kind=["ü"]))
    expected = [(0, "x"), (1, None), (2, "ü")]
    assert by_polars(table) == by_delta_rs(table) == by_sail(table, engine) == expected
    commit(table, ids(3, kind=["z"]), overwrite=True)
    assert by_polars(table) == by_delta_rs(table) == by_sail(table, engine) == [(3, "z")]
    old = engine.spark.read.format("delta").option("versionAsOf", 1).load(table.path)
    assert sorted((row.id, row.kind) for row in old.collect() if row.kind) == [(0, "x"), (2, "ü")]


def test_what_other_writers_append_is_read(lake, engine) -> None:
    table = lake.table("a.b")
    commit(table, ids(0, kind=["x"]))
    frame = engine.spark.createDataFrame([(1, "y")], "id bigint, kind string")
    frame.write.format("delta").mode("append").save(table.path)
    pl.DataFrame({"id": [2], "kind": ["z"]}).write_delta(table.path, mode="append")
    assert table.scan().collect().sort("id").rows() == [(0, "x"), (1, "y"), (2, "z")]
    changes = table.changes(after=0, until=table.version())
    assert (changes.append_only, changes.rows) == (True, 2)


def test_the_log_says_what_the_protocol_says(lake) -> None:
    table = lake.table("a.b")
    commit(table, ids(1, 2), progress=[step(table.progress("f"))])
    log = Path(table.path) / "_delta_log" / f"{0:020}.json"
    actions = [json.loads(line) for line in log.read_text().splitlines()]
    kinds = {next(iter(action)) for action in actions}
    assert {"protocol", "metaData", "add", "txn", "commitInfo"} == kinds
    txn = next(action["txn"] for action in actions if "txn" in action)
    assert (txn["appId"], txn["version"]) == ("shoal:f", 0)
    add = next(action["add"] for action in actions if "add" in action)
    assert add["dataChange"] is True
    assert json.loads(add["stats"])["numRecords"] == 2
    assert add["size"] == (Path(table.path) / add["path"]).stat().st_size


def test_of_several_that_make_a_table_with_one_number_one_wins(tmp_path) -> None:
    for turn in range(8):
        table = Lake(tmp_path / str(turn)).table("a.b")
        together = threading.Barrier(4)

        def append(value: int, table=table, together=together) -> bool:
            together.wait()
            try:
                table.append(pa.table({"x": [value]}), app=("mine", 1))
            except Conflict:
                return False
            return True

        with ThreadPoolExecutor(4) as threads:
            won = list(threads.map(append, range(4)))
        assert won.count(True) == 1
        assert table.scan().collect()["x"].to_list() == [won.index(True)]
