"""Auto Loader: columns that are found, hinted, evolved and rescued, and which files are taken."""

from __future__ import annotations

import json
import os
import re
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from projects import SmallProject, settle
from shoal.errors import PipelineError


def loader(project: SmallProject, kind: str = "json", **options: str) -> None:
    given = "".join(f'.option("{name.replace("_", ".")}", "{v}")' for name, v in options.items())
    project.python(f"""
    @dp.table(name="bronze.events")
    def events():
        stream = spark.readStream.format("cloudFiles").option("cloudFiles.format", "{kind}")
        return stream{given}.load("landing")
    """)


def columns(project: SmallProject) -> dict[str, str]:
    return {f.name: str(f.type) for f in project.lake.table("bronze.events").schema()}


def rescued(project: SmallProject) -> list[dict[str, Any] | None]:
    texts = [text for text in project.rows("bronze.events", "_rescued_data")]
    found = [None if text is None else json.loads(text) for text in texts]
    for row in found:
        if row is not None:
            assert row.pop("_file_path").startswith("file:///")
    return found


def test_columns_are_strings_unless_their_types_are_asked_for(project) -> None:
    loader(project)
    project.land("a.json", [{"id": 1, "at": "2026-01-02", "ok": True}])
    project.ok()
    assert columns(project) == dict.fromkeys(["at", "id", "ok", "_rescued_data"], "string")
    loader(project, cloudFiles_inferColumnTypes="true")
    project.ok(full_refresh_all=True)
    assert columns(project) == {
        "at": "string", "id": "int64", "ok": "bool", "_rescued_data": "string"
    }  # fmt: skip


def test_hints_give_types_and_add_columns(project) -> None:
    hints = "id BIGINT, address.zip INT, later DATE"
    loader(project, cloudFiles_inferColumnTypes="true", cloudFiles_schemaHints=hints)
    project.land("a.json", [{"id": "7", "address": {"zip": 1, "city": "B"}}])
    project.ok()
    assert columns(project)["id"] == "int64"
    assert columns(project)["later"] == "date32[day]"
    assert project.rows("bronze.events", "address") == [{"city": "B", "zip": 1}]
    assert project.rows("bronze.events", "id") == [7]


def test_new_columns_are_added_in_the_run_that_meets_them(project) -> None:
    loader(project, cloudFiles_inferColumnTypes="true")
    project.land("a.json", [{"id": 1}])
    project.ok()
    project.land("b.json", [{"id": 2, "name": "b"}, {"id": "three", "name": "c"}])
    report = project.ok()["bronze.events"]
    assert any("new columns" in note and "name; added" in note for note in report.notes)
    assert project.rows("bronze.events", "id", "name") == [(1, None), (2, "b"), (None, "c")]
    assert {"id": "three"} in rescued(project)
    project.land("c.json", [{"id": 3}])
    project.ok()
    assert (3, None) in project.rows("bronze.events", "id", "name")
    assert project.ok()["bronze.events"].status == "unchanged"


def test_a_flow_that_asks_for_columns_is_told_the_new_ones_too(project) -> None:
    project.python("""
    @dp.table(name="bronze.events")
    def events():
        stream = spark.readStream.format("cloudFiles").option("cloudFiles.format", "json")
        found = stream.load("landing")
        return found.withColumn("names", F.lit(",".join(found.columns)))
    """)
    project.land("a.json", [{"id": 1}])
    project.ok()
    project.land("b.json", [{"id": 2, "more": 3}])
    project.ok()
    assert project.rows("bronze.events", "names") == [
        "id,_rescued_data", "id,more,_rescued_data"
    ]  # fmt: skip


def test_rescue_keeps_the_columns_as_they_are(project) -> None:
    loader(project, cloudFiles_schemaEvolutionMode="rescue")
    project.land("a.json", [{"id": 1}])
    project.ok()
    project.land("b.json", [{"id": 2, "name": "b", "ID": 4}])
    project.ok()
    assert set(columns(project)) == {"id", "_rescued_data"}
    assert rescued(project) == [None, {"ID": 4, "name": "b"}] or rescued(project) == [
        {"ID": 4, "name": "b"}, None
    ]  # fmt: skip


def test_new_columns_may_be_refused(project) -> None:
    loader(project, cloudFiles_schemaEvolutionMode="failOnNewColumns")
    project.land("a.json", [{"id": 1}])
    project.ok()
    project.land("b.json", [{"id": 2, "name": "b"}])
    error = project.run()["bronze.events"].error
    assert re.search(r"b\.json.* new column 'name'.*failOnNewColumns", error)
    assert project.rows("bronze.events", "id") == ["1"]
    (project.root / "landing" / "b.json").unlink()
    project.land("c.json", [{"id": 3}])
    project.ok()
    assert project.rows("bronze.events", "id") == ["1", "3"]


def test_new_columns_may_be_left_out(project) -> None:
    loader(project, cloudFiles_schemaEvolutionMode="none")
    project.land("a.json", [{"id": 1}])
    project.ok()
    project.land("b.json", [{"id": 2, "name": "b"}])
    assert any("name; left out" in note for note in project.ok()["bronze.events"].notes)
    assert set(columns(project)) == {"id"}


def test_csv_columns_follow_the_headers(project) -> None:
    loader(project, "csv", header="true", cloudFiles_inferColumnTypes="true")
    project.land("a.csv", "id,name\n1,a\n")
    project.ok()
    project.land("b.csv", "name,more,id\nb,x,2\n")
    project.ok()
    assert project.rows("bronze.events", "id", "name", "more") == [(1, "a", None), (2, "b", "x")]


