"""``read_files``, ``cloud_files`` and ``read_kafka`` in SQL text."""

import pytest

from shoal.engines import FileRead, KafkaRead, query_plan, reads
from shoal.errors import PipelineError


def read(text: str):
    (found,) = reads(query_plan(text))
    return found


@pytest.mark.parametrize(
    ("source", "streaming"),
    [
        ("read_files('in', format => 'JSON', header => TRUE)", False),
        ("STREAM read_files('in', format => 'json', header => true)", True),
        ("STREAM(read_files('in', format => 'json', header => true)) AS f", True),
        ("cloud_files('in', 'json', map('header', 'true')) f", True),
        ("STREAM(cloud_files('in', 'json', map('cloudFiles.format', 'json', 'header', 'true')))",
         True),
    ],
)  # fmt: skip
def test_a_read_of_files(source, streaming) -> None:
    found = read(f"SELECT * FROM {source} WHERE x = 'read_files(1)'")
    options = {"cloudfiles.format": "json", "header": "true"}
    assert found == FileRead(
        format="json", paths=("in",), schema="", streaming=streaming, options=options
    )


def test_options_of_the_loader_and_of_the_format() -> None:
    found = read(
        "SELECT *, _metadata.file_name FROM STREAM read_files('in', format => 'csv', "
        "schema => 'a INT', schemaHints => 'b INT', sep => ';', schemaEvolutionMode => 'rescue', "
        "fileNamePattern => '*.csv', skipRows => 1)"
    )
    assert isinstance(found, FileRead)
    assert (found.format, found.schema, found.metadata) == ("csv", "a INT", True)
    assert found.options == {
        "cloudfiles.format": "csv",
        "cloudfiles.schemaevolutionmode": "rescue",
        "cloudfiles.schemahints": "b INT",
        "pathglobfilter": "*.csv",
        "sep": ";",
        "skiprows": "1",
    }


def test_a_read_of_messages() -> None:
    found = read("SELECT value FROM STREAM read_kafka(bootstrapServers => 'h:1', subscribe => 't')")
    assert found == KafkaRead.of(
        {"kafka.bootstrap.servers": "h:1", "subscribe": "t"}, streaming=True
    )


def test_files_are_streamed_by_sql(project) -> None:
    project.sql("""
        CREATE STREAMING TABLE raw AS
        SELECT id, upper(f.kind) AS kind, _metadata.file_name AS file
        FROM STREAM read_files('landing', format => 'json', schema => 'id BIGINT, kind STRING') f;
        CREATE MATERIALIZED VIEW now AS
        SELECT count(*) AS n FROM read_files('landing', format => 'json', schema => 'id BIGINT')
    """)
    project.land("1.json", [{"id": 1, "kind": "a"}])
    assert project.ok()["default.raw"].rows == 1
    project.land("2.json", [{"id": 2, "kind": "b"}])
    assert project.ok()["default.raw"].rows == 1
    assert project.rows("default.raw", "id", "kind", "file") == [
        (1, "A", "1.json"),
        (2, "B", "2.json"),
    ]
    assert project.rows("default.now", "n") == [2]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT * FROM STREAM read_files(format => 'json')", "has no path"),
        ("SELECT * FROM STREAM read_files('in')", "has no format"),
        ("SELECT * FROM STREAM read_files('in', format => 'jsn')", "the format 'jsn'"),
        ("SELECT * FROM STREAM read_files('a' || 'b', format => 'json')", "no literal"),
        ("SELECT * FROM STREAM read_files(here, format => 'json')", r"no literal \('here'\)"),
        ("SELECT count(*) AS n FROM cloud_files('landing', 'json')", "an aggregation"),
        ("SELECT count(*) AS n FROM STREAM read_files('landing', format => 'json')",
         "an aggregation"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_its_line(project, query, message) -> None:
    project.sql(f"\nCREATE STREAMING TABLE t AS {query}")
    with pytest.raises(PipelineError, match=f"tables.sql:1: .*{message}"):
        project.run()
