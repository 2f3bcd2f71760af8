"""Restore, clone, optimize, vacuum and checks on tables by Shoal, deltalake and Polars."""

import datetime as dt
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from shoal.errors import Conflict, TableError
from shoal.lake import (
    Guard,
    Progress,
    abandoned,
    check,
    clone,
    last_writers,
    optimize,
    restore,
    small_files,
    staged_files,
    vacuum,
    version_at,
)

SCHEMA = pa.schema([("id", pa.int64()), ("day", pa.string())])
NOW = dt.timedelta(0)
WEEK = dt.timedelta(days=7)


def put(table, *ids, flow="f", overwrite=False, state=None, read=(), day="mon", by=()):
    """Commits rows as a refresh does, with the progress of a flow."""
    with table.staging() as folder:
        part = Path(folder, *(f"{name}={day}" for name in by))
        part.mkdir(parents=True)
        rows = pa.table({"id": list(ids), "day": [day] * len(ids)}, schema=SCHEMA)
        pq.write_table(rows.drop_columns(list(by)), part / "rows.parquet")
        before = table.progress(flow)
        after = replace(
            before,
            number=before.number + 1,
            files={**before.files, **{path: [1, 1] for path in read}},
            state=state,
        )
        return table.commit(
            staged_files(folder),
            SCHEMA,
            overwrite=overwrite,
            progress=[(before, after)],
            partition_by=by,
        )


def ids(table, version=None):
    return sorted(table.scan(version).collect()["id"].to_list())


def stored(table):
    return sorted(str(p.relative_to(table.path)) for p in Path(table.path).rglob("*.parquet"))


def age(table, days):
    """Dates everything of a table back, in the file system and in the log."""
    then = time.time() - days * 86400
    for path in Path(table.path).rglob("*"):
        if path.suffix == ".json" and path.parent.name == "_delta_log":
            text = path.read_text()
            for line in text.splitlines():
                for word in line.split('"deletionTimestamp":')[1:]:
                    stamp = word.split(",")[0].split("}")[0]
                    text = text.replace(stamp, str(int(then * 1000)))
            path.write_text(text)
        os.utime(path, (then, then))


# Restore -----------------------------------------------------------------------------------------


def test_restore_keeps_the_progress_of_flows(lake) -> None:
    table = lake.table("a.t")
    put(table, 1, read=["one"])
    put(table, 2, read=["two"])
    done = restore(table, 0)
    assert (done.version, done.rows, done.added, done.removed) == (2, (2, 1), 0, 1)
    assert ids(table) == [1]
    assert sorted(table.progress("f").files) == ["one", "two"]


def test_restore_with_rewind_takes_the_progress_back_in_the_same_version(lake) -> None:
    table = lake.table("a.t")
    put(table, 1, read=["one"])
    for number in range(2, 5):
        put(table, number, read=[f"file-{number}"])
    done = restore(table, 0, rewind=True)
    assert done.rewound == ("f",)
    assert list(table.progress("f").files) == ["one"]
    assert table.progress("f").number == 4
    put(table, 9, read=["nine"])
    assert (ids(table), sorted(table.progress("f").files)) == ([1, 9], ["nine", "one"])
    restore(table, 3, rewind=True)
    assert len(table.progress("f").files) == 4


def test_restore_with_rewind_refuses_when_the_flows_own_rows_are_gone(lake) -> None:
    table = lake.table("a.t")
    name, path = table.new_state("f", 0)
    Path(path).mkdir(parents=True)
    put(table, 1, state=name)
    put(table, 2)
    with pytest.raises(TableError, match="cannot go on from there") as error:
        restore(table, 0, rewind=True)
    assert "--full-refresh a.t" in error.value.hint
    assert table.version() == 1
    assert restore(table, 0).version == 2


