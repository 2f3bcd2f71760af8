"""Plans: what they read, reading something else instead, and their names."""

import subprocess
import sys
import textwrap

import pytest
from pyspark.sql import Window
from pyspark.sql import functions as F

from shoal.engines import (
    FileRead,
    TableRead,
    connect,
    dataframe,
    fingerprint,
    plan_of,
    query_plan,
    reads,
    rewrite,
    sql_tables,
    stateful_operator,
    version_relation,
)
from shoal.errors import EngineError, PipelineError
from shoal.lake import Lake


def named(text: str) -> list[tuple[str, bool]]:
    return [(read.name, read.streaming) for read in reads(query_plan(text))]


@pytest.mark.parametrize(
    ("text", "tables"),
    [
        ("SELECT * FROM a", ["a"]),
        ("SELECT * FROM s.a", ["s.a"]),
        ("SELECT * FROM c.s.a", ["c.s.a"]),
        ("SELECT * FROM `s`.`a`", ["s.a"]),
        ("SELECT * FROM `s`.a AS x JOIN b y ON x.i = y.i", ["s.a", "b"]),
        ("SELECT * FROM a, b", ["a", "b"]),
        ("SELECT * FROM a WHERE i IN (SELECT i FROM b)", ["a", "b"]),
        ("SELECT (SELECT max(i) FROM b) FROM a", ["b", "a"]),
        ("SELECT * FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.i = a.i)", ["a", "b"]),
        ("SELECT * FROM (SELECT * FROM a) x", ["a"]),
        ("SELECT * FROM a UNION ALL SELECT * FROM b", ["a", "b"]),
        ("SELECT * FROM a JOIN a ON true", ["a"]),
        ("WITH x AS (SELECT * FROM a) SELECT * FROM x", ["a"]),
        ("WITH x AS (SELECT * FROM a), y AS (SELECT * FROM x) SELECT * FROM y, x", ["a"]),
        ("WITH x AS (SELECT * FROM a) SELECT * FROM s.x", ["a", "s.x"]),
        ("WITH a AS (SELECT * FROM s.a) SELECT * FROM a", ["s.a"]),
        # A common table expression sees those before it and not itself, as in Spark.
        ("WITH a AS (SELECT * FROM a) SELECT * FROM a", ["a"]),
        ("WITH x AS (SELECT * FROM y), y AS (SELECT 1 AS i) SELECT * FROM x, y", ["y"]),
        ("SELECT * FROM (WITH x AS (SELECT 1 AS i) SELECT * FROM x) q, x", ["x"]),
        ("SELECT 'FROM b' AS t FROM a -- FROM c", ["a"]),
        ("SELECT * FROM a LATERAL VIEW explode(l) t AS e", ["a"]),
        ("SELECT * FROM VALUES (1), (2) AS v(i)", []),
        ("SELECT * FROM range(3)", []),
        ("SELECT 1", []),
        ("SELECT * FROM `größe`.`日本`", ["größe.日本"]),
    ],
)
def test_tables_of_sql(text, tables) -> None:
    assert [name for name, _ in named(text)] == tables


@pytest.mark.parametrize(
    ("text", "tables"),
    [
        ("SELECT * FROM STREAM(a)", [("a", True)]),
        ("SELECT * FROM STREAM a", [("a", True)]),
        ("SELECT * FROM STREAM(s.a) AS x", [("s.a", True)]),
        ("SELECT * FROM stream ( `s`.`a` ) x", [("s.a", True)]),
        ("SELECT * FROM STREAM s.a x JOIN b ON x.i = b.i", [("s.a", True), ("b", False)]),
        ("SELECT * FROM STREAM(a) JOIN a AS b ON true", [("a", True), ("a", False)]),
    ],
)
def test_streams_of_sql(text, tables) -> None:
    assert named(text) == tables


@pytest.mark.parametrize("text", ["SELECT FROM WHERE", "SELECT * FROM (a", "SELEC 1 FROM"])
def test_sql_that_does_not_parse_is_an_error(text) -> None:
    with pytest.raises(PipelineError, match="does not parse") as error:
        sql_tables(text)
    assert "\x1b" not in str(error.value)


def test_reads_of_dataframes(spark) -> None:
    a, b = spark.read.table("s.a"), spark.readStream.table("b")
    frame = a.join(b, "i").union(spark.read.table("s.a")).where("i > 1")
    assert reads(plan_of(frame)) == [
        TableRead(name="s.a", streaming=False),
        TableRead(name="b", streaming=True),
    ]
    mixed = spark.sql("SELECT * FROM c WHERE i IN (SELECT i FROM d)").join(a, "i")
    assert [read.name for read in reads(plan_of(mixed))] == ["c", "d", "s.a"]
    bound = spark.sql("SELECT * FROM {x} JOIN c", x=a)
    assert {read.name for read in reads(plan_of(bound))} == {"s.a", "c"}


