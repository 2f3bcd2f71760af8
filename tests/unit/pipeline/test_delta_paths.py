"""Delta tables read by their folder, with the options of Delta's readers."""

import time

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from shoal.errors import PipelineError

STREAM = """
    @dp.table(name="silver.t")
    def t():
        return spark.readStream.format("delta"){more}.load("{path}")
"""
BATCH = """
    @dp.materialized_view(name="gold.t")
    def t():
        return spark.read.format("delta"){more}.load("{path}")
"""


def put(path, *ids, **options):
    write_deltalake(str(path), pa.table({"id": list(ids)}), **options)
    return str(path)


@pytest.mark.parametrize("relative", [True, False])
def test_a_folder_outside_the_lake_streams(project, relative):
    path = put(project.root / "other" / "T", 1, 2)
    project.python(STREAM.format(path="other/T" if relative else path, more=""))
    project.ok()
    put(path, 3, mode="append")
    project.ok()
    assert project.ok()["silver.t"].status == "unchanged"
    assert project.rows("silver.t", "id") == [1, 2, 3]


def test_the_folder_of_a_declared_table_is_that_table(project):
    path = project.lake.table("bronze.b").path
    project.land("1.json", [{"id": 1}])
    bronze = """
    @dp.table(name="bronze.b")
    def b():
        return spark.readStream.format("json").schema("id long").load("landing")
    """
    project.python(bronze + STREAM.format(path=path, more=""))
    project.sql(f"CREATE MATERIALIZED VIEW gold.sql AS SELECT count(*) AS n FROM delta.`{path}`")
    project.ok()
    project.land("2.json", [{"id": 2}])
    project.ok()
    assert project.rows("silver.t", "id") == [1, 2]
    assert project.rows("gold.sql", "n") == [2]


def test_a_stream_begins_at_a_version_or_a_time(project):
    path = put(project.root / "t", 1)
    put(path, 2, mode="append")
    put(path, 3, mode="append")
    moment = DeltaTable(path).history()[0]["timestamp"]
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment / 1000)) + f".{moment % 1000:03}"
    for more, found in (
        ('.option("startingVersion", 1)', [2, 3]),
        ('.option("startingVersion", "latest")', []),
        (f'.option("startingTimestamp", "{text}")', [3]),
        ('.option("startingTimestamp", "2001-01-01").option("maxFilesPerTrigger", 1)', [1, 2, 3]),
    ):
        project.python(STREAM.format(path=path, more=more))
        project.ok(full_refresh=["silver.t"])
        assert project.rows("silver.t", "id") == found
    put(path, 4, mode="append")
    project.ok()
    assert project.rows("silver.t", "id") == [1, 2, 3, 4]


def test_deletes_and_changes_are_refused_skipped_or_taken_as_asked(project):
    def run(more):
        project.python(STREAM.format(path=path, more=more))
        return project.run()["silver.t"].error, project.rows("silver.t", "id")

    path = put(project.root / "t", 1, 2)
    plain = STREAM.format(path=path, more="")
    project.python(plain)
    project.ok()
    put(path, 3, mode="append")
    write_deltalake(path, pa.table({"id": pa.array([], pa.int64())}), mode="overwrite")
    error, rows = run("")
    assert "rows changed or removed in version 2" in error and rows == [1, 2]
    assert run('.option("ignoreDeletes", "true")') == (None, [1, 2, 3])
    put(path, 5, 6, mode="overwrite")
    DeltaTable(path).delete("id = 5")
    error, rows = run('.option("ignoreDeletes", "true")')
    assert "in version 4" in error and rows == [1, 2, 3]
    assert run('.option("ignoreChanges", "true")') == (None, [1, 2, 3, 5, 6, 6])
    put(path, 7, mode="overwrite")
    put(path, 8, mode="append")
    assert run('.option("skipChangeCommits", "true")') == (None, [1, 2, 3, 5, 6, 6, 8])


def test_a_view_of_an_older_version(project):
    path = put(project.root / "t", 1)
    put(path, 2, mode="append")
    for more, found in (('.option("versionAsOf", 0)', [1]), ("", [1, 2])):
        project.python(BATCH.format(path=path, more=more))
        project.ok()
        assert project.rows("gold.t", "id") == found
    put(path, 3, mode="append")
    project.ok()
    assert project.rows("gold.t", "id") == [1, 2, 3]


@pytest.mark.parametrize(
    ("kind", "more", "found", "hint"),
    [
        (STREAM, '.option("startVersion", 1)', "'startversion'", "startingVersion"),
        (STREAM, '.option("ignoreDelete", "true")', "'ignoredelete'", "ignoreDeletes"),
        (STREAM, '.option("versionAsOf", 1)', "is for batch reads", None),
        (BATCH, '.option("skipChangeCommits", 1)', "is for streaming reads", None),
        (BATCH, '.option("startingVersion", 1)', "read as a whole with", "readChangeFeed"),
        (BATCH, '.option("readChangeFeed", "true")', "without a first version", "startingVersion"),
        (
            STREAM,
            '.option("startingVersion", 1).option("startingTimestamp", "2026-01-01")',
            "both startingversion and startingtimestamp",
            None,
        ),
    ],
)
def test_options_that_do_not_fit_are_refused_with_their_place(project, kind, more, found, hint):
    path = put(project.root / "t", 1)
    project.python(kind.format(path=path, more=more))
    with pytest.raises(PipelineError, match=r"tables.py:\d+: ") as error:
        project.plan()
    assert found in error.value.message
    assert hint is None or hint in error.value.hint


def test_a_folder_without_a_table_is_refused(project):
    (project.root / "empty").mkdir()
    project.python(STREAM.format(path="empty/t", more=""))
    with pytest.raises(PipelineError, match=r"empty/t, which is no Delta table"):
        project.plan()
    project.python(STREAM.format(path="ftp://bucket/t", more=""))
    with pytest.raises(PipelineError, match=r"has the scheme 'ftp'"):
        project.plan()