def test_a_dry_restore_changes_nothing(lake) -> None:
    table = lake.table("a.t")
    put(table, 1)
    put(table, 2, overwrite=True)
    done = restore(table, 0, rewind=True, dry_run=True)
    assert (done.version, done.rows, done.rewound) == (None, (1, 1), ("f",))
    assert (table.version(), ids(table), table.progress("f").number) == (1, [2], 1)
    assert restore(table, 1).version is None


def test_restore_brings_back_columns(lake) -> None:
    table = lake.table("a.t")
    table.append(pa.table({"id": [1], "old": ["x"]}))
    table.append(pa.table({"id": [2], "new": ["y"]}), overwrite=True)
    assert restore(table, 0).columns == ("+old", "-new")
    assert table.scan().collect().to_dicts() == [{"id": 1, "old": "x"}]


def test_restore_of_a_vacuumed_version_names_a_file(lake) -> None:
    table = lake.table("a.t")
    put(table, 1)
    put(table, 2, overwrite=True)
    vacuum(table, NOW)
    with pytest.raises(TableError, match="1 of its 1 files are gone"):
        restore(table, 0)


def test_version_at_a_time(lake) -> None:
    table = lake.table("a.t")
    for number in range(3):
        put(table, number)
        time.sleep(0.002)
    stamps = {entry["version"]: entry["timestamp"] for entry in table.history()}
    for version, stamp in stamps.items():
        moment = dt.datetime.fromtimestamp(stamp / 1000, dt.UTC)
        assert version_at(table, moment.isoformat()) == version
        assert version_at(table, f"{moment.replace(tzinfo=None)}") == version
    with pytest.raises(TableError, match="its log begins at .* with version 0"):
        version_at(table, "2020-01-01")
    with pytest.raises(TableError, match="'yesterday' is no time"):
        version_at(table, "yesterday")


# Clone -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("by", [(), ("day",)])
def test_clone_is_a_table_of_its_own(lake, engine, deep, by) -> None:
    source, target = lake.table("a.t"), lake.table("b.u")
    put(source, 1, day="a%20b/é".replace("/", "_"), by=by)
    put(source, 2, day="tue", by=by)
    put(source, 3, by=by, overwrite=True)
    done = clone(source, target, version=1, deep=deep)
    assert (done.version, done.files, done.copied) == (1, 2, deep)
    vacuum(source, NOW)
    assert (ids(target), ids(source)) == ([1, 2], [3])
    assert target.partitions() == by
    assert target.id() != source.id()
    assert target.progress("f") == Progress(flow="f")
    frame = engine.spark.read.format("delta").option("versionAsOf", "0").load(target.path)
    assert sorted(row.id for row in frame.collect()) == [1, 2]
    put(target, 4, overwrite=True, by=by)
    vacuum(target, NOW)
    assert (ids(source), ids(target)) == ([3], [4])
    assert not [finding for finding in check(target) if finding.broken]


def test_a_shallow_clone_takes_no_space(lake) -> None:
    source, target = lake.table("a.t"), lake.table("b.u")
    put(source, *range(1000))
    clone(source, target)
    (mine,), (other,) = (list(Path(t.path).rglob("*.parquet")) for t in (source, target))
    assert mine.stat().st_ino == other.stat().st_ino


def test_clone_keeps_constraints_and_properties(lake) -> None:
    source, target = lake.table("a.t"), lake.table("b.u")
    put(source, 1)
    DeltaTable(source.path).alter.add_constraint({"positive": "id > 0"})
    DeltaTable(source.path).alter.set_table_properties(
        {"delta.logRetentionDuration": "interval 9 days"}
    )
    clone(source, target)
    assert [(rule.name, rule.condition) for rule in target.constraints()] == [
        ("positive", "id > 0")
    ]
    found = DeltaTable(target.path).metadata().configuration
    assert found["delta.logRetentionDuration"] == "interval 9 days"


