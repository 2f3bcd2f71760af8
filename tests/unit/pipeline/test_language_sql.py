"""SQL statements in all the ways that Databricks and Spark let them be written."""

import pytest

from shoal.errors import PipelineError
from shoal.lake import Lake
from shoal.pipeline import Cdc, Kind
from shoal.pipeline.sqlfile import parse_file

BRONZE = """
@dp.table(name="bronze.events")
def events():
    return spark.readStream.schema("id BIGINT, kind STRING, amount DOUBLE").json("landing")
"""
ROWS = [{"id": 1, "kind": "a", "amount": 2.0}, {"id": 2, "kind": "b", "amount": -2.0}]


def parsed(tmp_path, text: str, **configuration: str):
    return parse_file(text, "t.sql", Lake(tmp_path), configuration)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("STREAMING TABLE", Kind.STREAMING_TABLE),
        ("OR REFRESH STREAMING LIVE TABLE", Kind.STREAMING_TABLE),
        ("OR REFRESH PRIVATE STREAMING TABLE", Kind.STREAMING_TABLE),
        ("OR REPLACE MATERIALIZED VIEW", Kind.MATERIALIZED_VIEW),
        ("PRIVATE MATERIALIZED VIEW", Kind.MATERIALIZED_VIEW),
        ("OR REFRESH LIVE TABLE", Kind.MATERIALIZED_VIEW),
        ("TEMPORARY LIVE TABLE", Kind.MATERIALIZED_VIEW),
        ("TEMPORARY VIEW", Kind.TEMPORARY_VIEW),
        ("TEMP VIEW", Kind.TEMPORARY_VIEW),
        ("LIVE VIEW", Kind.TEMPORARY_VIEW),
        ("TEMPORARY LIVE VIEW", Kind.TEMPORARY_VIEW),
        ("TEMPORARY STREAMING LIVE VIEW", Kind.TEMPORARY_VIEW),
    ],
)
def test_every_way_to_create(tmp_path, words, kind) -> None:
    datasets, flows = parsed(tmp_path, f"CREATE {words} IF NOT EXISTS s.t AS SELECT 1 AS x")
    assert [(str(d.name), d.kind) for d in datasets] == [("s.t", kind)]
    assert [flow.query for flow in flows] == ["SELECT 1 AS x"]


def test_live_before_a_name_means_nothing(project) -> None:
    project.python(BRONZE)
    project.sql("""
        CREATE TEMPORARY LIVE VIEW good AS
          SELECT LIVE.events.* FROM STREAM(LIVE.bronze.events) AS events WHERE kind <> 'LIVE.b';
        CREATE OR REFRESH STREAMING LIVE TABLE LIVE.kept AS SELECT * FROM STREAM(LIVE.good);
        CREATE OR REFRESH LIVE TABLE total AS
          SELECT count(*) AS n, 'LIVE.x' AS live FROM LIVE.kept;
    """)
    project.land("1.json", ROWS)
    project.ok()
    assert project.rows("default.total", "n", "live") == [(2, "LIVE.x")]


def test_clauses_of_a_table(tmp_path) -> None:
    datasets, _ = parsed(
        tmp_path,
        """
        CREATE STREAMING TABLE t (
          id BIGINT NOT NULL PRIMARY KEY COMMENT 'the id, of course',
          price DECIMAL(10, 2) COMMENT 'in €',
          CONSTRAINT pk PRIMARY KEY (id),
          CONSTRAINT fk FOREIGN KEY (id) REFERENCES other (id),
          CONSTRAINT ok EXPECT (price > 0 AND id IN (1, 2)) ON VIOLATION DROP ROW
        )
        CLUSTER BY (id, price)
        TBLPROPERTIES ('quality' = 'silver', 'delta.x' = 'a=b')
        COMMENT 'one';
        CREATE MATERIALIZED VIEW u (a COMMENT 'first', `b c`) CLUSTER BY AUTO AS SELECT 1, 2
        """,
    )
    table, view = datasets
    assert table.schema == "id BIGINT NOT NULL, price DECIMAL(10, 2) COMMENT 'in €'"
    assert [(e.name, e.condition, e.action) for e in table.expectations] == [
        ("ok", "price > 0 AND id IN (1, 2)", "drop")
    ]
    assert (table.cluster_by, table.comment) == (("id", "price"), "one")
    assert table.properties == {"quality": "silver", "delta.x": "a=b"}
    assert (view.schema, view.cluster_by) == ("a, `b c`", ())


