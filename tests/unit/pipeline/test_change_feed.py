"""Change data feeds as sources: updates and deletes arrive once, whoever made them."""

import datetime as dt

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from projects import SmallProject
from shoal.errors import PipelineError

FEED = "delta.enableChangeDataFeed"
ON = f'table_properties={{"{FEED}": "true"}}'
LOG = """
    @dp.table(name="silver.log")
    def log():
        return spark.readStream.option("readChangeFeed", "true"){more}.table("{source}")
"""
PEOPLE = f"""
    @dp.table(name="bronze.events")
    def events():
        return spark.readStream.format("json").schema("id int, seq int, op string, name string"
        ).load("landing")

    dp.create_streaming_table("silver.people", {ON})
    dp.create_auto_cdc_flow(
        target="silver.people", source="bronze.events", keys=["id"], sequence_by="seq",
        apply_as_deletes="op = 'D'", except_column_list=["op", "seq"]
    )
"""
GOLD = """
    @dp.temporary_view(name="changes")
    def changes():
        found = spark.readStream.option("readChangeFeed", "true").table("silver.people")
        return found.filter("_change_type <> 'update_preimage'")

    dp.create_streaming_table("gold.names")
    dp.create_auto_cdc_flow(
        target="gold.names", source="changes", keys=["id"], sequence_by="_commit_version",
        apply_as_deletes="_change_type = 'delete'",
        except_column_list=["_change_type", "_commit_version", "_commit_timestamp"]
    )
"""


def foreign(project, rows, name="bronze.foreign", **options):
    path = project.lake.table(name).path
    table = pa.table({"id": [r[0] for r in rows], "v": [r[1] for r in rows]})
    write_deltalake(path, table, **options)
    return path


def on(project, rows=((1, "a"), (2, "b"), (3, "c"))):
    return foreign(project, rows, configuration={FEED: "true"})


def log(project):
    return project.rows("silver.log", "_commit_version", "_change_type", "id", "v")


def test_every_kind_of_foreign_change_arrives_once(project):
    path = on(project)
    project.python(LOG.format(source="bronze.foreign", more=""))
    project.ok()
    assert log(project) == [(0, "insert", 1, "a"), (0, "insert", 2, "b"), (0, "insert", 3, "c")]
    foreign(project, [(4, "d")], mode="append")
    DeltaTable(path).delete("id = 2")
    project.ok()
    DeltaTable(path).update(updates={"v": "'z'"}, predicate="id = 3")
    new = pa.table({"id": [1, 9], "v": ["m", "n"]})
    merge = DeltaTable(path).merge(new, "s.id = t.id", source_alias="s", target_alias="t")
    merge.when_matched_update_all().when_not_matched_insert_all().execute()
    project.ok()
    foreign(project, [(1, "m"), (4, "q")], mode="overwrite")
    project.ok()
    assert project.ok()["silver.log"].status == "unchanged"
    assert [row for row in log(project) if row[0]] == [
        (1, "insert", 4, "d"),
        (2, "delete", 2, "b"),
        (3, "update_postimage", 3, "z"),
        (3, "update_preimage", 3, "c"),
        (4, "insert", 9, "n"),
        (4, "update_postimage", 1, "m"),
        (4, "update_preimage", 1, "a"),
        (5, "delete", 3, "z"),
        (5, "delete", 4, "d"),
        (5, "delete", 9, "n"),
        (5, "insert", 4, "q"),
    ]


def test_the_feed_equals_that_of_delta_rs(project):
    path = on(project)
    foreign(project, [(4, None), (4, None)], mode="append")
    DeltaTable(path).delete("id = 2")
    more = '.option("startingVersion", 0)'
    project.python(LOG.format(source="bronze.foreign", more=more))
    project.ok()
    found = DeltaTable(path).load_cdf(0).read_all()
    names = ("_commit_version", "_change_type", "id", "v", "_commit_timestamp")
    columns = [pa.table(found)[name].to_pylist() for name in names]
    mine = project.rows("silver.log", *names)
    assert [row[:-1] for row in mine] == sorted(zip(*columns[:-1], strict=True), key=repr)
    assert {row[-1].timestamp() for row in mine} == {
        moment.replace(tzinfo=dt.UTC).timestamp() for moment in columns[-1]
    }