def test_clone_refuses_a_table_that_exists_and_leaves_nothing_after_an_error(lake) -> None:
    source, target = lake.table("a.t"), lake.table("b.u")
    put(source, 1)
    put(target, 2)
    with pytest.raises(TableError, match=r"b\.u already exists"):
        clone(source, target)
    assert ids(target) == [2]
    Path(source.path, stored(source)[0]).unlink()
    with pytest.raises(TableError, match=r"A file of a\.t is gone"):
        clone(source, lake.table("c.v"))
    assert not Path(lake.table("c.v").path).exists()


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")
def test_clone_over_file_systems_asks_for_copies(lake) -> None:
    from shoal.lake import Lake

    source = lake.table("a.t")
    put(source, 1)
    other = Lake(Path("/dev/shm") / f"shoal-{os.getpid()}")
    try:
        if os.stat("/dev/shm").st_dev == os.stat(source.path).st_dev:
            pytest.skip("one file system")
        with pytest.raises(TableError) as error:
            clone(source, other.table("b.u"))
        assert error.value.hint.endswith("shoal clone a.t b.u --deep")
        clone(source, other.table("b.u"), deep=True)
        assert ids(other.table("b.u")) == [1]
    finally:
        shutil.rmtree(other.root)


# Optimize ----------------------------------------------------------------------------------------


def test_optimize_changes_no_row_and_no_reader_sees_news(lake) -> None:
    table = lake.table("a.t")
    for number in range(6):
        put(table, number, read=[str(number)])
    assert small_files(table) == 6
    done = optimize(table)
    assert (done.removed, done.added, done.version) == (6, 1, 6)
    assert ids(table) == list(range(6))
    assert table.changes(after=5, until=6).files == ()
    assert table.changes(after=5, until=6).append_only
    assert last_writers(table.path) == (5, frozenset({"shoal:f"}))
    put(table, 6, read=["6"])
    assert len(table.progress("f").files) == 7
    assert optimize(table, target_size=10**6).removed == 2
    assert small_files(table) == 0


def test_zorder_lets_filters_skip_files(lake) -> None:
    table = lake.table("a.t")
    for part in range(4):
        put(table, *range(part, 100_000, 4))
    done = optimize(table, zorder=["id"], target_size=60_000)
    assert done.added > 1
    frame = pl.scan_delta(table.path)
    assert frame.select(pl.len()).collect().item() == 100_000
    adds = pa.table(DeltaTable(table.path).get_add_actions(flatten=True)).to_pylist()
    spans = [add["max.id"] - add["min.id"] for add in adds]
    assert max(spans) < 100_000


def test_optimize_of_chosen_partitions(lake) -> None:
    table = lake.table("a.t")
    for number in range(3):
        for day in ("mon", "o'clock", "tue"):
            put(table, number, day=day, by=("day",))
    assert optimize(table, where="day = 'o''clock'").removed == 3
    assert optimize(table, where="day IN ('mon', 'tue') AND day != 'tue'").removed == 3
    assert sorted(ids(table)) == sorted([0, 1, 2] * 3)
    for wrong in ("id = 3", "day", "day = 'a' OR day = 'b'"):
        with pytest.raises(TableError, match="does not choose partitions"):
            optimize(table, where=wrong)


def test_optimize_names_a_wrong_column(lake) -> None:
    table = lake.table("a.t")
    put(table, 1, by=("day",))
    with pytest.raises(TableError, match="'idd' of a.t does not exist") as error:
        optimize(table, zorder=["idd"])
    assert "'id'" in error.value.hint
    with pytest.raises(TableError, match="is a partition column"):
        optimize(table, zorder=["day"])


# Vacuum ------------------------------------------------------------------------------------------


def test_vacuum_keeps_what_the_retention_needs(lake) -> None:
    table = lake.table("a.t")
    put(table, 1)
    put(table, 2, overwrite=True)
    assert vacuum(table, WEEK).files == 0
    age(table, 6)
    assert vacuum(table, WEEK).files == 0
    age(table, 8)
    dry = vacuum(table, WEEK, dry_run=True)
    assert (dry.files, len(stored(table))) == (1, 2)
    assert vacuum(table, WEEK) == dry
    assert (ids(table), len(stored(table))) == ([2], 1)
    assert vacuum(table, WEEK).bytes == 0


