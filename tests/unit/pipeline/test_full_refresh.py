"""A source is not made anew under a stream that reads it: plan and run refuse alike."""

import pytest

from shoal.errors import PipelineError

CHAIN = """
    @dp.table(name="bronze.a", table_properties={"delta.enableChangeDataFeed": "true"})
    def a():
        return spark.readStream.format("json").schema("id long").load("landing")

    @dp.table(name="silver.b")
    def b():
        return spark.readStream{more}.table("bronze.a")

    @dp.table(name="gold.c")
    def c():
        return spark.readStream.table("silver.b")
"""


def test_plan_and_run_refuse_before_anything_changes(project):
    project.python(CHAIN.replace("{more}", ""))
    project.land("1.json", [{"id": 1}])
    assert project.plan(full_refresh=["bronze.a"])["silver.b"][0] == "full"
    project.ok()
    before = project.versions()
    for ask in (project.plan, project.run):
        with pytest.raises(PipelineError, match=r"tables.py:\d+: 'silver.b' streams") as error:
            ask(full_refresh=["bronze.a"])
        wanted = [name for name in ("bronze.a", "silver.b", "gold.c")]
        assert error.value.hint.endswith(" ".join(f"--full-refresh {name}" for name in wanted))
    assert project.versions() == before
    project.ok(full_refresh=["bronze.a", "silver.b", "gold.c"])
    project.ok(full_refresh_all=True)
    project.ok(select=["bronze.a"], full_refresh=["bronze.a"])
    assert "--full-refresh silver.b" in project.run()["silver.b"].error


@pytest.mark.parametrize("option", ["readChangeFeed", "skipChangeCommits", "ignoreChanges"])
def test_a_stream_that_takes_changes_goes_on(project, option):
    project.python(CHAIN.replace("{more}", f'.option("{option}", "true")'))
    project.land("1.json", [{"id": 1}])
    project.ok()
    project.land("2.json", [{"id": 2}])
    project.ok(full_refresh=["bronze.a"])
    found = {"readChangeFeed": [1, 2], "skipChangeCommits": [1], "ignoreChanges": [1, 1, 2]}
    assert project.rows("gold.c", "id") == found[option]
