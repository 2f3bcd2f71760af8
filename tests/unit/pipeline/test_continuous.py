"""Rounds of a continuous run, in process."""

import itertools
import time

import pytest

from shoal.errors import PipelineError
from shoal.pipeline import rounds, trigger_seconds

TABLES = """
@dp.table(name="bronze.events")
def bronze():
    return spark.readStream.schema("id BIGINT").json("landing")

@dp.materialized_view(name="gold.count")
@shoal.expect_or_fail("few", "n < 4")
def gold():
    return spark.read.table("bronze.events").agg(F.count("*").alias("n"))
"""


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10s", 10),
        ("500ms", 0.5),
        ("2 minutes", 120),
        ("1h", 3600),
        ("0.5", 0.5),
        ("10 seconds", 10),
    ],
)
def test_a_trigger_is_a_length_of_time(text, seconds) -> None:
    assert trigger_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1s", "10 parsecs", "1 s 2"])
def test_anything_else_is_no_trigger(text) -> None:
    with pytest.raises(PipelineError, match="no length of time"):
        trigger_seconds(text)


def test_a_round_begins_one_interval_after_the_last_began() -> None:
    begun = time.monotonic()
    assert list(itertools.islice(rounds(0.05), 4)) == [0, 1, 2, 3]
    assert time.monotonic() - begun >= 0.15


def test_rounds_report_what_happened_and_go_on_after_a_failure(project) -> None:
    project.python(TABLES)
    project.land("0.json", [{"id": 0}])
    with project.open() as space:
        reports = space.run_continuous(space.options(), trigger=0.0, models=False)
        first = next(reports)
        assert {t.table: t.status for t in first.tables} == {
            "bronze.events": "refreshed",
            "gold.count": "refreshed",
        }
        for number in (1, 2):
            project.land(f"{number}.json", [{"id": number}])
            assert next(reports).tables[0].rows == 1
        project.land("3.json", [{"id": 3}])
        for _ in range(2):  # each round tries again, and says so
            failed = next(reports)
            assert failed.failed
            assert {t.table: t.status for t in failed.tables}["gold.count"] == "failed"
        project.python(TABLES.replace("n < 4", "n < 40"))  # the sources stay as they were loaded
        assert next(reports).failed
    assert project.rows("bronze.events", "id") == [0, 1, 2, 3]
    assert project.rows("gold.count", "n") == [3]


def test_a_full_refresh_is_done_once(project) -> None:
    project.python(TABLES)
    project.land("0.json", [{"id": 0}])
    project.ok()
    with project.open() as space:
        options = space.options(full_refresh_all=True)
        reports = space.run_continuous(options, trigger=0.0, models=False)
        assert [t.refresh for t in next(reports).tables] == ["full", "full"]
        project.land("1.json", [{"id": 1}])
        assert next(reports).tables[0].refresh == "incremental"


def test_it_ends_after_so_many_failures_in_a_row(project) -> None:
    project.python(TABLES)
    project.land("0.json", [{"id": i} for i in range(5)])
    with project.open() as space:
        options = space.options()
        reports = list(space.run_continuous(options, trigger=0.0, models=False, max_failures=3))
    assert [report.failed for report in reports] == [True] * 3


def test_a_lake_that_another_run_holds_is_waited_for(project) -> None:
    project.python(TABLES)
    project.land("0.json", [{"id": 0}])
    with project.open() as space:
        reports = space.run_continuous(space.options(), trigger=0.0, models=False)
        with project.lake.writing():
            assert "is writing to" in (next(reports).error or "")
        assert next(reports).tables[0].rows == 1


def test_a_round_with_nothing_new_writes_nothing(project) -> None:
    project.python(TABLES)
    project.land("0.json", [{"id": 0}])
    project.ok()
    with project.open() as space:
        options = space.options()
        space.run(options, models=False)
        before = sorted(project.storage.rglob("*"))
        space.run(options, models=False)
        assert sorted(project.storage.rglob("*")) == before