def test_every_clause_of_auto_cdc(tmp_path) -> None:
    _, flows = parsed(
        tmp_path,
        """
        CREATE FLOW f AS AUTO CDC INTO s.users FROM STREAM(LIVE.cdc)
        KEYS (id, region) WHERE region <> 'KEYS (x)'
        IGNORE NULL UPDATES
        APPLY AS DELETE WHEN operation = 'DELETE'
        SEQUENCE BY struct(at, number)
        COLUMNS * EXCEPT (operation, number)
        STORED AS SCD TYPE 2
        TRACK HISTORY ON * EXCEPT (city);
        APPLY CHANGES INTO LIVE.copy FROM cdc KEYS (id)
        APPLY AS DELETE WHEN operation = 'DELETE' APPLY AS TRUNCATE WHEN operation = 'TRUNCATE'
        SEQUENCE BY at COLUMNS id, name;
        CREATE OR REFRESH STREAMING TABLE both FLOW AUTO CDC
        FROM STREAM cdc KEYS (id) SEQUENCE BY at COLUMNS (id, name)
        STORED AS SCD TYPE 2 TRACK HISTORY ON (name)
        """,
    )
    first, second, third = flows
    assert (first.name, str(first.target), first.location) == ("f", "s.users", "t.sql:2")
    assert first.query == "SELECT * FROM STREAM(cdc) WHERE region <> 'KEYS (x)'"
    assert first.cdc == Cdc(
        keys=("id", "region"),
        sequence_by="struct(at, number)",
        ignore_null_updates=True,
        apply_as_deletes="operation = 'DELETE'",
        except_column_list=("operation", "number"),
        scd_type=2,
        track_history_except_column_list=("city",),
    )
    assert (str(second.target), second.query) == ("default.copy", "SELECT * FROM STREAM(cdc)")
    assert second.cdc == Cdc(
        keys=("id",),
        sequence_by="at",
        apply_as_deletes="operation = 'DELETE'",
        apply_as_truncates="operation = 'TRUNCATE'",
        column_list=("id", "name"),
    )
    assert third.query == "SELECT * FROM STREAM cdc"
    assert third.cdc is not None
    assert (third.cdc.column_list, third.cdc.track_history_column_list) == (
        ("id", "name"),
        ("name",),
    )


def test_auto_cdc_runs(project) -> None:
    project.python("""
        @dp.table(name="cdc")
        def cdc():
            return spark.readStream.schema("id BIGINT, name STRING, op STRING, n BIGINT").json(
                "landing")
    """)
    project.sql("""
        CREATE STREAMING TABLE users;
        CREATE FLOW users AS AUTO CDC INTO users FROM STREAM(cdc) KEYS (id)
        APPLY AS DELETE WHEN op = 'D' SEQUENCE BY n COLUMNS * EXCEPT (op, n);
        CREATE STREAMING TABLE history;
        APPLY CHANGES INTO history FROM STREAM(cdc) KEYS (id)
        APPLY AS DELETE WHEN op = 'D' SEQUENCE BY n COLUMNS * EXCEPT (op, n) STORED AS SCD TYPE 2;
    """)
    project.land("1.json", [
        {"id": 1, "name": "a", "op": "I", "n": 1},
        {"id": 2, "name": "b", "op": "I", "n": 2},
    ])  # fmt: skip
    project.ok()
    project.land("2.json", [
        {"id": 1, "name": "c", "op": "U", "n": 4},
        {"id": 1, "name": "late", "op": "U", "n": 3},
        {"id": 2, "name": None, "op": "D", "n": 5},
    ])  # fmt: skip
    project.ok()
    assert project.rows("default.users", "id", "name") == [(1, "c")]
    assert project.rows("default.history", "id", "name", "__START_AT", "__END_AT") == [
        (1, "a", 1, 3),
        (1, "c", 4, None),
        (1, "late", 3, 4),
        (2, "b", 2, 5),
    ]


