"""Delta and file sinks: exactly once, also when a run stops halfway."""

import json
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from projects import SmallProject
from shoal.errors import PipelineError
from shoal.lake import Table, TableName

SOURCE = """
@dp.table(name="bronze.events")
def bronze():
    return spark.readStream.schema("id BIGINT, kind STRING").json("landing")

dp.create_sink("out", {format!r}, {options!r})

@dp.append_flow(target="out", name="events")
{extra}
def events():
    return spark.readStream.table("bronze.events")
"""


def declare(project: SmallProject, kind: str, extra: str = "", **options: str) -> None:
    project.python(SOURCE.format(format=kind, options=options, extra=extra))


def land(project: SmallProject, *ids: int) -> None:
    project.land(f"{ids[0]}.json", [{"id": i, "kind": "ab"[i % 2]} for i in ids])


def second_flow(project: SmallProject) -> None:
    project.python(
        """
        @dp.append_flow(target="out")
        def more():
            return spark.readStream.schema("id BIGINT, kind STRING").json("landing2")
        """,
        name="more.py",
    )


def delivered(folder: Path, kind: str) -> list[int]:
    found: list[int] = []
    for path in folder.glob(f"*.{kind}"):
        if kind == "parquet":
            found += pl.read_parquet(path)["id"].to_list()
        elif kind == "csv":
            found += pl.read_csv(path)["id"].to_list()
        else:
            found += [json.loads(line)["id"] for line in path.read_text().splitlines()]
    return sorted(found)


@pytest.mark.parametrize("kind", ["parquet", "json", "csv"])
def test_files_get_each_row_once(project, tmp_path, kind) -> None:
    out = tmp_path / "out"
    declare(project, kind, path=str(out), **({"header": "true"} if kind == "csv" else {}))
    land(project, 1, 2)
    found = project.ok()["default.out"]
    assert (found.kind, found.status, found.rows) == ("sink", "refreshed", 2)
    assert delivered(out, kind) == [1, 2]
    assert project.plan()["default.out"] == ("none", "nothing new")
    assert project.ok()["default.out"].status == "unchanged"
    land(project, 3)
    assert project.ok()["default.out"].rows == 1
    assert delivered(out, kind) == [1, 2, 3]
    assert [path.name for path in out.iterdir() if path.name.startswith("_")] == []
    assert list(project.versions()) == ["bronze.events"]
    ledger = project.storage / "_shoal" / "sinks" / "default.out"
    assert len(list(ledger.rglob("*.parquet"))) == 1


def test_a_path_starts_at_the_project(project) -> None:
    declare(project, "json", path="exports/events")
    land(project, 1)
    project.ok()
    assert delivered(project.root / "exports" / "events", "json") == [1]


def test_a_delivery_that_was_cut_short_is_ended_by_the_next_run(project, tmp_path) -> None:
    out = tmp_path / "out"
    declare(project, "parquet", path=str(out))
    second_flow(project)
    land(project, 1)
    project.land("../landing2/1.json", [{"id": 10, "kind": "a"}])
    project.ok()
    # As a run leaves it that was killed after its commit, when one of two files had its name:
    one, _ = sorted(out.glob("*.parquet"))
    waiting = out / "_shoal" / "default.out" / one.stem.split("-")[-1]
    waiting.mkdir(parents=True)
    one.rename(waiting / one.name)
    # and one that was killed before its commit:
    other = waiting.with_name("0123456789abcdef")
    other.mkdir()
    pl.DataFrame({"id": [5], "kind": ["a"]}).write_parquet(other / "part-00000-0123.parquet")
    assert len(delivered(out, "parquet")) == 1
    assert project.ok()["default.out"].status == "unchanged"
    assert delivered(out, "parquet") == [1, 10]
    assert not (out / "_shoal").exists()


def test_a_delta_sink_appends_to_a_table_that_others_write_too(project, tmp_path) -> None:
    target = Table(name=TableName(schema="else", table="where"), path=str(tmp_path / "shared"))
    rows = pa.table({"id": pa.array([100], pa.int64()), "kind": ["x"]})
    target.append(rows, partition_by=["kind"])
    declare(project, "delta", path=target.path)
    land(project, 1, 2)
    assert project.ok()["default.out"].rows == 2
    land(project, 3)
    project.ok()
    assert project.ok()["default.out"].status == "unchanged"
    found = target.scan().sort("id").collect()
    assert found["id"].to_list() == [1, 2, 3, 100]
    assert found["kind"].to_list() == ["b", "a", "b", "x"]
    assert target.transaction("shoal:default.out:events") == 1
    assert target.partitions() == ("kind",)


