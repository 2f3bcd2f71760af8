"""What columns are made of: as the engine tells, and as changed values prove."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pyspark.sql import functions as F
from pyspark.sql.connect.proto import LocalRelation, Relation
from pyspark.sql.window import Window

from shoal.engines import (
    ColumnSources,
    Engine,
    Origin,
    TableRead,
    dataframe,
    leaf,
    plan_of,
    rewrite,
    trace,
)

TABLES = {"a": "id BIGINT, name STRING, v DOUBLE", "b": "id BIGINT, city STRING"}
ROWS: dict[str, list[tuple[Any, ...]]] = {
    "a": [(1, "x,y", 1.5), (2, "y", 2.5), (2, "z", -3.0), (4, "x", 4.0)],
    "b": [(1, "B"), (2, "C"), (2, "D"), (5, "E")],
}
OTHER = {"id": 7, "name": "new,er", "v": 100.25, "city": "Q"}

QUERIES: dict[str, Callable[[Any], Any]] = {
    "projection": lambda s: s.read.table("a").select("id", (F.col("v") * 2).alias("w")),
    "star": lambda s: s.sql("SELECT b.*, upper(a.name) AS n FROM a JOIN b ON a.id = b.id"),
    "using": lambda s: s.sql("SELECT * FROM a FULL JOIN b USING (id)"),
    "filter": lambda s: s.read.table("a").filter("v > 1").drop("v"),
    "semi": lambda s: s.read.table("a").join(s.read.table("b"), "id", "left_semi"),
    "cross": lambda s: s.read.table("a").select("v").crossJoin(s.read.table("b").select("city")),
    "group": lambda s: s.read.table("a").groupBy("id").agg(F.sum("v").alias("t"), F.count("*")),
    "having": lambda s: s.sql("SELECT id, max(name) m FROM a GROUP BY id HAVING sum(v) > 0"),
    "pivot": lambda s: s.read.table("a").groupBy("name").pivot("id", [1, 2]).sum("v"),
    "distinct": lambda s: s.read.table("a").select("id").union(s.read.table("b").select("id"))
    .distinct(),
    "by name": lambda s: s.read.table("a").unionByName(
        s.read.table("a").select("v", "id", F.lit("q").alias("name"))
    ),
    "once a key": lambda s: s.read.table("a").dropDuplicates(["id"]).select("id"),
    "window": lambda s: s.read.table("a").withColumn(
        "s", F.sum("v").over(Window.partitionBy("name").orderBy("id"))
    ),
    "common table": lambda s: s.sql(
        "WITH c AS (SELECT id, upper(name) nm, v FROM a WHERE v IS NOT NULL) SELECT c.nm, b.city, "
        "row_number() OVER (PARTITION BY b.city ORDER BY c.v) rn, CASE WHEN c.id = 1 THEN c.v "
        "ELSE 0 END z FROM c JOIN b ON c.id = b.id WHERE EXISTS (SELECT 1 FROM b b2 WHERE "
        "b2.id = c.id AND b2.city <> 'x, y (\"z\") AS #3')"
    ),
    "subqueries": lambda s: s.sql(
        "SELECT id, (SELECT max(city) FROM b WHERE b.id = a.id) m FROM a WHERE id IN (SELECT id "
        "FROM b)"
    ),
    "explode": lambda s: s.sql("SELECT id, w FROM a LATERAL VIEW explode(split(name, ',')) t AS w"),
    "limit": lambda s: s.sql("SELECT id, v FROM a ORDER BY name, id LIMIT 2"),
    "names that mislead": lambda s: s.sql("SELECT a.name AS `x, y AS #3`, a.v FROM a"),
    "self join": lambda s: s.read.table("a").alias("x").join(
        s.read.table("a").alias("y"), F.col("x.id") == F.col("y.id")
    ).select("x.name", "y.v"),
    "except": lambda s: s.sql("SELECT id FROM a EXCEPT SELECT id FROM b"),
    "unpivot": lambda s: s.read.table("a").unpivot(["id"], ["v"], "what", "value"),
    "struct": lambda s: s.read.table("a").select(F.struct("id", "v").alias("st")).select("st.v"),
    "sorted": lambda s: s.read.table("a").repartition(2, "id").sortWithinPartitions("v")
    .select("name"),
    "pandas": lambda s: s.read.table("a").filter("v > 0").mapInPandas(shorter, "k BIGINT"),
    "python": lambda s: s.read.table("a").select(F.udf(str.upper, "string")("name").alias("u")),
}  # fmt: skip


def shorter(frames: Iterator[Any]) -> Iterator[Any]:
    for frame in frames:
        yield frame[["id"]].rename(columns={"id": "k"})


def local(engine: Engine, name: str, rows: list[tuple[Any, ...]] | None) -> Relation:
    if rows is None:
        schema = engine.spark._parse_ddl(TABLES[name])
        return Relation(local_relation=LocalRelation(schema=schema.json()))
    return plan_of(engine.spark.createDataFrame(rows, TABLES[name])).root


def query(engine: Engine, make: Callable[[Any], Any]) -> Any:
    """The query's plan, made while its tables stand for their columns only."""
    with engine.resolving(lambda plan: rewrite(plan, lambda read: local(engine, read.name, None))):
        return plan_of(make(engine.spark))