def test_an_old_file_that_was_removed_lately_stays(lake) -> None:
    table = lake.table("a.t")
    put(table, 1)
    age(table, 30)
    put(table, 2, overwrite=True)
    assert vacuum(table, WEEK).files == 0
    assert ids(table, 0) == [1]


def test_vacuum_spares_guarded_versions(lake) -> None:
    table = lake.table("a.t")
    for number in range(4):
        put(table, number, overwrite=True)
    guard = Guard(versions=(1, 2), reason="somebody reads it")
    done = vacuum(table, NOW, guards=[guard])
    assert [(kept.guard, kept.files) for kept in done.kept] == [(guard, 2)]
    assert done.kept[0].bytes > 0
    assert (done.files, ids(table, 1), ids(table, 2)) == (1, [1], [2])
    gone = Guard(versions=(0, 0), reason="too late")
    assert vacuum(table, NOW, guards=[gone, guard]).unreachable == (gone,)
    assert vacuum(table, NOW).files == 2


def test_vacuum_removes_what_killed_runs_left_at_once(lake) -> None:
    table = lake.table("a.t")
    name, path = table.new_state("f", 0)
    Path(path).mkdir(parents=True)
    Path(path, "rows.parquet").write_bytes(b"x")
    put(table, 1, state=name)
    orphan = Path(table.path, "part-0123456789abcdef", "flow-0")
    orphan.mkdir(parents=True)
    (orphan / "rows.parquet").write_bytes(b"half a file")
    flow = Path(table.path, "_shoal", "f")
    (flow / "000000000001.json").write_text("{}")
    (flow / "000000000001.77.tmp").write_text("{")
    (flow / "state-000000000001-x").mkdir()
    (flow / "state-000000000001-x" / "rows.parquet").write_bytes(b"x")
    other = Path(table.path, "_shoal", "never%20committed")
    other.mkdir()
    (other / "000000000000.json").write_text("{}")
    done = vacuum(table, WEEK)
    assert (done.files, done.leftovers) == (0, 5)
    assert not orphan.exists()
    assert sorted(p.name for p in flow.iterdir()) == ["000000000000.json", name]
    assert not other.exists()
    assert ids(table) == [1]
    assert table.progress("f").state == name


def test_vacuum_keeps_the_documents_that_progress_is_read_from(lake) -> None:
    table = lake.table("a.t")
    for number in range(25):
        put(table, number, read=[str(number)])
    age(table, 30)
    done = vacuum(table, WEEK)
    assert done.leftovers == 20
    assert len(table.progress("f").files) == 25


def test_vacuum_takes_partitions_apart_by_their_true_names(lake) -> None:
    table = lake.table("a.t")
    frame = pl.DataFrame({"id": [1, 2, 3], "day": ["a b/é", None, "%41"]})
    write_deltalake(table.path, frame.to_arrow(), partition_by=["day"])
    vacuum(table, NOW)
    assert ids(table) == [1, 2, 3]
    write_deltalake(table.path, frame[:1].to_arrow(), mode="overwrite", partition_by=["day"])
    assert vacuum(table, NOW).files == 3
    assert [file for file in Path(table.path).glob("day=*")] != []
    assert ids(table) == [1]


def test_old_log_entries_go_once_a_checkpoint_replaces_them(lake) -> None:
    table = lake.table("a.t")
    for number in range(12):
        put(table, number)
    DeltaTable(table.path, version=5).create_checkpoint()
    DeltaTable(table.path).create_checkpoint()
    put(table, 12)
    age(table, 40)
    spared = Guard(versions=(7, 7), reason="a model")
    assert vacuum(table, WEEK, guards=[spared]).log == 5
    assert ids(table, 7) == list(range(8))
    assert vacuum(table, WEEK).log == 7
    assert ids(table) == list(range(13))
    assert not [finding for finding in check(table) if finding.broken]
    put(table, 13)
    assert table.progress("f").number == 13