def test_reads_of_files(spark) -> None:
    frame = spark.readStream.format("json").schema("i INT").option("Mode", "FAILFAST").load("in/x")
    (read,) = reads(plan_of(frame))
    options = {"mode": "FAILFAST"}
    assert read == FileRead(
        format="json", paths=("in/x",), schema=read.schema, streaming=True, options=options
    )
    other = spark.readStream.format("json").schema("i INT").load("in/x")
    assert len(reads(plan_of(frame.unionAll(other)))) == 2, "other options, another read"
    assert not read.metadata
    with_names = frame.select("*", "_metadata.file_name")
    assert reads(plan_of(with_names))[0].metadata
    loader = spark.readStream.format("cloudFiles").option("cloudFiles.format", "csv").load("x")
    assert reads(plan_of(loader))[0].format == "csv"


# Rewriting ---------------------------------------------------------------------------------------


@pytest.fixture
def tables(tmp_path):
    """s.a (i, k) with two versions, and s.b (i, v)."""
    import pyarrow as pa

    lake = Lake(tmp_path / "lake", "s")
    lake.table("s.a").append(pa.table({"i": [1, 2], "k": ["x", "y"]}))
    lake.table("s.a").append(pa.table({"i": [3], "k": ["z"]}))
    lake.table("s.b").append(pa.table({"i": [1, 2, 3], "v": [10, 20, 30]}))

    def replace(read):
        table = lake.table(read.name)
        return version_relation(table.path, table.version())

    return replace


def answer(spark, replace, frame_or_text) -> list[tuple]:
    plan = query_plan(frame_or_text) if isinstance(frame_or_text, str) else plan_of(frame_or_text)
    rows = dataframe(rewrite(plan, replace), spark).collect()
    return sorted(tuple(row) for row in rows)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("SELECT i FROM s.a WHERE k = 'z'", [(3,)]),
        ("SELECT a.i FROM s.a WHERE a.k = 'z'", [(3,)]),
        ("SELECT `a`.`i` FROM `s`.`a` WHERE `k` = 'z'", [(3,)]),
        ("SELECT s.a.i FROM s.a WHERE s.a.k = 'z'", [(3,)]),
        ("SELECT x.i, y.v FROM s.a x JOIN s.b AS y ON x.i = y.i WHERE x.i = 2", [(2, 20)]),
        ("SELECT a.i, b.v FROM s.a, s.b WHERE a.i = b.i AND k = 'x'", [(1, 10)]),
        ("SELECT l.i, r.i FROM s.a l JOIN s.a r ON l.i = r.i + 1", [(2, 1), (3, 2)]),
        ("SELECT a.i, r.i FROM s.a JOIN s.a AS r ON a.i = r.i + 2", [(3, 1)]),
        ("WITH a AS (SELECT i FROM s.a WHERE i > 1) SELECT a.i FROM a", [(2,), (3,)]),
        ("WITH a AS (SELECT i FROM a WHERE i > 1) SELECT a.i FROM a", [(2,), (3,)]),
        ("SELECT i FROM s.a WHERE i IN (SELECT i FROM s.b WHERE v > 20)", [(3,)]),
        ("SELECT i, (SELECT max(v) FROM s.b) AS m FROM s.a WHERE i = 1", [(1, 30)]),
        ("SELECT i FROM s.a o WHERE NOT EXISTS (SELECT 1 FROM s.b WHERE b.i = o.i + 1)", [(3,)]),
        ("SELECT i FROM s.a UNION ALL SELECT v FROM s.b WHERE v = 10", [(1,), (2,), (3,), (10,)]),
        ("SELECT k, count(*) FROM s.a GROUP BY k HAVING count(*) > 0 ORDER BY k LIMIT 1",
         [("x", 1)]),
        ("SELECT i FROM STREAM(s.a) WHERE a.i = 1", [(1,)]),
        ("SELECT q.i FROM STREAM s.a q WHERE q.i = 1", [(1,)]),
        ("SELECT 'größe' AS `größe`, i FROM s.a WHERE i = 1", [("größe", 1)]),
        ("SELECT i FROM (SELECT * FROM s.a) t WHERE t.k = 'x'", [(1,)]),
        ("SELECT i, sum(v) OVER (ORDER BY i) AS r FROM s.b WHERE i < 3", [(1, 10), (2, 30)]),
    ],
)  # fmt: skip
def test_sql_keeps_its_meaning_over_pinned_tables(spark, tables, text, rows) -> None:
    assert answer(spark, tables, text) == rows


