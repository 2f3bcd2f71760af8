"""Each bad input gets a clear error with its place, and nothing is lost."""

import pytest

from shoal.errors import PipelineError, ProjectError

BRONZE = """
@dp.table(name="bronze.events")
def events():
    rows = spark.readStream.schema("id INT, name STRING, _corrupt_record STRING")
    return rows.json("landing").select("*", "_metadata.file_path")
"""


def refused(project, *words: str) -> None:
    with pytest.raises(PipelineError) as error:
        project.run()
    told = str(error.value)
    for word in words:
        assert word in told, told
    assert project.versions() == {}


def test_a_malformed_line_is_rescued_and_counted(project):
    project.python(BRONZE)
    project.land("a.jsonl", '{"id": 1, "name": "x"}\nnot json\n{"id": "two"}\n{"id": 3}\n')
    report = project.ok()["bronze.events"]
    assert (report.rows, report.rescued) == (4, 2)
    kept = project.rows("bronze.events", "_corrupt_record")
    assert sorted(map(str, kept)) == ["None", "None", "not json", '{"id": "two"}']


def test_empty_and_growing_files_wait_and_are_read_when_whole(project):
    project.python(BRONZE)
    project.land("a.jsonl", [{"id": 1}])
    empty = project.root / "landing/empty.jsonl"
    growing = project.root / "landing/growing.jsonl"
    empty.touch()
    growing.write_text('{"id": 2}\n{"id"')
    report = project.ok()["bronze.events"]
    assert report.rows == 1
    assert any("empty.jsonl is empty" in note for note in report.notes)
    assert any("growing.jsonl is still being written" in note for note in report.notes)
    empty.write_text('{"id": 4}\n')
    growing.write_text('{"id": 2}\n{"id": 3}\n')
    assert project.ok()["bronze.events"].rows == 3
    assert project.rows("bronze.events", "id") == [1, 2, 3, 4]


def test_a_file_that_changed_after_it_was_read_is_told(project):
    project.python(BRONZE)
    path = project.land("a.jsonl", [{"id": 1}])
    project.ok()
    path.write_text('{"id": 1}\n{"id": 2}\n')
    report = project.ok()["bronze.events"]
    assert report.status == "unchanged"
    assert "changed after it was read" in report.notes[0]
    project.ok(full_refresh=["bronze.events"])
    assert project.rows("bronze.events", "id") == [1, 2]


def test_a_missing_column_is_told_before_anything_is_committed(project):
    project.python(
        BRONZE
        + """
@dp.table(name="silver.events")
def silver():
    return spark.readStream.table("bronze.events").select("id", "nmae")
"""
    )
    project.land("a.jsonl", [{"id": 1}])
    with pytest.raises(PipelineError, match=r"^transformations/tables.py:\d+: .*nmae"):
        project.run()
    assert project.versions() == {}


def test_a_table_that_reads_itself(project):
    project.sql("CREATE MATERIALIZED VIEW gold.a AS SELECT * FROM gold.a")
    refused(project, "transformations/tables.sql:1", "'gold.a' reads itself")


def test_a_cycle_is_drawn_with_its_places(project):
    project.sql(
        """
        CREATE MATERIALIZED VIEW a AS SELECT * FROM b;
        CREATE MATERIALIZED VIEW b AS SELECT * FROM c;
        CREATE MATERIALIZED VIEW c AS SELECT * FROM a;
        """
    )
    refused(project, "in a circle", "→", "tables.sql:1", "tables.sql:2", "tables.sql:3")


def test_two_definitions_of_one_table_name_both_places(project):
    project.python(BRONZE)
    project.sql("CREATE MATERIALIZED VIEW bronze.events AS SELECT 1 AS id")
    refused(project, "declared twice", "tables.py:", "tables.sql:1")


def test_an_unknown_table_names_the_nearest(project):
    project.python(BRONZE)
    project.sql("CREATE MATERIALIZED VIEW gold.n AS SELECT count(*) AS n FROM bronze.event")
    refused(project, "tables.sql:1", "'bronze.event'", "Did you mean 'bronze.events'?")


def test_an_expectation_that_does_not_parse(project):
    project.python(
        """
        @dp.materialized_view(name="a")
        @shoal.expect("broken", "id >")
        def a():
            return spark.range(3)
        """
    )
    refused(project, "Expectation 'broken' does not parse", "id >")


def test_an_expectation_above_the_table_decorator(project):
    project.python(
        """
        @shoal.expect("fine", "id > 0")
        @dp.materialized_view(name="a")
        def a():
            return spark.range(3)
        """
    )
    refused(project, "stands above the table's decorator", "@dp.table")


def test_a_source_that_raises_has_its_line(project):
    project.python("x = 1\ny = x / 0\n")
    with pytest.raises(ProjectError, match=r"transformations/tables\.py:5: ZeroDivisionError"):
        project.run()


def test_a_view_that_streams_and_a_table_that_does_not(project):
    project.sql("CREATE MATERIALIZED VIEW b AS SELECT * FROM STREAM(a)", name="b.sql")
    project.python(BRONZE.replace("bronze.events", "a"))
    refused(project, "b.sql:1", "reads a stream")
    project.sql("CREATE STREAMING TABLE b AS SELECT * FROM a", name="b.sql")
    refused(project, "b.sql:1", "reads no stream")


def test_an_aggregation_over_a_stream_is_refused_before_anything_runs(project):
    project.python(
        BRONZE
        + """
@dp.table(name="silver.n")
def n():
    return spark.readStream.table("bronze.events").groupBy("name").count()
"""
    )
    project.land("a.jsonl", [{"id": 1}])
    refused(project, "an aggregation over a stream", "materialized_view")


def test_expect_or_fail_commits_nothing_and_is_counted(project):
    project.python(
        BRONZE.replace("def events", '@shoal.expect_or_fail("small", "id < 3")\ndef events')
    )
    project.land("a.jsonl", [{"id": 1}, {"id": 5}])
    report = project.run()["bronze.events"]
    assert report.status == "failed"
    assert "1 of 2 rows" in report.error
    assert set(project.versions()) == {"shoal.expectations"}
    counts = project.rows("shoal.expectations", "expectation", "action", "passed", "failed")
    assert counts == [("small", "fail", 1, 1)]
    assert not list((project.root / "lake/bronze").glob("**/*.parquet"))


def test_a_missing_landing_folder_says_how_to_make_it(project):
    project.python(BRONZE.replace('json("landing")', 'json("landings")'))
    report = project.run()["bronze.events"]
    assert report.status == "failed"
    assert "mkdir -p" in report.error
