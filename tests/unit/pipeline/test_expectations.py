"""Expectations: what is kept, counted, left out, and what stops an update."""

import pytest

from shoal.errors import PipelineError

SOURCE = """
@dp.table(name="t")
{decorators}
def t():
    return spark.readStream.schema("id BIGINT, amount DOUBLE").json("landing")
"""
ROWS = [{"id": 1, "amount": 1.0}, {"id": 2, "amount": -1.0}, {"id": 3, "amount": None}]


def given(project, decorators: str, rows=ROWS) -> None:
    project.python(SOURCE.format(decorators=decorators))
    project.land("1.json", rows)


def counted(project) -> list[tuple]:
    return project.rows(
        "shoal.expectations", "dataset", "expectation", "action", "passed", "failed", "version"
    )


@pytest.mark.parametrize("module", ["shoal", "dp"])
def test_rows_that_break_a_condition_are_kept_or_left_out_and_counted(project, module) -> None:
    given(
        project,
        f'@{module}.expect("small", "amount < 10")\n'
        f'@{module}.expect_or_drop("positive", "amount > 0")\n'
        f'@{module}.expect_all({{"one": "id = 1", "two": "id = 2"}})\n'
        f'@{module}.expect_all_or_drop({{"known": "id IS NOT NULL"}})\n'
        f'@{module}.expect_all_or_fail({{"low": "id < 10"}})',
    )
    found = project.ok()["default.t"]
    assert (found.rows, found.dropped) == (1, 2)
    assert project.rows("t", "id") == [1]
    assert found.expectations["positive"] == {"action": "drop", "passed": 1, "failed": 2}
    assert counted(project) == [
        ("default.t", "known", "drop", 3, 0, 0),
        ("default.t", "low", "fail", 3, 0, 0),
        ("default.t", "one", "warn", 1, 2, 0),
        ("default.t", "positive", "drop", 1, 2, 0),
        ("default.t", "small", "warn", 2, 1, 0),
        ("default.t", "two", "warn", 1, 2, 0),
    ]
    assert project.lake.table("t").schema().names == ["id", "amount"]


def test_null_breaks_a_condition_and_false_does_too(project) -> None:
    given(project, '@shoal.expect_or_drop("positive", "amount > 0 OR amount IS NULL")')
    assert project.ok()["default.t"].dropped == 1
    assert project.rows("t", "id") == [1, 3]


def test_a_failed_update_commits_nothing_and_is_counted(project) -> None:
    given(project, '@shoal.expect_or_fail("positive", "amount > 0")')
    found = project.run()["default.t"]
    assert found.status == "failed"
    assert "transformations/tables.py:" in found.error
    assert "2 of 3 rows for 'default.t' break 'positive' (amount > 0)" in found.error
    assert not project.lake.table("t").exists()
    assert counted(project) == [("default.t", "positive", "fail", 1, 2, None)]
    project.land("1.json", [{"id": 1, "amount": 1.0}])
    assert project.ok()["default.t"].rows == 1
    project.land("2.json", [{"id": 4, "amount": 0.0}])
    assert project.run()["default.t"].status == "failed"
    assert project.rows("t", "id") == [1]
    project.land("2.json", [{"id": 4, "amount": 4.0}])
    assert project.ok()["default.t"].rows == 1, "the files of a failed update are still new"


def test_a_drop_that_leaves_nothing_still_moves_on(project) -> None:
    given(project, '@shoal.expect_or_drop("none", "false")')
    assert project.ok()["default.t"].dropped == 3
    before = project.versions()
    assert project.ok()["default.t"].status == "unchanged"
    assert project.versions() == before
    assert project.rows("t") == []


def test_a_new_condition_recomputes_a_view(project) -> None:
    source = """
        @dp.materialized_view(name="t")
        @shoal.expect_or_drop("positive", "amount > {low}")
        def t():
            return spark.read.schema("id BIGINT, amount DOUBLE").json("landing")
    """
    project.python(source.format(low=0))
    project.land("1.json", ROWS)
    assert project.ok()["default.t"].rows == 1
    project.python(source.format(low=-5))
    assert project.ok()["default.t"].reason == "its definition changed"
    assert project.rows("t", "id") == [1, 2]


def test_many_expectations_at_once(project) -> None:
    conditions = {f"not_{number}": f"id <> {number}" for number in range(40)}
    given(project, f"@shoal.expect_all({conditions!r})")
    found = project.ok()["default.t"]
    failed = {name for name, count in found.expectations.items() if count["failed"]}
    assert failed == {"not_1", "not_2", "not_3"}


@pytest.mark.parametrize(
    ("decorators", "message"),
    [
        ('@shoal.expect("bad", "amount >")', "Expectation 'bad' does not parse: 'amount >'"),
        ('@shoal.expect_or_drop("bad", "")', "Expectation 'bad' does not parse: ''"),
        ('@shoal.expect("bad", "1 = 1; DROP TABLE x")', "Expectation 'bad'"),
        ('@dp.expect("bad", "(a")', "Expectation 'bad' does not parse"),
    ],
)
def test_a_condition_that_does_not_parse_names_its_place(project, decorators, message) -> None:
    given(project, decorators)
    with pytest.raises(PipelineError) as error:
        project.run()
    assert str(error.value).startswith("transformations/tables.py:6: ")
    assert message in str(error.value)