def test_dataframes_keep_their_meaning_over_pinned_tables(spark, tables) -> None:
    a, b = spark.read.table("s.a"), spark.read.table("s.b")
    joined = a.join(b, a["i"] == b["i"]).where(a["k"] != "x").select(a["i"], b["v"])
    assert answer(spark, tables, joined) == [(2, 20), (3, 30)]
    other = spark.read.table("s.a")
    selfjoin = a.alias("l").join(other.alias("r"), F.col("l.i") == F.col("r.i") + 1)
    assert answer(spark, tables, selfjoin.select("l.i", "r.i")) == [(2, 1), (3, 2)]
    by_plan = a.join(other, a["i"] == other["i"]).select(a["i"], other["k"])
    assert answer(spark, tables, by_plan) == [(1, "x"), (2, "y"), (3, "z")]
    renamed = a.withColumn("j", a["i"] * 2).drop("i").where(F.col("j") > 4)
    assert answer(spark, tables, renamed) == [("z", 6)]
    nested = spark.sql("SELECT * FROM {x} JOIN s.b USING (i)", x=a.where("i = 3"))
    assert answer(spark, tables, nested) == [(3, "z", 30)]
    parts = spark.sql("SELECT i FROM s.a WHERE k = :k", args={"k": "y"})
    assert answer(spark, tables, parts) == [(2,)]


def test_a_rewrite_leaves_the_plan_and_unnamed_reads_alone(spark, tables) -> None:
    plan = query_plan("SELECT s.a.i FROM s.a")
    before = plan.SerializeToString(deterministic=True)
    assert rewrite(plan, lambda read: None) == plan
    rewrite(plan, tables)
    assert plan.SerializeToString(deterministic=True) == before


def test_a_version_relation_reads_that_version(spark, tmp_path) -> None:
    import pyarrow as pa

    from shoal.engines import version_relation

    table = Lake(tmp_path).table("s.a")
    table.append(pa.table({"i": [1]}))
    table.append(pa.table({"i": [2]}))
    from pyspark.sql.connect.proto import Plan

    frame = dataframe(Plan(root=version_relation(table.path, 0)), spark)
    assert [row.i for row in frame.collect()] == [1]


# Fingerprints ------------------------------------------------------------------------------------

MAKE = """
from pyspark.sql import functions as F
from pyspark.sql.functions import udf
THRESHOLD = 10

def helper(x):
    return x + 1

def plans(spark):
    def named(x, by=2):
        return None if x is None else x * by + THRESHOLD if x in {"a", "b", "c"} else helper(x)

    outer = 3
    def rows(batches):
        for batch in batches:
            yield batch.slice(outer)

    a, b = spark.read.table("s.a"), spark.read.table("s.b")
    yield a.where("i > 1").join(b, a["i"] == b["i"]).select(a["i"])
    yield a.withColumn("j", udf(named, "bigint")(F.col("i")))
    yield spark.range(9).mapInArrow(rows, "id bigint")
    yield spark.sql("SELECT * FROM s.a WHERE i = :i", args={"i": 1})
"""


