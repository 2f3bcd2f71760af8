"""Flows that run once, and several AUTO CDC flows into one table."""

import random

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from projects import SmallProject
from shoal.errors import PipelineError

BACKFILL = """
    dp.create_streaming_table("bronze.t")

    @dp.append_flow(target="bronze.t")
    def live():
        return spark.readStream.format("json").schema("id long").load("landing/live")

    @dp.append_flow(target="bronze.t", once=True)
    def old():
        return spark.read.table("history.t")
"""
TWO = """
    def source(folder):
        return spark.readStream.format("json").schema(
            "id int, seq int, op string, name string, city string"
        ).load(folder)

    @dp.temporary_view
    def north():
        return source("landing/north")

    @dp.temporary_view
    def south():
        return source("landing/south")

    dp.create_streaming_table("silver.people")
    for side in ("north", "south"):
        dp.create_auto_cdc_flow(
            target="silver.people", source=side, name=side, keys=["id"], sequence_by="seq",
            apply_as_deletes="op = 'D'", except_column_list=["op", "seq"], {more}
        )
"""


def ids(*values):
    return pa.table({"id": list(values)})


def test_a_backfill_runs_once_and_again_at_a_full_refresh(project):
    history = project.lake.table("history.t")
    history.append(ids(1, 2))
    project.land("live/1.json", [{"id": 10}])
    project.python(BACKFILL)
    project.ok()
    assert project.rows("bronze.t", "id") == [1, 10, 2]
    history.append(ids(3))
    assert project.ok()["bronze.t"].status == "unchanged"
    project.land("live/2.json", [{"id": 11}])
    project.ok()
    assert project.rows("bronze.t", "id") == [1, 10, 11, 2]
    project.ok(full_refresh=["bronze.t"])
    assert project.rows("bronze.t", "id") == [1, 10, 11, 2, 3]


def test_a_backfill_that_comes_later_is_added(project):
    project.lake.table("history.t").append(ids(1, 2))
    project.land("live/1.json", [{"id": 10}])
    project.python(BACKFILL.split('@dp.append_flow(target="bronze.t", once', maxsplit=1)[0])
    project.ok()
    project.sql("CREATE FLOW old AS INSERT INTO ONCE bronze.t BY NAME SELECT * FROM history.t")
    assert project.plan()["bronze.t"][0] == "incremental"
    project.ok()
    assert project.plan()["bronze.t"][0] == "none"
    assert project.rows("bronze.t", "id") == [1, 10, 2]


def test_a_backfill_that_failed_runs_again(project):
    project.lake.table("history.t").append(ids(1, 2))
    project.land("live/1.json", [{"id": 10}])
    failing = '@shoal.expect_or_fail("small", "id < 2")\n    def old'
    project.python(BACKFILL.replace("def old", failing))
    assert "small" in project.run()["bronze.t"].error
    project.python(BACKFILL.replace("def old", failing.replace("< 2", "< 3")))
    project.ok()
    assert project.rows("bronze.t", "id") == [1, 10, 2]


def test_a_flow_that_runs_once_reads_no_stream(project):
    project.lake.table("history.t").append(ids(1))
    project.python(BACKFILL.replace("spark.read.table", "spark.readStream.table"))
    with pytest.raises(PipelineError, match="'old' runs once and reads a stream"):
        project.plan()


def test_a_table_of_changes_begins_with_a_snapshot(project):
    rows = pa.table({"id": [1, 2], "name": ["a", "b"], "seq": [0, 0], "op": ["U", "U"]})
    project.lake.table("history.people").append(rows)
    project.land("1.json", [{"id": 1, "name": "new", "seq": 5, "op": "U"}])
    project.sql(
        """
        CREATE STREAMING TABLE changes AS SELECT * FROM STREAM read_files(
            'landing', format => 'json', schema => 'id long, name string, seq long, op string');
        CREATE STREAMING TABLE people;
        CREATE FLOW first AS AUTO CDC ONCE INTO people FROM history.people KEYS (id)
            APPLY AS DELETE WHEN op = 'D' SEQUENCE BY seq COLUMNS * EXCEPT (seq, op);
        CREATE FLOW then AS AUTO CDC INTO people FROM STREAM(changes) KEYS (id)
            APPLY AS DELETE WHEN op = 'D' SEQUENCE BY seq COLUMNS * EXCEPT (seq, op);
        """
    )
    project.ok()
    assert project.rows("people", "id", "name") == [(1, "new"), (2, "b")]
    project.land("2.json", [{"id": 2, "seq": 6, "op": "D"}])
    project.ok()
    assert project.rows("people", "id", "name") == [(1, "new")]