def traced(engine: Engine, make: Callable[[Any], Any]) -> tuple[list[str], ColumnSources]:
    reads: list[str] = []

    def mark(read: Any) -> Relation:
        assert isinstance(read, TableRead)
        reads.append(read.name)
        return leaf(len(reads) - 1, local(engine, read.name, None))

    plan = rewrite(query(engine, make), mark)
    names = dataframe(plan, engine.spark).columns
    columns = [engine.spark._parse_ddl(TABLES[name]).names for name in reads]
    return reads, trace(engine.spark, plan, columns, names)


def results(
    engine: Engine, make: Callable[[Any], Any], rows: dict[str, list[tuple[Any, ...]]]
) -> dict[str, list[str]]:
    """The values of each output column, without their order."""
    plan = rewrite(query(engine, make), lambda read: local(engine, read.name, rows[read.name]))
    found = dataframe(plan, engine.spark).toPandas()
    return {name: sorted(map(repr, found[name].tolist())) for name in found.columns}


@pytest.mark.parametrize("name", QUERIES)
def test_only_columns_that_lineage_names_change(engine: Engine, name: str) -> None:
    make = QUERIES[name]
    reads, sources = traced(engine, make)
    before = results(engine, make, ROWS)
    for table, declared in TABLES.items():
        columns = engine.spark._parse_ddl(declared).names
        for at, column in enumerate(columns):
            origins = {Origin(read=i, column=column) for i, r in enumerate(reads) if r == table}
            if not origins or origins & sources.indirect:
                continue  # it may change everything
            for row in range(len(ROWS[table])):
                changed = [list(values) for values in ROWS[table]]
                changed[row][at] = OTHER[column]
                after = results(engine, make, ROWS | {table: [tuple(r) for r in changed]})
                for output, made_of in sources.direct.items():
                    if not origins & made_of:
                        assert after[output] == before[output], (table, column, output)


def told(engine: Engine, make: Callable[[Any], Any]) -> tuple[dict[str, str], str, set[str]]:
    reads, sources = traced(engine, make)

    def words(origins: frozenset[Origin]) -> str:
        return " ".join(sorted({f"{reads[o.read]}.{o.column}" for o in origins}))

    direct = {name: words(made_of) for name, made_of in sources.direct.items()}
    return direct, words(sources.indirect), set(sources.opaque)


def test_what_is_told_is_exact(engine: Engine) -> None:
    assert told(engine, QUERIES["common table"]) == (
        {"nm": "a.name", "city": "b.city", "rn": "a.v b.city", "z": "a.id a.v"},
        "a.id a.v b.city b.id",
        set(),
    )
    assert told(engine, QUERIES["using"])[0] == {
        "id": "a.id b.id", "name": "a.name", "v": "a.v", "city": "b.city"
    }  # fmt: skip
    assert told(engine, QUERIES["group"]) == (
        {"id": "a.id", "t": "a.v", "count(1)": ""}, "a.id", set()
    )  # fmt: skip
    assert told(engine, QUERIES["subqueries"])[0] == {
        "id": "a.id", "m": "a.id b.city"
    }  # fmt: skip
    assert told(engine, QUERIES["sorted"]) == ({"name": "a.name"}, "", set())


def test_what_goes_through_a_function_of_frames_is_marked(engine: Engine) -> None:
    assert told(engine, QUERIES["pandas"]) == ({"k": "a.id a.name a.v"}, "a.v", {"k"})
    direct, _, opaque = told(engine, QUERIES["names that mislead"])
    assert opaque == set(direct)  # never wrong: all of the table instead