def test_updates_and_deletes_flow_from_silver_to_gold(project):
    project.python(PEOPLE + GOLD)
    project.land("1.json", [{"id": i, "seq": 1, "op": "U", "name": f"n{i}"} for i in range(5)])
    project.ok()
    assert project.rows("gold.names") == project.rows("silver.people")
    project.land(
        "2.json",
        [
            {"id": 1, "seq": 2, "op": "U", "name": "new"},
            {"id": 2, "seq": 2, "op": "D", "name": None},
            {"id": 7, "seq": 2, "op": "U", "name": "n7"},
        ],
    )
    project.ok()
    assert project.rows("gold.names", "id", "name") == [
        (0, "n0"),
        (1, "new"),
        (3, "n3"),
        (4, "n4"),
        (7, "n7"),
    ]
    project.land("3.json", [{"id": 2, "seq": 3, "op": "U", "name": "back"}])
    project.ok()
    assert (2, "back") in project.rows("gold.names", "id", "name")
    project.ok(full_refresh=["silver.people"])
    assert project.rows("gold.names") == project.rows("silver.people")


def test_a_table_made_anew_by_its_pipeline_gives_only_what_differs(project):
    project.python(PEOPLE + LOG.format(source="silver.people", more=""))
    project.land("1.json", [{"id": i, "seq": 1, "op": "U", "name": f"n{i}"} for i in range(5)])
    project.ok()
    project.land("2.json", [{"id": 1, "seq": 2, "op": "U", "name": "new"}])
    project.ok()
    assert project.rows("silver.log", "_change_type", "id", "name")[5:] == [
        ("update_postimage", 1, "new"),
        ("update_preimage", 1, "n1"),
    ]


def test_a_view_of_changes_between_versions(project):
    path = on(project)
    DeltaTable(path).delete("id = 2")
    DeltaTable(path).delete("id = 3")
    project.python(
        """
        @dp.materialized_view(name="gold.one")
        def one():
            reader = spark.read.option("readChangeFeed", "true")
            return reader.option("startingVersion", 1).option("endingVersion", 1).table(
                "bronze.foreign")

        @dp.materialized_view(name="gold.all")
        def all_():
            reader = spark.read.option("readChangeFeed", "true").option("startingVersion", "0")
            return reader.table("bronze.foreign").groupBy("_change_type").count()
        """
    )
    project.ok()
    assert project.rows("gold.one", "_change_type", "id") == [("delete", 2)]
    assert project.rows("gold.all") == [("delete", 2), ("insert", 3)]
    DeltaTable(path).delete("id = 1")
    project.ok()
    assert project.rows("gold.one", "_change_type", "id") == [("delete", 2)]
    assert project.rows("gold.all") == [("delete", 3), ("insert", 3)]


def test_a_table_without_a_feed_is_refused_before_anything_runs(project):
    foreign(project, [(1, "a")])
    project.python(LOG.format(source="bronze.foreign", more=""))
    with pytest.raises(PipelineError, match="bronze.foreign' records no changes") as error:
        project.plan()
    assert "TBLPROPERTIES" in error.value.hint
    project.python(PEOPLE.replace(f", {ON}", "") + LOG.format(source="silver.people", more=""))
    with pytest.raises(
        PipelineError, match=r"tables.py:\d+: 'silver.people' \(.*records no"
    ) as error:
        project.plan()
    assert FEED in error.value.hint


