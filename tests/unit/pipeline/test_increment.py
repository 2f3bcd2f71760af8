"""Materialized views that follow their inputs' changes give what a full refresh gives."""

from __future__ import annotations

import math
import random
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from projects import SmallProject

DIMS = [{"k": k, "label": f"group {k % 3}", "weight": k * 2} for k in range(6)]

SQL = {
    "sums": """
        SELECT k, sum(x) AS total, count(*) AS n, count(y) AS some, avg(x) AS mean
        FROM default.facts WHERE x <> 3 GROUP BY k
    """,
    "ratio": """
        WITH good AS (SELECT * FROM default.facts WHERE x >= 0)
        SELECT k % 2 AS parity, sum(x) / count(*) AS mean, count(*) FILTER (WHERE y > 0) AS up
        FROM good GROUP BY parity HAVING count(*) > 1
    """,
    "joined": """
        SELECT d.label, sum(f.x * d.weight) AS weighted, count(*) AS n
        FROM default.facts f JOIN default.dims d ON f.k = d.k GROUP BY d.label
    """,
    "outer": """
        SELECT d.label, count(*) AS n, sum(f.x) AS total
        FROM default.facts f LEFT JOIN default.dims d ON f.k = d.k GROUP BY d.label
    """,
    "ranked": """
        SELECT k, total, rank() OVER (ORDER BY total DESC, k) AS place
        FROM (SELECT k, sum(x) AS total FROM default.facts GROUP BY k) t
    """,
    "whole": "SELECT count(*) AS n, sum(x) AS total, min(x) AS low, max(x) AS high FROM default.facts",
    "plain": "SELECT k, f.x + 1 AS next, d.label FROM default.facts f JOIN default.dims d USING (k)",
    "both": """
        SELECT k, x FROM default.facts WHERE x > 0
        UNION ALL SELECT k, weight FROM default.dims
    """,
    "distinct": "SELECT k, count(DISTINCT x) AS kinds FROM default.facts GROUP BY k",
}
PYTHON = """
    @dp.materialized_view
    def frames():
        facts = spark.read.table("facts")
        dims = spark.read.table("dims")
        rows = facts.filter(facts["x"] > -5).join(dims, "k").withColumn("z", F.col("x") * 2)
        return rows.groupBy("label", (F.col("k") % 2).alias("odd")).agg(
            F.sum("z").alias("z"), (F.sum("x") / F.count("*")).alias("mean"), F.max("weight")
        ).filter("z IS NOT NULL")

    @dp.temporary_view
    def positive():
        return spark.read.table("facts").where("x > 0")

    @dp.materialized_view
    def through_a_view():
        return spark.read.table("positive").groupBy("k").count()
"""
VIEWS = [*SQL, "frames", "through_a_view"]


@pytest.fixture
def project(tmp_path, engine) -> SmallProject:
    project = SmallProject(tmp_path / "p", engine)
    project.python(PYTHON)
    views = (f"CREATE MATERIALIZED VIEW {name} AS {text};" for name, text in SQL.items())
    project.sql("\n".join(views))
    write(project, "dims", DIMS)
    write(project, "facts", [{"k": i % 5, "x": i % 7, "y": i % 3 or None} for i in range(200)])
    return project


def write(project: SmallProject, table: str, rows: list[dict]) -> None:
    schema = pa.schema([(name, pa.int64()) for name in rows[0]])
    if table == "dims":
        schema = schema.set(1, pa.field("label", pa.string()))
    project.lake.table(table).append(pa.Table.from_pylist(rows, schema=schema))


def contents(project: SmallProject) -> dict[str, list]:
    return {view: project.rows(view) for view in VIEWS}


def close(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-12) or (one != one and other != other)
    return one == other


def assert_as_full(project: SmallProject) -> None:
    followed = contents(project)
    project.ok(full_refresh_all=True)
    for view, rows in contents(project).items():
        pairs = zip(followed[view], rows, strict=True)
        assert all(close(a, b) for one, other in pairs for a, b in zip(one, other, strict=True)), (
            view
        )


def test_new_rows_are_followed_and_equal_a_full_refresh(project) -> None:
    project.ok()
    write(project, "facts", [{"k": 5, "x": 100, "y": 1}, {"k": 1, "x": -2, "y": None}])
    planned = project.plan()
    followed = {
        name.removeprefix("default.") for name, (act, _) in planned.items() if act == "incremental"
    }
    assert followed == set(VIEWS) - {"distinct"}
    reports = project.ok()
    assert reports["default.plain"].rows == 2
    assert_as_full(project)


def test_removed_and_changed_rows_are_taken_away(project) -> None:
    project.ok()
    for _ in range(3):
        write(project, "facts", [{"k": i % 5, "x": i, "y": 1} for i in range(100)])
    project.ok()
    path = project.lake.table("facts").path
    DeltaTable(path).delete("x = 2 AND k = 1 AND y = 2")
    planned = project.plan()
    assert planned["default.whole"][0] == "full"  # a minimum cannot be taken away
    assert planned["default.plain"][0] == "full"
    DeltaTable(path).update(updates={"x": "x + 10"}, predicate="k = 4 AND x > 98")
    project.ok()
    assert_as_full(project)


def test_both_sides_of_a_join_may_change(project) -> None:
    project.ok()
    write(project, "facts", [{"k": 9, "x": 4, "y": 1}])
    write(project, "dims", [{"k": 9, "label": "new", "weight": 7}])
    planned = project.plan()
    assert planned["default.joined"][0] == "incremental"
    assert planned["default.outer"][0] == "full"  # a new match changes rows that are there
    project.ok()
    assert ("new", 1, 28) in project.rows("joined", "label", "n", "weighted")
    assert_as_full(project)