def test_a_condition_over_a_column_that_is_not_there_names_the_table(project) -> None:
    given(project, '@shoal.expect("bad", "amuont > 0")')
    found = project.run()["default.t"]
    assert found.status == "failed"
    assert found.error.startswith("transformations/tables.py:5: ")
    assert "amuont" in found.error


def test_an_expectation_above_the_table_says_where_it_belongs(project) -> None:
    project.python("""
        @shoal.expect("positive", "amount > 0")
        @dp.table(name="t")
        def t():
            return spark.readStream.schema("id BIGINT").json("landing")
    """)
    with pytest.raises(PipelineError, match="stands above the table's decorator") as error:
        project.run()
    assert str(error.value).startswith("transformations/tables.py:5: ")
    assert "Put @dp.table" in error.value.hint


VIEW = """
@dp.temporary_view(name="clean")
@shoal.expect("small", "amount < 10")
@shoal.expect_or_drop("positive", "amount > 0")
@shoal.expect_or_drop("known", "id IS NOT NULL")
def clean():
    return spark.{read}.schema("id BIGINT, amount DOUBLE").json("landing")
"""


def test_a_view_of_a_stream_drops_and_counts_the_rows_of_each_run(project) -> None:
    project.python(
        VIEW.format(read="readStream")
        + """
@dp.table(name="t")
def t():
    return spark.readStream.table("clean").select("id")
"""
    )
    project.land("1.json", ROWS)
    found = project.ok()["default.t"]
    assert (found.rows, found.dropped) == (1, 2)
    assert found.expectations["default.clean.positive"]["failed"] == 2
    project.land("2.json", [{"id": 4, "amount": 20.0}, {"id": None, "amount": -1.0}])
    found = project.ok()["default.t"]
    assert (found.rows, found.dropped) == (1, 1)
    assert project.rows("t", "id") == [1, 4]
    assert [row[1:5] for row in counted(project) if row[0] == "default.clean"] == sorted(
        [
            ("small", "warn", 2, 1),
            ("positive", "drop", 1, 2),
            ("known", "drop", 3, 0),
            ("small", "warn", 1, 1),
            ("positive", "drop", 1, 1),
            ("known", "drop", 1, 1),
        ],
        key=repr,
    )
    before = len(counted(project))
    project.ok()
    assert len(counted(project)) == before


def test_views_upon_views_filter_and_fail_in_order(project) -> None:
    text = (
        VIEW.format(read="read")
        + """
@dp.temporary_view(name="upper")
@shoal.expect_or_fail("few", "id < {most}")
def upper():
    return spark.read.table("clean")

@dp.materialized_view(name="m")
def m():
    return spark.sql("SELECT count(*) AS n, sum(amount) AS s FROM upper")
"""
    )
    project.land("1.json", [*ROWS, {"id": 7, "amount": 5.0}])
    project.python(text.replace("{most}", "5"))
    found = project.run()["default.m"]
    assert "1 of 2 rows for 'default.upper' break 'few' (id < 5)" in found.error
    assert not project.lake.table("m").exists()
    project.python(text.replace("{most}", "8"))
    project.ok()
    assert project.rows("m", "n", "s") == [(2, 6.0)]
    project.python(text.replace("{most}", "8").replace("amount > 0", "amount > 2"))
    assert project.plan()["default.m"] == ("full", "its definition changed")
    project.ok()
    assert project.rows("m", "n", "s") == [(1, 5.0)]


def test_a_view_that_follows_its_input_sees_through_a_checked_view(project) -> None:
    project.sql("""
        CREATE STREAMING TABLE t AS SELECT * FROM STREAM read_files(
            'landing', format => 'json', schema => 'id long, amount long');
        CREATE TEMPORARY VIEW v (CONSTRAINT positive EXPECT (amount > 0) ON VIOLATION DROP ROW)
            AS SELECT * FROM t;
        CREATE MATERIALIZED VIEW m AS SELECT id % 2 AS odd, sum(amount) AS s FROM v GROUP BY 1;
    """)
    project.land("1.json", [{"id": i, "amount": i - 3} for i in range(40)])
    project.ok()
    project.land("2.json", [{"id": 1, "amount": 1000}, {"id": 1, "amount": -1000}])
    assert project.ok()["default.m"].refresh == "incremental"
    evens, odds = sum(range(1, 37, 2)), sum(range(2, 37, 2))
    assert project.rows("m", "odd", "s") == [(0, evens), (1, odds + 1000)]


def test_decorators_leave_the_function_callable() -> None:
    import shoal

    @shoal.expect("a", "x > 0")
    @shoal.expect_all_or_drop({"b": "y > 0"})
    def function() -> int:
        return 3

    assert function() == 3