def test_a_feed_turned_on_later_is_recorded_from_then_on(project):
    text = PEOPLE + LOG.format(source="silver.people", more="")
    project.python(PEOPLE.replace(f", {ON}", ""))
    project.land("1.json", [{"id": 1, "seq": 1, "op": "U", "name": "a"}])
    project.ok()
    project.python(text)
    project.ok()
    project.land("2.json", [{"id": 1, "seq": 2, "op": "U", "name": "b"}])
    project.ok()
    assert project.rows("silver.log", "_change_type", "name") == [
        ("insert", "a"),
        ("update_postimage", "b"),
        ("update_preimage", "a"),
    ]


def test_changes_of_a_partitioned_table(project):
    path = project.lake.table("bronze.foreign").path
    rows = pa.table({"id": [1, 2, 3], "v": ["a", "b", None]})
    write_deltalake(path, rows, configuration={FEED: "true"}, partition_by=["v"])
    project.python(LOG.format(source="bronze.foreign", more=""))
    project.ok()
    DeltaTable(path).delete("id = 2")
    DeltaTable(path).update(updates={"v": "'z'"}, predicate="id = 3")
    project.ok()
    assert [row for row in log(project) if row[0]] == [
        (1, "delete", 2, "b"),
        (2, "update_postimage", 3, "z"),
        (2, "update_preimage", 3, None),
    ]


def test_changes_in_sql(project):
    path = on(project)
    DeltaTable(path).delete("id = 2")
    project.sql(
        """
        CREATE STREAMING TABLE silver.log AS SELECT * FROM STREAM table_changes(
            'bronze.foreign', 1);
        CREATE MATERIALIZED VIEW first AS SELECT * FROM table_changes('bronze.foreign', 0, 0);
        CREATE MATERIALIZED VIEW deletes AS
            SELECT id, _commit_version FROM table_changes('bronze.foreign', '2001-01-01') AS c
            WHERE c._change_type = 'delete';
        """
    )
    project.ok()
    DeltaTable(path).delete("id = 3")
    project.ok()
    assert log(project) == [(1, "delete", 2, "b"), (2, "delete", 3, "c")]
    assert project.rows("default.first", "_change_type", "id") == [
        ("insert", 1),
        ("insert", 2),
        ("insert", 3),
    ]
    assert project.rows("default.deletes", "id", "_commit_version") == [(2, 1), (3, 2)]
    project.sql("CREATE MATERIALIZED VIEW m AS SELECT * FROM table_changes('bronze.foreign')")
    with pytest.raises(PipelineError, match="table_changes.* takes a table, a first version"):
        project.plan()


ACTS = st.lists(
    st.tuples(
        st.sampled_from(["put", "delete", "overwrite", "optimize"]),
        st.dictionaries(st.integers(0, 6), st.sampled_from("abc"), max_size=4),
    ),
    max_size=4,
)


def act(path, kind, rows):
    table = pa.table(
        {"id": pa.array(rows, pa.int64()), "name": pa.array(rows.values(), pa.string())}
    )
    if kind == "overwrite":
        write_deltalake(path, table, mode="overwrite")
    elif kind == "optimize":
        DeltaTable(path).optimize.compact()
    elif kind == "delete" and rows:
        DeltaTable(path).delete(f"id IN ({', '.join(map(str, rows))})")
    elif kind == "put" and rows:
        merge = DeltaTable(path).merge(table, "s.id = t.id", source_alias="s", target_alias="t")
        merge.when_matched_update_all().when_not_matched_insert_all().execute()


@given(runs=st.lists(ACTS, min_size=2, max_size=3))
@settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_merging_a_feed_gives_the_table_again(tmp_path_factory, engine, runs):
    project = SmallProject(tmp_path_factory.mktemp("feed") / "project", engine)
    path = project.lake.table("silver.people").path
    rows = pa.table({"id": [0, 1, 2], "name": ["a", "b", "c"]})
    write_deltalake(path, rows, configuration={FEED: "true"})
    project.python(GOLD)
    project.ok()
    for acts in runs:
        for kind, given_rows in acts:
            act(path, kind, given_rows)
        project.ok()
        assert project.rows("gold.names", "id", "name") == project.rows("silver.people")