def test_compaction_changes_no_view(project) -> None:
    project.ok()
    write(project, "facts", [{"k": 1, "x": 1, "y": 1}])
    project.ok()
    before = project.versions()
    DeltaTable(project.lake.table("facts").path).optimize.compact()
    reports = project.ok()
    assert {report.status for report in reports.values()} == {"unchanged"}
    assert {n: v for n, v in project.versions().items() if n != "default.facts"} == {
        n: v for n, v in before.items() if n != "default.facts"
    }


def test_a_view_that_somebody_changed_is_computed_again(project) -> None:
    project.ok()
    DeltaTable(project.lake.table("plain").path).delete("k = 1")
    write(project, "facts", [{"k": 2, "x": 1, "y": 1}])
    assert project.plan()["default.plain"][0] == "full"
    project.ok()
    assert_as_full(project)


def test_a_changed_definition_is_computed_again(project) -> None:
    project.ok()
    write(project, "facts", [{"k": 2, "x": 1, "y": 1}])
    project.sql(
        "\n".join(
            f"CREATE MATERIALIZED VIEW {name} AS {text.replace('<> 3', '<> 4')};"
            for name, text in SQL.items()
        )
    )
    assert project.plan()["default.sums"] == ("full", "its definition changed")
    project.ok()
    assert_as_full(project)


def test_most_rows_new_is_cheaper_in_full(project) -> None:
    project.ok()
    write(project, "facts", [{"k": 2, "x": 1, "y": 1} for _ in range(500)])
    assert project.plan()["default.sums"][0] == "full"


edits = st.lists(
    st.tuples(st.sampled_from(["add", "delete", "update", "dims"]), st.integers(0, 2**16)),
    min_size=1,
    max_size=4,
)


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rounds=st.lists(edits, min_size=1, max_size=3))
def test_any_edits_give_what_a_full_refresh_gives(tmp_path_factory, engine, rounds) -> None:
    project = SmallProject(tmp_path_factory.mktemp("edits") / "p", engine)
    project.python(PYTHON)
    project.sql("\n".join(f"CREATE MATERIALIZED VIEW {n} AS {t};" for n, t in SQL.items()))
    write(project, "dims", DIMS)
    for start in range(4):
        write(
            project,
            "facts",
            [{"k": i % 5, "x": i % 7 + start, "y": i % 3 or None} for i in range(50)],
        )
    project.ok()
    for round_ in rounds:
        for kind, seed in round_:
            rng = random.Random(seed)
            table = DeltaTable(project.lake.table("facts").path)
            if kind == "add":
                rows = [
                    {
                        "k": rng.randrange(8),
                        "x": rng.randrange(-9, 9),
                        "y": rng.choice([None, 1, 2]),
                    }
                    for _ in range(rng.randrange(1, 9))
                ]
                write(project, "facts", rows)
            elif kind == "delete":
                table.delete(f"x = {rng.randrange(-9, 9)} AND k = {rng.randrange(8)}")
            elif kind == "update":
                table.update(updates={"x": "x - 1"}, predicate=f"k = {rng.randrange(8)} AND y = 1")
            else:
                k = rng.randrange(8)
                write(project, "dims", [{"k": k, "label": f"group {k % 3}", "weight": seed % 5}])
        project.ok()
    assert_as_full(project)


def test_state_goes_with_its_commit(project) -> None:
    project.ok()
    table = project.lake.table("sums")
    before = table.progress("default.sums")
    assert before.state is not None
    frame = pl.read_parquet(f"{table.state_path('default.sums', before.state)}/group-0/*.parquet")
    assert frame["shoal_n"].sum() == sum(i % 7 != 3 for i in range(200))
    write(project, "facts", [{"k": 2, "x": 1, "y": 1}])
    project.ok()
    folders = [path.name for path in Path(table.path).glob("_shoal/*/state-*")]
    assert folders == [table.progress("default.sums").state]


def test_types_are_kept(tmp_path, engine) -> None:
    import datetime as dt
    from decimal import Decimal

    project = SmallProject(tmp_path / "p", engine)
    project.sql("""
        CREATE MATERIALIZED VIEW v AS
        SELECT day, at, name, sum(price) AS paid, avg(big) AS big, sum(ratio) AS ratio,
               max(name) AS last, count(*) AS n, bool_or(ratio > 1) AS any
        FROM default.typed GROUP BY day, at, name;
    """)

    def rows(*numbers: int) -> pa.Table:
        return pa.table(
            {
                "day": pa.array([dt.date(2020, 1, n % 3 + 1) if n % 4 else None for n in numbers]),
                "at": pa.array([dt.datetime(2020, 1, 1, n % 2, tzinfo=dt.UTC) for n in numbers]),
                "name": pa.array([None if n % 5 == 0 else "é" * (n % 2) for n in numbers]),
                "price": pa.array([Decimal(n) / 100 for n in numbers], pa.decimal128(9, 2)),
                "big": pa.array([2**62 + n for n in numbers], pa.int64()),
                "ratio": pa.array([float("nan") if n == 7 else n / 3 for n in numbers]),
            }
        )

    project.lake.table("typed").append(rows(*range(40)))
    project.ok()
    project.lake.table("typed").append(rows(0, 1, 2, 7, 41))
    assert project.plan()["default.v"][0] == "incremental"
    project.ok()
    followed, schema = project.rows("v"), project.lake.table("v").schema()
    project.ok(full_refresh_all=True)
    assert project.lake.table("v").schema() == schema
    for one, other in zip(followed, project.rows("v"), strict=True):
        assert all(close(a, b) for a, b in zip(one, other, strict=True))
    DeltaTable(project.lake.table("typed").path).delete("price = 0.01")
    assert project.plan()["default.v"][0] == "full", "floating-point sums cannot be subtracted from"