def prints(source: str) -> list[str]:
    """Fingerprints as another process finds them."""
    script = textwrap.dedent("""
        import sys
        from shoal.engines import connect, fingerprint, plan_of
        with connect() as engine:
            spark = engine.spark
            names = {"__name__": "shoal_project.source"}
            if sys.argv[2] == "later":
                for _ in range(7):  # the client counts its plans
                    spark.range(3).where("id > 1")
            exec(sys.argv[1], names)
            for frame in names["plans"](spark):
                print(fingerprint(plan_of(frame)))
    """)
    out = []
    for when, seed in (("now", "1"), ("later", "2")):
        done = subprocess.run(
            [sys.executable, "-c", script, source, when],
            capture_output=True, text=True, env={"PYTHONHASHSEED": seed}, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        out.append(done.stdout.split())
    assert out[0] == out[1]
    assert len(set(out[0])) == 4
    return out[0]


def test_fingerprints_are_equal_in_every_process() -> None:
    prints(MAKE)


def test_a_fingerprint_follows_the_plan(spark) -> None:
    def of(frame) -> str:
        return fingerprint(plan_of(frame))

    def base():
        return spark.read.table("s.a").where("i > 1")

    assert of(base()) == of(base())
    others = [
        spark.read.table("s.a").where("i > 2"),
        spark.read.table("s.b").where("i > 1"),
        spark.readStream.table("s.a").where("i > 1"),
        base().select("i"),
        base().withColumn("j", F.lit(1)),
        base().withColumn("j", F.lit(2)),
        spark.sql("SELECT * FROM s.a WHERE i > 1"),
        spark.sql("SELECT * FROM s.a WHERE i > 2"),
        spark.read.schema("i INT").json("x"),
        spark.read.schema("i BIGINT").json("x"),
        spark.read.schema("i INT").option("mode", "FAILFAST").json("x"),
    ]
    assert len({of(frame) for frame in [base(), *others]}) == len(others) + 1


def test_a_fingerprint_follows_what_a_function_does(spark) -> None:
    def made(source: str) -> str:
        names: dict = {"__name__": "shoal_project.source"}
        exec(textwrap.dedent(source), names)  # a function with globals of its own
        column = F.udf(names["f"], "bigint")(F.col("i"))
        return fingerprint(plan_of(spark.read.table("s.a").withColumn("j", column)))

    base = """
        import math
        LIMIT = 10
        def inner(x):
            return x + LIMIT
        def helper(x):
            return inner(x)
        def f(x, by=2, *, more=1):
            return [helper(x) * by + more for _ in range(1)][0]
    """
    assert made(base) == made(base)
    changed = [
        base.replace("by + more", "by - more"),
        base.replace("range(1)", "range(2)"),
        base.replace("by=2", "by=3"),
        base.replace("more=1", "more=0"),
        base.replace("LIMIT = 10", "LIMIT = 11"),
        base.replace("return x + LIMIT", "return x - LIMIT"),
        base.replace("inner(x)\n        def f", "-inner(x)\n        def f"),
    ]
    assert len({made(source) for source in [base, *changed]}) == len(changed) + 1

    def closed(number: int):
        return F.udf(lambda x: x + number, "bigint")(F.col("i"))

    frames = [spark.read.table("s.a").withColumn("j", closed(n)) for n in (1, 2, 1)]
    one, two, again = (fingerprint(plan_of(frame)) for frame in frames)
    assert one == again != two


def test_a_function_that_calls_itself_has_a_fingerprint(spark) -> None:
    def walk(x):
        return 0 if not x else walk(x - 1)

    column = F.udf(walk, "bigint")(F.col("i"))
    plan = plan_of(spark.read.table("s.a").withColumn("j", column))
    assert fingerprint(plan) == fingerprint(plan)


# Stateful operators ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "operator"),
    [
        ("SELECT count(*) FROM STREAM(a)", "an aggregation"),
        ("SELECT k FROM STREAM a GROUP BY k", "an aggregation"),
        ("SELECT DISTINCT k FROM STREAM a", "DISTINCT"),
        ("SELECT k FROM STREAM a LIMIT 3", "LIMIT"),
        ("SELECT k FROM STREAM a ORDER BY k", "ORDER BY"),
        ("SELECT * FROM STREAM a JOIN STREAM b ON a.i = b.i", "a join of two streams"),
        ("SELECT count(*) FROM (SELECT * FROM STREAM a)", "an aggregation"),
        ("WITH s AS (SELECT * FROM STREAM a) SELECT count(*) FROM s", "an aggregation"),
        ("WITH s AS (SELECT * FROM STREAM a), n AS (SELECT count(*) AS n FROM s) SELECT * FROM n",
         "an aggregation"),
        ("SELECT k FROM STREAM a UNION SELECT k FROM b", "UNION"),
        ("SELECT * FROM b LEFT JOIN STREAM a ON a.i = b.i", "a left join to a stream"),
        ("SELECT * FROM STREAM a RIGHT JOIN b ON a.i = b.i", "a right join from a stream"),
        ("SELECT * FROM STREAM a FULL JOIN b ON a.i = b.i", "a full join with a stream"),
        ("SELECT i, row_number() OVER (ORDER BY i) AS r FROM STREAM a", "a window function"),
        ("SELECT * FROM STREAM a", None),
        ("SELECT * FROM STREAM a UNION ALL SELECT * FROM STREAM b", None),
        ("SELECT * FROM STREAM a JOIN b ON a.i = b.i", None),
        ("SELECT * FROM STREAM a LEFT JOIN b ON a.i = b.i", None),
        ("SELECT count(*) FROM a", None),
        ("SELECT * FROM STREAM a JOIN (SELECT k, count(*) AS n FROM b GROUP BY k) USING (k)", None),
        ("WITH n AS (SELECT k, count(*) AS n FROM b GROUP BY k) "
         "SELECT * FROM STREAM a JOIN n USING (k)", None),
        ("SELECT * FROM STREAM a JOIN "
         "(SELECT upstream, count(*) AS n FROM b GROUP BY upstream) b ON a.k = b.upstream", None),
    ],
)  # fmt: skip
def test_what_a_stream_cannot_do_in_sql(text, operator) -> None:
    assert stateful_operator(query_plan(text)) == operator


