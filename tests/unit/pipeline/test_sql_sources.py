"""SQL sources: the statements that a pipeline's file may hold."""

import pytest
from deltalake import DeltaTable

from shoal.errors import PipelineError, ShoalError

BRONZE = """
@dp.table(name="bronze.events")
def events():
    return spark.readStream.schema("id BIGINT, kind STRING, amount DOUBLE").json("landing")
"""
ROWS = [
    {"id": 1, "kind": "a", "amount": 2.0},
    {"id": 2, "kind": ")", "amount": -2.0},
    {"id": 3, "kind": None, "amount": 3.0},
]


def test_every_statement(project) -> None:
    project.python(BRONZE)
    project.sql("""
        -- a comment; with a semicolon
        CREATE OR REFRESH STREAMING TABLE silver.events (
          id BIGINT COMMENT 'number, of (an) event',
          kind STRING,
          amount DECIMAL(10, 2),
          CONSTRAINT positive EXPECT (amount > 0) ON VIOLATION DROP ROW,
          CONSTRAINT `odd kind` EXPECT (kind <> ')' AND kind <> '(,'),
          CONSTRAINT known EXPECT (id IS NOT NULL) ON VIOLATION FAIL UPDATE
        )
        PARTITIONED BY (kind)
        COMMENT 'It\\'s silver'
        TBLPROPERTIES ('delta.logRetentionDuration' = 'interval 9 days')
        AS SELECT * FROM STREAM(bronze.events);

        CREATE TEMPORARY VIEW big AS SELECT * FROM silver.events WHERE amount > 2.5;

        CREATE MATERIALIZED VIEW `gold`.`big`
        AS WITH b AS (SELECT * FROM big) SELECT count(*) AS n, ';' AS semicolon FROM b;

        CREATE STREAMING TABLE gold.both;
        CREATE FLOW one AS INSERT INTO gold.both BY NAME SELECT id FROM STREAM bronze.events;
        CREATE FLOW two AS INSERT INTO gold.both BY NAME
          SELECT id + 100 AS id FROM STREAM bronze.events
    """)
    project.land("1.json", ROWS)
    found = project.ok()
    silver = found["silver.events"]
    assert silver.expectations == {
        "positive": {"action": "drop", "passed": 2, "failed": 1},
        "odd kind": {"action": "warn", "passed": 1, "failed": 2},
        "known": {"action": "fail", "passed": 3, "failed": 0},
    }
    table = project.lake.table("silver.events")
    assert table.partitions() == ("kind",)
    assert table.comment() == "It's silver"
    assert DeltaTable(table.path).metadata().configuration == {
        "delta.logRetentionDuration": "interval 9 days"
    }
    assert str(table.schema().field("amount").type) == "decimal128(10, 2)"
    assert project.rows("gold.big", "n", "semicolon") == [(1, ";")]
    assert project.rows("gold.both", "id") == [1, 101, 102, 103, 2, 3]
    before = project.versions()
    assert {r.status for r in project.ok().values()} == {"unchanged"}
    assert project.versions() == before


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("\nSELECT 1", "tables.sql:2: expected CREATE, found 'SELECT'"),
        ("CREATE TABLE t AS SELECT 1", "tables.sql:1: expected STREAMING TABLE, MATERIALIZED"),
        ("CREATE MATERIALIZED VIEW t", "tables.sql:1: expected AS and a query"),
        ("CREATE MATERIALIZED VIEW t AS", "tables.sql:1: expected"),
        ("CREATE MATERIALIZED VIEW t USNG delta AS SELECT 1", "found 'USNG'"),
        ("CREATE FLOW f AS SELECT 1", "tables.sql:1: expected AS INSERT INTO"),
        ("CREATE MATERIALIZED VIEW a.b.c.d AS SELECT 1", "tables.sql:1: .*is not a table name"),
        ("CREATE MATERIALIZED VIEW `../x` AS SELECT 1", "tables.sql:1: .*is not a table name"),
        ("CREATE MATERIALIZED VIEW t AS SELECT FROM", "tables.sql:1: This SQL does not parse"),
        ("CREATE MATERIALIZED VIEW t (CONSTRAINT c EXPECT (a >)) AS SELECT 1 AS a",
         "tables.sql:1: Expectation 'c' does not parse"),
        ("CREATE MATERIALIZED VIEW t (CONSTRAINT c CHECK (a > 1)) AS SELECT 1 AS a",
         "tables.sql:1: expected CONSTRAINT name EXPECT"),
        ("CREATE MATERIALIZED VIEW t (CONSTRAINT c EXPECT (a > 1) ON VIOLATION STOP) "
         "AS SELECT 1 AS a", "tables.sql:1: expected ON VIOLATION DROP ROW"),
        ("CREATE MATERIALIZED VIEW t (a INT AS SELECT 1 AS a", "tables.sql:1: expected '\\)'"),
        ("CREATE MATERIALIZED VIEW t AS SELECT 'open", "tables.sql"),
        ("CREATE STREAMING TABLE t", "tables.sql:1: no flow writes into 'default.t'"),
        ("CREATE FLOW f AS INSERT INTO nowhere SELECT 1",
         "tables.sql:1: flow 'f' writes into 'default.nowhere', which is not declared"),
    ],
)  # fmt: skip
def test_what_a_file_may_not_hold_is_named_with_its_line(project, sql, message) -> None:
    path = project.sql(";")
    path.write_text(sql)
    with pytest.raises(ShoalError, match=message) as error:
        project.run()
    assert isinstance(error.value, PipelineError) or "table name" in message
    assert "transformations/tables.sql" in str(error.value)


def test_the_line_of_a_later_statement_is_its_own(project) -> None:
    project.sql("""
        CREATE MATERIALIZED VIEW a AS SELECT 1 AS x;

        CREATE MATERIALIZED VIEW b AS
        SELECT * FROM nowhere;
    """)
    with pytest.raises(PipelineError, match=r"tables.sql:3: 'default.b' reads 'default.nowhere'"):
        project.run()