def test_a_delta_sink_makes_its_table_by_name(project) -> None:
    declare(project, "delta", tableName="gold.copy")
    land(project, 1, 2)
    project.ok()
    assert project.rows("gold.copy", "id") == [1, 2]


def test_a_full_refresh_delivers_again_and_keeps_what_is_there(project) -> None:
    declare(project, "delta", tableName="gold.copy")
    land(project, 1, 2)
    project.ok()
    found = project.ok(full_refresh=["out"])["default.out"]
    assert found.rows == 2
    assert any("delivered again" in note for note in found.notes)
    assert project.rows("gold.copy", "id") == [1, 1, 2, 2]
    assert project.ok()["default.out"].status == "unchanged"


def test_columns_are_added_only_when_asked_for(project, tmp_path) -> None:
    target = Table(name=TableName(schema="else", table="where"), path=str(tmp_path / "shared"))
    target.append(pa.table({"id": pa.array([100], pa.int64())}))
    declare(project, "delta", path=target.path)
    land(project, 1)
    error = project.run()["default.out"].error or ""
    assert "has no column 'kind'; it has id" in error
    assert "mergeSchema" in error
    assert target.version() == 0
    declare(project, "delta", path=target.path, mergeSchema="true")
    project.ok()
    assert sorted(target.scan().collect()["id"]) == [1, 100]


def test_expectations_hold_for_sinks(project, tmp_path) -> None:
    out = tmp_path / "out"
    declare(project, "json", '@shoal.expect_or_drop("odd", "id % 2 = 1")', path=str(out))
    land(project, 1, 2, 3)
    found = project.ok()["default.out"]
    assert (found.rows, found.dropped) == (2, 1)
    assert delivered(out, "json") == [1, 3]
    declare(project, "json", '@shoal.expect_or_fail("small", "id < 4")', path=str(out))
    land(project, 4, 5)
    assert "break 'small'" in (project.run()["default.out"].error or "")
    assert delivered(out, "json") == [1, 3]


def test_two_flows_into_one_sink(project, tmp_path) -> None:
    out = tmp_path / "out"
    declare(project, "parquet", path=str(out))
    second_flow(project)
    land(project, 1)
    project.land("../landing2/1.json", [{"id": 10, "kind": "a"}])
    project.ok()
    project.land("../landing2/2.json", [{"id": 11, "kind": "a"}])
    project.ok()
    assert delivered(out, "parquet") == [1, 10, 11]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("parqet", {"path": "x"}, "Did you mean 'parquet'"),
        ("json", {}, "it has no path"),
        ("json", {"path": "ftp://b/x"}, "Shoal knows folders and s3://"),
        ("delta", {}, "either a path or a tableName"),
        ("delta", {"path": "x", "tableName": "a.b"}, "either a path or a tableName"),
        ("delta", {"tableName": "bronze.events"}, "is declared in this project"),
        ("delta", {"path": "x", "mode": "append"}, "no option 'mode'"),
        ("kafka", {"topic": "x"}, "'kafka.bootstrap.servers' is missing"),
        ("kafka", {"kafka.bootstrap.servers": "h:1", "topics": "x"}, "no option 'topics'"),
    ],
)
def test_a_wrong_sink_is_refused_before_anything_runs(project, kind, options, message) -> None:
    declare(project, kind, **options)
    with pytest.raises(PipelineError, match=r"tables\.py:\d+: ") as caught:
        project.plan()
    assert message in str(caught.value)


def test_only_streams_are_written_and_nothing_reads_a_sink(project, tmp_path) -> None:
    declare(project, "json", path=str(tmp_path / "out"))
    project.python(
        """
        @dp.append_flow(target="out")
        def whole():
            return spark.read.table("bronze.events")
        """,
        name="more.py",
    )
    with pytest.raises(PipelineError, match="into the sink 'default.out' reads no stream"):
        project.plan()
    project.python(
        """
        @dp.materialized_view
        def reader():
            return spark.read.table("out")
        """,
        name="more.py",
    )
    with pytest.raises(PipelineError, match="reads 'default.out', which is a sink"):
        project.plan()