def test_configuration_goes_into_the_text(tmp_path, project) -> None:
    text = """
        -- ${unknown} in a comment is no key
        SET floor = 1;
        CREATE MATERIALIZED VIEW ${schema}.t AS SELECT ${floor} + ${plus.x} AS x
    """
    datasets, flows = parsed(tmp_path, text, schema="gold", floor="9", **{"plus.x": "2"})
    assert (str(datasets[0].name), flows[0].query) == ("gold.t", "SELECT 1 + 2 AS x")
    with pytest.raises(PipelineError, match=r"t.sql:2: '\$\{b\}' has no value") as error:
        parsed(tmp_path, "SET a = 1;\nCREATE LIVE VIEW v AS SELECT ${a} + ${b} AS x")
    assert "SET b" in str(error.value.hint)
    spec = project.root / "spark-pipeline.yml"
    spec.write_text(spec.read_text() + 'configuration:\n  which: "7"\n')
    project.sql("CREATE MATERIALIZED VIEW t AS SELECT ${which} AS x")
    project.ok()
    assert project.rows("default.t", "x") == [7]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("CREATE FLOW f AS INSERT ONCE INTO t SELECT 1", "expected AS INSERT INTO"),
        ("CREATE FLOW f AS AUTO CDC ONCE INTO t FROM x", "expected KEYS"),
        ("APPLY CHANGES INTO t FROM STREAM(x) KEYS (a)", "expected SEQUENCE BY"),
        ("APPLY CHANGES INTO t FROM STREAM(x) SEQUENCE BY a", "expected KEYS"),
        ("APPLY CHANGES INTO t FROM STREAM(x) KEYS (a) KEYS (b) SEQUENCE BY a", "KEYS only once"),
        ("APPLY CHANGES INTO t FROM STREAM(x) KEYS (a) SEQUENCE BY a STORED AS SCD TYPE 3",
         "expected SCD TYPE 1 or SCD TYPE 2"),
        ("APPLY CHANGES INTO t FROM STREAM(x) KEYS (a) SEQUENCE BY a TRACK HISTORY ON (b)",
         "TRACK HISTORY ON needs STORED AS SCD TYPE 2"),
        ("APPLY CHANGES INTO t FROM STREAM(x) KEYS (a) SEQUENCE BY", "expected an expression"),
        ("APPLY CHANGES INTO t KEYS (a)", r"expected FROM STREAM\(source\)"),
        ("CREATE MATERIALIZED VIEW t LOCATION '/x' AS SELECT 1", "a LOCATION clause"),
        ("CREATE MATERIALIZED VIEW t TBLPROPERTIES ('x') AS SELECT 1", "expected 'key' = 'value'"),
        ("CREATE MATERIALIZED VIEW t (a INT, b) AS SELECT 1, 2", "some columns have a type"),
        ("CREATE MATERIALIZED VIEW t (a INT GENERATED ALWAYS AS (1)) AS SELECT 1",
         "'a' has a GENERATED clause"),
        ("CREATE MATERIALIZED VIEW t (a,, b) AS SELECT 1, 2", "name is missing"),
        ("DROP TABLE t", "expected CREATE, found 'DROP'"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_with_its_line(tmp_path, sql, message) -> None:
    with pytest.raises(PipelineError, match=f"^t.sql:3: .*{message}"):
        parsed(tmp_path, f"-- first\n\n{sql}")