def test_commits_never_drop_log_entries_by_themselves(lake) -> None:
    table = lake.table("a.t")
    put(table, 0)
    DeltaTable(table.path).alter.set_table_properties(
        {"delta.logRetentionDuration": "interval 1 days", "delta.checkpointInterval": "2"},
        raise_if_not_exists=False,
    )
    age(table, 10)
    for number in range(1, 6):
        put(table, number)
        table.append(pa.table({"id": [number], "day": ["x"]}))
    assert ids(table, 0) == [0]


def test_abandoned_first_runs_are_removed_and_nothing_else(lake) -> None:
    left = lake.root / "a" / "t" / "part-0123456789abcdef"
    left.mkdir(parents=True)
    (left / "rows.parquet").write_bytes(b"x" * 10)
    foreign = lake.root / "artifacts" / "mine"
    foreign.mkdir(parents=True)
    (foreign / "model.bin").write_bytes(b"x")
    (done,) = abandoned(lake)
    assert (done.table, done.leftovers, done.bytes) == ("a.t", 1, 10)
    assert not (lake.root / "a").exists()
    assert (foreign / "model.bin").exists()


# Checks ------------------------------------------------------------------------------------------


def broken(table):
    return {finding.check: finding for finding in check(table) if finding.broken}


def test_a_whole_table_has_no_findings(lake) -> None:
    table = lake.table("a.t")
    put(table, 1)
    put(table, 2)
    assert check(table) == []


def test_checks_find_damaged_files(lake) -> None:
    table = lake.table("a.t")
    for number in range(4):
        put(table, number, number)
    gone, longer, other, text = (Path(table.path, path) for path in stored(table))
    gone.unlink()
    with longer.open("ab") as stream:
        stream.write(b"x")
    size = other.stat().st_size
    pq.write_table(pa.table({"id": [1]}), other)
    with other.open("ab") as stream:
        stream.truncate(size)
    text.write_bytes(b"x" * text.stat().st_size)
    found = broken(table)["files"]
    assert "4 of 4 files are damaged" in found.message
    assert "is gone" in found.message
    assert "--full-refresh a.t" in found.hint


def test_checks_find_a_gap_in_the_log(lake) -> None:
    table = lake.table("a.t")
    for number in range(3):
        put(table, number)
    Path(table.path, "_delta_log", f"{1:020}.json").unlink()
    assert "gap before version 2" in broken(table)["log"].message


def test_checks_find_lost_progress(lake) -> None:
    table = lake.table("a.t")
    name, path = table.new_state("f", 0)
    Path(path).mkdir(parents=True)
    put(table, 1, state=name)
    Path(path).rmdir()
    assert name in broken(table)["progress"].message
    Path(table.path, "_shoal", "f", "000000000000.json").unlink()
    assert "damaged" in broken(table)["progress"].message


def test_checks_find_rows_that_break_a_constraint(lake) -> None:
    table = lake.table("a.t")
    put(table, 5, -5)
    DeltaTable(table.path).alter.set_table_properties({"delta.appendOnly": "false"})
    log = Path(table.path, "_delta_log", f"{1:020}.json")
    log.write_text(
        log.read_text().replace(
            '"configuration":{', '"configuration":{"delta.constraints.plus":"`id` > 0",'
        )
    )
    found = broken(table)["constraints"]
    assert "is broken by 1 rows" in found.message
    assert "'plus'" in found.message


def test_two_restores_at_once_are_told(lake) -> None:
    table = lake.table("a.t")
    put(table, 1)
    put(table, 2)
    with lake.writing(), pytest.raises(Conflict), lake.writing():
        restore(table, 0)
