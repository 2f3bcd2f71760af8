"""AUTO CDC from snapshots: what differs from one to the next becomes history."""

import pytest

TABLE = """
    @dp.materialized_view(name="bronze.people")
    def people():
        return spark.read.format("json").schema("id int, name string, city string").load("landing")

    dp.create_streaming_table("silver.people")
    dp.create_auto_cdc_from_snapshot_flow(
        target="silver.people", source="bronze.people", keys=["id"], stored_as_scd_type={scd}
    )
"""
FUNCTION = """
    import json
    from pathlib import Path

    dp.create_streaming_table("silver.people")

    def next_snapshot(latest):
        found = sorted(int(path.stem) for path in Path("{landing}").glob("*.json"))
        for version in found:
            if latest is None or version > latest:
                return spark.read.json("{landing}/" + str(version) + ".json"), version{shift}
        return None

    dp.create_auto_cdc_from_snapshot_flow(
        target="silver.people", source=next_snapshot, keys=["id"], stored_as_scd_type={scd}{more}
    )
"""


def function(project, scd=2, more="", shift=""):
    landing = project.root / "landing"
    project.python(FUNCTION.format(landing=landing, scd=scd, more=more, shift=shift))


def history(project):
    return project.rows("silver.people", "id", "name", "__START_AT", "__END_AT")


def test_a_function_gives_snapshots_until_there_are_no_more(project):
    function(project)
    project.land("1.json", [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}])
    project.land("2.json", [{"id": 1, "name": "A"}, {"id": 2, "name": "b"}])
    project.ok()
    assert history(project) == [(1, "A", 2, None), (1, "a", 1, 2), (2, "b", 1, None)]
    project.land("3.json", [{"id": 1, "name": "A"}, {"id": 3, "name": "c"}])
    project.ok()
    after = [(1, "A", 2, None), (1, "a", 1, 2), (2, "b", 1, 3), (3, "c", 3, None)]
    assert history(project) == after
    project.ok()
    assert history(project) == after
    project.land("4.json", [{"id": 2, "name": "b"}])
    project.ok()
    assert history(project) == [
        (1, "A", 2, 4),
        (1, "a", 1, 2),
        (2, "b", 1, 3),
        (2, "b", 4, None),
        (3, "c", 3, 4),
    ]
    before = history(project)
    project.ok(full_refresh_all=True)
    assert history(project) == before


def test_type_1_is_the_last_snapshot(project):
    function(project, scd=1)
    project.land("1.json", [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}])
    project.land("2.json", [{"id": 1, "name": "A"}])
    project.ok()
    assert project.rows("silver.people", "id", "name") == [(1, "A")]


@pytest.mark.parametrize("scd", [1, 2])
def test_each_new_version_of_a_table_is_a_snapshot(project, scd):
    project.python(TABLE.format(scd=scd))
    path = project.land("1.json", [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}])
    project.ok()
    before = project.versions()
    project.ok()
    assert project.versions() == before
    path.unlink()
    project.land("2.json", [{"id": 1, "name": "A"}])
    project.ok()
    rows = project.rows("silver.people", "id", "name")
    assert rows == ([(1, "A")] if scd == 1 else [(1, "A"), (1, "a"), (2, "b")])
    if scd == 2:
        ends = project.rows("silver.people", "name", "__END_AT")
        assert {name for name, end in ends if end is None} == {"A"}


@pytest.mark.parametrize(
    ("rows", "more", "shift", "message"),
    [
        ([{"id": 1, "name": "a"}, {"id": 1, "name": "b"}], "", "", "has id = 1 in 2 rows"),
        ([{"id": 1}], "", " - 1", "versions must increase"),
        ([{"name": "a"}], "", "", "keys names 'id'"),
        ([{"id": 1}], "", ", 3", "returned tuple"),
    ],
)
def test_wrong_snapshots_are_refused(project, rows, more, shift, message):
    function(project, more=more, shift=shift)
    project.land("1.json", rows)
    found = project.run()["silver.people"]
    assert message in found.error
    assert "tables.py:" in found.error
    assert not project.lake.table("silver.people").exists()


@pytest.mark.parametrize("scd", [1, 2])
def test_a_function_with_nothing_new_makes_no_version(project, scd):
    function(project, scd=scd)
    project.land("1.json", [{"id": 1, "name": "a"}])
    project.ok()
    before = project.versions()
    found = project.ok()["silver.people"]
    assert found.status == "unchanged" and found.notes == ("no new snapshot",)
    assert project.versions() == before
    project.land("2.json", [{"id": 1, "name": "b"}])
    project.ok()
    assert ("b" in project.rows("silver.people", "name")) and project.versions() != before