def test_folders_may_hold_columns(project) -> None:
    loader(project, "csv", header="true")
    project.land("day=2026-01-01/kind=a%2Fb/x.csv", "id\n1\n")
    project.land("day=2026-01-02/kind=__HIVE_DEFAULT_PARTITION__/x.csv", "id\n2\n")
    project.ok()
    found = project.rows("bronze.events", "day", "kind", "id")
    assert [(str(day), kind, i) for day, kind, i in found] == [
        ("2026-01-01", "a/b", "1"), ("2026-01-02", None, "2")
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["parquet", "avro", "orc"])
def test_files_with_a_schema_of_their_own(project, kind) -> None:
    loader(project, kind)
    write_container(project, kind, "a", {"id": [1, 2], "name": ["a", None]})
    project.ok()
    write_container(project, kind, "b", {"id": [3], "name": ["c"], "more": [1.5]})
    project.ok()
    assert project.rows("bronze.events", "id", "name", "more") == [
        (1, "a", None), (2, None, None), (3, "c", 1.5)
    ]  # fmt: skip
    (project.root / "landing" / f"c.{kind}").write_bytes(b"nonsense" * 10)
    settle(project.root / "landing" / f"c.{kind}")
    assert re.search(rf"c\.{kind} cannot be read as {kind}", project.run()["bronze.events"].error)
    assert len(project.rows("bronze.events")) == 3


def write_container(project: SmallProject, kind: str, name: str, columns: dict[str, Any]) -> None:
    path = project.root / "landing" / f"{name}.{kind}"
    table = pa.table(columns)
    if kind == "parquet":
        pq.write_table(table, path)
    elif kind == "orc":
        from pyarrow import orc

        orc.write_table(table, path)
    else:
        import fastavro

        kinds = {pa.int64(): "long", pa.string(): "string", pa.float64(): "double"}
        fields = [{"name": f.name, "type": ["null", kinds[f.type]]} for f in table.schema]
        schema = fastavro.parse_schema({"type": "record", "name": "row", "fields": fields})
        with path.open("wb") as stream:
            fastavro.writer(stream, schema, table.to_pylist())
    settle(path)


def test_pictures_and_other_whole_files(project) -> None:
    loader(project, "binaryFile", pathGlobFilter="*.png")
    pictures = {f"deep/{i}.png": bytes([i]) * (i + 1) for i in range(40)}
    for name, content in pictures.items():
        project.land(name, content)
    project.land("notes.txt", "no picture")
    project.ok()
    project.land("deep/last.png", b"last")
    project.ok()
    rows = project.rows("bronze.events", "path", "length", "content")
    found = {path.rpartition("landing/")[2]: content for path, _, content in rows}
    assert found == pictures | {"deep/last.png": b"last"}
    assert all(length == len(content) for _, length, content in rows)


def test_files_come_in_portions(project) -> None:
    loader(project, cloudFiles_maxFilesPerTrigger="2")
    for number in range(5):
        project.land(f"{number}.json", [{"id": number}])
    sizes = []
    for _ in range(4):
        project.ok()
        sizes.append(len(project.rows("bronze.events")))
    assert sizes == [2, 4, 5, 5]


def test_portions_may_be_counted_in_bytes(project) -> None:
    loader(project, cloudFiles_maxBytesPerTrigger="1k")
    for number in range(3):
        project.land(f"{number}.json", [{"id": number, "text": "x" * 600}])
    project.ok()
    assert len(project.rows("bronze.events")) == 1


def test_files_that_were_there_before_may_be_passed_over(project) -> None:
    loader(project, cloudFiles_includeExistingFiles="false", cloudFiles_schemaHints="id BIGINT")
    project.land("old.json", [{"id": 1}])
    project.ok()
    assert project.rows("bronze.events", "id") == []
    project.land("new.json", [{"id": 2}])
    project.ok()
    assert project.rows("bronze.events", "id") == [2]


@pytest.mark.parametrize("again", ["true", "false"])
def test_a_file_that_changed_is_read_again_only_if_allowed(project, again) -> None:
    loader(project, cloudFiles_allowOverwrites=again)
    project.land("a.json", [{"id": 1}])
    project.ok()
    path = project.land("a.json", [{"id": 1}, {"id": 2}])
    os.utime(path, ns=(path.stat().st_mtime_ns + 10**9,) * 2)
    report = project.ok()["bronze.events"]
    if again == "true":
        assert project.rows("bronze.events", "id") == ["1", "1", "2"]
    else:
        assert project.rows("bronze.events", "id") == ["1"]
        assert any("changed after it was read" in note for note in report.notes)


def test_a_misspelt_option_names_the_right_one(project) -> None:
    loader(project, cloudFiles_schemaHint="id BIGINT")
    project.land("a.json", [{"id": 1}])
    with pytest.raises(PipelineError, match="no option 'cloudFiles.schemahint'") as caught:
        project.run()
    assert caught.value.hint == "Did you mean 'cloudFiles.schemaHints'?"
    loader(project, "jsn")
    with pytest.raises(PipelineError, match="'jsn' is no format"):
        project.run()
    loader(project, cloudFiles_schemaEvolutionMode="addColumns")
    with pytest.raises(PipelineError, match="addColumns"):
        project.run()


def test_sql_has_the_same(project) -> None:
    project.sql("""
    CREATE OR REFRESH STREAMING TABLE bronze.events AS
    SELECT * FROM STREAM read_files('landing', format => 'json', schemaHints => 'id BIGINT');
    """)
    project.land("a.json", [{"id": 1, "x": "a"}])
    project.ok()
    project.land("b.json", [{"id": 2, "y": "b"}])
    project.ok()
    assert project.rows("bronze.events", "id", "x", "y") == [(1, "a", None), (2, None, "b")]