def test_what_a_stream_cannot_do_in_python(spark) -> None:
    s, other, t = (
        spark.readStream.table("a"), spark.readStream.table("b"), spark.read.table("c")
    )  # fmt: skip
    expected = [
        (s.groupBy("k").count(), "an aggregation"),
        (s.where("i > 1").agg(F.max("i")), "an aggregation"),
        (s.dropDuplicates(["k"]), "dropDuplicates"),
        (s.distinct(), "dropDuplicates"),
        (s.limit(3), "limit"),
        (s.orderBy("i"), "a sort"),
        (s.sample(0.5), "sample"),
        (s.join(other, "i"), "a join of two streams"),
        (s.union(t).groupBy("k").count(), "an aggregation"),
        (t.join(s, "i", "left"), "a left join to a stream"),
        (s.join(t, "i", "right"), "a right join from a stream"),
        (s.join(t, "i", "outer"), "a full join with a stream"),
        (t.join(s, "i", "left_anti"), "an anti join to a stream"),
        (t.join(s, "i", "left_semi"), "a semi join to a stream"),
        (s.select(F.max("i")), "an aggregation"),
        (s.select(F.collect_list("i")), "an aggregation"),
        (s.selectExpr("count(*) + 1"), "an aggregation"),
        (
            s.withColumn("r", F.row_number().over(Window.partitionBy("k").orderBy("i"))),
            "a window function",
        ),
        (s.intersect(t), "INTERSECT or EXCEPT"),
        (spark.sql("SELECT count(*) FROM {x}", x=s), "an aggregation"),
        (spark.sql("SELECT * FROM STREAM a").groupBy("k").count(), "an aggregation"),
        (spark.sql("SELECT count(*) FROM {x}", x=t), None),
        (s.selectExpr("upper(k)", "i + 1").select(F.sqrt("i"), F.array_max("l")), None),
        (s.union(other), None),
        (s.join(t, "i"), None),
        (s.join(t, "i", "left"), None),
        (s.join(t, "i", "left_semi"), None),
        (s.join(t.groupBy("k").count(), "k"), None),
        (s.join(t.distinct().orderBy("k").limit(3), "k"), None),
        (s.withColumn("j", F.explode("l")).where("j > 1").select("j"), None),
        (t.groupBy("k").count(), None),
    ]
    found = [stateful_operator(plan_of(frame)) for frame, _ in expected]
    assert found == [operator for _, operator in expected]


# Sessions ----------------------------------------------------------------------------------------


def test_what_is_no_engine_is_refused() -> None:
    with pytest.raises(EngineError, match="'spark://host' is no engine") as error:
        connect("spark://host")
    assert "embedded" in error.value.hint


def test_the_engine_runs_in_this_process(engine) -> None:
    assert engine.embedded
    assert engine.spark.conf.get("spark.sql.session.timeZone") == "UTC"
    assert engine.spark.sql("SELECT 1 AS a").collect()[0].a == 1


INTERRUPTED = """
import os, signal
from shoal.engines import connect
with connect() as engine:
    try:
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()
    except KeyboardInterrupt:
        print("interrupted", engine.spark.range(3).count())
"""


def test_ctrl_c_reaches_python_and_not_the_engine() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "interrupted 3\n"), done.stderr


def test_each_rewritten_query_names_its_inputs_for_itself_and_is_known_again(engine) -> None:
    """Apache Spark makes views of the session of them: two threads' queries must not share them."""
    plan = plan_of(engine.spark.sql("SELECT a.id FROM first a JOIN second USING (id)"))

    def replace(_read):
        return plan_of(engine.spark.range(3)).root

    one, other = rewrite(plan, replace), rewrite(plan, replace)
    names = [
        {reference.subquery_alias.alias for reference in made.root.with_relations.references}
        for made in (one, other)
    ]
    assert [len(found) for found in names] == [2, 2] and not names[0] & names[1]
    assert fingerprint(one) == fingerprint(other)