def events(seed, count):
    source = random.Random(seed)
    return [
        {
            "id": source.randrange(5),
            "seq": seq,
            "op": source.choice("UUUD"),
            "name": source.choice(["a", "b", None]),
            "city": source.choice(["c", "d", None]),
        }
        for seq in source.sample(range(1000), count)
    ]


@given(seed=st.integers(0, 10**6), scd=st.sampled_from([1, 2]), fills=st.booleans())
@settings(
    max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_flows_beside_each_other_equal_one_over_all_events(
    tmp_path_factory, engine, seed, scd, fills
):
    project = SmallProject(tmp_path_factory.mktemp("flows") / "project", engine)
    more = f"stored_as_scd_type={scd}, ignore_null_updates={fills}"
    one = f"""
    @dp.temporary_view
    def both():
        return source("landing/*")

    dp.create_streaming_table("silver.one")
    dp.create_auto_cdc_flow(
        target="silver.one", source="both", keys=["id"], sequence_by="seq",
        apply_as_deletes="op = 'D'", except_column_list=["op", "seq"], {more}
    )
    """
    project.python(TWO.replace("{more}", more) + one)
    every = events(seed, 24)
    project.land("south/none.json", "")
    for part, side in enumerate(["north", "south", "north"]):
        project.land(f"{side}/{part}.json", every[part * 8 : part * 8 + 8])
        project.ok()
    assert project.rows("silver.people") == project.rows("silver.one") != []


def test_flows_that_merge_differently_are_refused(project):
    text = TWO.replace("{more}", 'ignore_null_updates=side == "north"')
    project.python(text)
    with pytest.raises(PipelineError, match="AUTO CDC flows that differ in keys"):
        project.plan()


def test_a_flow_that_is_declared_no_more_keeps_its_rows(project):
    text = TWO.replace("{more}", "")
    project.python(text)
    project.land("north/1.json", [{"id": 1, "seq": 1, "op": "U", "name": "n"}])
    project.land("south/1.json", [{"id": 2, "seq": 1, "op": "U", "name": "s"}])
    project.ok()
    project.python(text.replace('("north", "south")', '("north",)'))
    project.land("north/2.json", [{"id": 1, "seq": 2, "op": "D"}])
    project.ok()
    assert project.rows("silver.people", "id") == [2]
    project.ok(full_refresh=["silver.people"])
    assert project.rows("silver.people", "id") == []


@pytest.mark.parametrize(
    ("clause", "found"),
    [
        ("IGNORE NULL UPDATES", ("a", "x")),
        ("IGNORE NULL UPDATES ON (name)", ("a", None)),
        ("IGNORE NULL UPDATES ON * EXCEPT (name)", (None, "x")),
    ],
)
def test_nulls_are_ignored_in_some_columns(project, clause, found):
    project.land("1.json", [{"id": 1, "seq": 1, "name": "a", "city": "x"}])
    project.sql(
        f"""
        CREATE STREAMING TABLE changes AS SELECT * FROM STREAM read_files(
            'landing', format => 'json', schema => 'id long, seq long, name string, city string');
        CREATE STREAMING TABLE people;
        CREATE FLOW f AS AUTO CDC INTO people FROM STREAM(changes) KEYS (id)
            {clause} SEQUENCE BY seq COLUMNS * EXCEPT (seq);
        """
    )
    project.ok()
    project.land("2.json", [{"id": 1, "seq": 2}])
    project.ok()
    assert project.rows("people", "name", "city") == [found]


@pytest.mark.parametrize("name", ["column_list", "except_column_list"])
def test_lists_of_ignored_nulls_are_checked(project, name):
    project.land("north/1.json", [{"id": 1, "seq": 1}])
    project.land("south/1.json", [{"id": 2, "seq": 1}])
    project.python(TWO.replace("{more}", f'ignore_null_updates_{name}=["naem"]'))
    error = project.run()["silver.people"].error
    assert f"ignore_null_updates_{name} names 'naem'" in error
    more = f'ignore_null_updates=True, ignore_null_updates_{name}=["name"]'
    project.python(TWO.replace("{more}", more))
    with pytest.raises(PipelineError, match="both ignore_null_updates and"):
        project.plan()
