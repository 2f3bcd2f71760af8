"""AUTO CDC flows: any split of the events into runs gives what one run over all of them gives."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from projects import SmallProject
from shoal.errors import PipelineError, ShoalError

BRONZE = """
    @dp.table(name="bronze.changes")
    def changes():
        return spark.readStream.format("json").schema(
            "id int, seq int, op string, name string, city string"
        ).load("landing")

    dp.create_streaming_table("silver.people")
"""
FLOW = """
    dp.create_auto_cdc_flow(
        target="silver.people", source="bronze.changes", keys=["id"], sequence_by="seq",
        apply_as_deletes="op = 'D'", except_column_list=["op", "seq"]{more}
    )
"""


def declare(project, more="", text=""):
    project.python(BRONZE + FLOW.format(more=more and f", {more}") + text)


def events(seed, count=60, keys=6, sequences=1000):
    """Random events in any order; with few sequences some events share one."""
    source = random.Random(seed)
    found = []
    for seq in (source.randrange(sequences) for _ in range(count)):
        op = source.choices(["U", "D", "T"], [8, 3, 0.3])[0]
        name, city = (source.choice(["a", "b", None]) for _ in range(2))
        key = source.randrange(keys)
        found.append({"id": key, "seq": seq, "op": op, "name": name, "city": city})
    return found


def expected(changes, *, scd=1, fills=False, truncates=False, tracked=("name", "city")):
    """The rules again, one event after another in plain Python."""
    rows, versions = {}, []

    def order(event):
        kind = 2 if truncates and event["op"] == "T" else int(event["op"] == "D")
        return event["seq"], kind, event["id"], event["name"] or "", event["city"] or ""

    ordered = sorted(changes, key=order)
    if scd == 2:  # one event per key and sequence
        ordered = sorted({(e["id"], e["seq"]): e for e in ordered}.values(), key=order)
    for event in ordered:
        key, seq, op = event["id"], event["seq"], event["op"]
        if truncates and op == "T":
            rows.clear()
            continue
        old = rows.get(key)
        if op == "D":
            if old:
                old["end"] = seq
                del rows[key]
            continue
        values = {
            name: old[name] if fills and old and event[name] is None else event[name]
            for name in ("name", "city")
        }
        if scd == 2 and old and all(old[name] == values[name] for name in tracked):
            old.update(values)
            continue
        if old:
            old["end"] = seq
        rows[key] = {"id": key, **values, "start": seq, "end": None}
        versions.append(rows[key])
    if scd == 1:
        return sorted([(r["city"], r["id"], r["name"]) for r in rows.values()], key=repr)
    found = [(v["start"], v["end"], v["city"], v["id"], v["name"]) for v in versions]
    return sorted(found, key=repr)


def found(project, scd=1):
    columns = ["city", "id", "name"]
    return project.rows(
        "silver.people", *((["__START_AT", "__END_AT"] if scd == 2 else []) + columns)
    )


CASES = [
    ("", {}),
    ("ignore_null_updates=True", {"fills": True}),
    ("apply_as_truncates=\"op = 'T'\"", {"truncates": True}),
    (
        "apply_as_truncates=\"op = 'T'\", ignore_null_updates=True",
        {"truncates": True, "fills": True},
    ),
    ("stored_as_scd_type=2", {"scd": 2}),
    ("stored_as_scd_type='2', ignore_null_updates=True", {"scd": 2, "fills": True}),
    (
        "stored_as_scd_type=2, track_history_column_list=['name']",
        {"scd": 2, "tracked": ("name",)},
    ),
]


@pytest.mark.parametrize(("more", "rules"), CASES)
def test_splits_into_runs_do_not_matter(project, more, rules):
    declare(project, more)
    changes, at = events(seed=len(more)), 0
    for number, size in enumerate((17, 1, 25, 17)):
        project.land(f"{number}.json", changes[at : at + size])
        at += size
        report = project.ok()["silver.people"]
        assert report.files == 1
        assert found(project, rules.get("scd", 1)) == expected(changes[:at], **rules)
    project.ok(full_refresh_all=True)
    assert found(project, rules.get("scd", 1)) == expected(changes, **rules)


@given(
    seed=st.integers(0, 10**6),
    cuts=st.lists(st.integers(1, 39), min_size=1, max_size=2, unique=True),
    case=st.sampled_from(CASES),
)
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_split_gives_what_one_run_gives(tmp_path_factory, engine, seed, cuts, case):
    project = SmallProject(tmp_path_factory.mktemp("split") / "project", engine)
    more, rules = case
    declare(project, more)
    changes, at = events(seed, count=40, keys=3, sequences=60), 0
    for cut in [*sorted(cuts), 40]:
        project.land(f"{cut}.json", changes[at:cut])
        at = cut
        project.ok()
    assert found(project, rules.get("scd", 1)) == expected(changes, **rules)


def test_late_events_do_not_bring_a_deleted_row_back(project):
    declare(project)
    project.land("1.json", [{"id": 1, "seq": 5, "op": "D"}])
    project.ok()
    assert found(project) == []
    project.land("2.json", [{"id": 1, "seq": 4, "op": "U", "name": "late"}])
    project.ok()
    assert found(project) == []
    before = project.versions()
    project.ok()
    assert project.versions() == before


def test_a_null_sequence_is_refused_and_nothing_is_written(project):
    declare(project)
    project.land("1.json", [{"id": 1, "seq": 1, "op": "U", "name": "a"}])
    project.ok()
    project.land("2.json", [{"id": 7, "op": "U", "name": "b"}])
    error = project.run()["silver.people"].error
    assert "sequence_by is null where id = 7" in error
    assert "tables.py:" in error
    assert found(project) == [(None, 1, "a")]


def test_a_new_column_is_null_in_older_rows(project):
    declare(project)
    project.land("1.json", [{"id": 1, "seq": 1, "op": "U", "name": "a"}])
    project.ok()
    path = project.root / "transformations" / "tables.py"
    path.write_text(path.read_text().replace("city string", "city string, age int"))
    project.land("2.json", [{"id": 2, "seq": 1, "op": "U", "name": "b", "age": 30}])
    project.ok()
    assert project.rows("silver.people", "id", "age") == [(1, None), (2, 30)]


def test_a_sequence_of_two_columns_and_a_view_as_source(project):
    project.python(
        BRONZE
        + """
    @dp.temporary_view()
    def clean():
        return spark.readStream.table("bronze.changes").where("id IS NOT NULL")

    dp.create_auto_cdc_flow(
        target="silver.people", source="clean", keys=[F.col("id")],
        sequence_by=F.struct("seq", "city"), column_list=["id", "name"], stored_as_scd_type=2,
    )
    """
    )
    project.land(
        "1.json",
        [
            {"id": 1, "seq": 1, "city": "y", "name": "second"},
            {"id": 1, "seq": 1, "city": "x", "name": "first"},
            {"seq": 1, "city": "x", "name": "no key"},
        ],
    )
    project.ok()
    assert project.rows("silver.people", "name", "__START_AT", "__END_AT") == [
        ("first", {"seq": 1, "city": "x"}, {"seq": 1, "city": "y"}),
        ("second", {"seq": 1, "city": "y"}, None),
    ]
    project.land("2.json", [{"id": 1, "seq": 0, "city": "z", "name": "zeroth"}])
    project.ok()
    assert project.rows("silver.people", "name") == ["first", "second", "zeroth"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("keys=[]", "keys is empty"),
        ("keys=['ident']", "keys names 'ident'"),
        ("sequence_by='sequ'", "sequence_by 'sequ'"),
        ("column_list=['id', 'nam']", "column_list names 'nam'"),
        ("column_list=['name']", "the key 'id' is not among"),
        ("column_list=['id'], except_column_list=['op']", "both column_list and"),
        ("stored_as_scd_type=3", "stored_as_scd_type is 3"),
        ("apply_as_truncates='true', stored_as_scd_type=2", "apply_as_truncates is for"),
        ("track_history_column_list=['name']", "is for stored_as_scd_type=2"),
    ],
)
def test_wrong_arguments_are_named_with_their_place(project, more, message):
    base = {"keys": "['id']", "sequence_by": "'seq'"}
    rest = ", ".join(f"{k}={v}" for k, v in base.items() if f"{k}=" not in more.split("_list=")[0])
    project.python(
        BRONZE
        + f"""
    dp.create_auto_cdc_flow(
        target="silver.people", source="bronze.changes", {", ".join(p for p in (rest, more) if p)}
    )
    """
    )
    project.land("1.json", [{"id": 1, "seq": 1, "name": "a"}])
    try:
        error = project.run()["silver.people"].error
    except ShoalError as raised:
        error = raised.message
    assert message in error
    assert "tables.py:" in error
    assert not project.lake.table("silver.people").exists()


def test_other_keys_need_a_full_refresh(project):
    declare(project)
    project.land("1.json", [{"id": 1, "seq": 1, "op": "U", "name": "a"}])
    project.ok()
    path = project.root / "transformations" / "tables.py"
    path.write_text(path.read_text().replace('keys=["id"]', 'keys=["id", "name"]'))
    project.land("2.json", [{"id": 1, "seq": 2, "op": "U", "name": "b"}])
    with pytest.raises(
        AssertionError,
        match=r"tables.py:13: the AUTO CDC flow .* changed(.|\n)*--full-refresh silver.people",
    ):
        project.ok()
    project.ok(full_refresh_all=True)
    assert found(project) == [(None, 1, "a"), (None, 1, "b")]


def test_other_flows_into_the_target_are_refused(project):
    declare(
        project,
        text="""
    @dp.append_flow(target="silver.people")
    def more():
        return spark.readStream.table("bronze.changes")
    """,
    )
    with pytest.raises(
        PipelineError, match=r"tables.py:\d+: 'silver.people' takes an AUTO CDC flow"
    ):
        project.run()


def test_a_batch_view_as_source_is_refused(project):
    project.python(
        BRONZE
        + """
    @dp.temporary_view()
    def people():
        return spark.read.table("bronze.changes")

    dp.create_auto_cdc_flow(
        target="silver.people", source="people", keys=["id"], sequence_by="seq"
    )
    """
    )
    project.land("1.json", [{"id": 1, "seq": 1, "name": "a"}])
    try:
        error = project.run()["silver.people"].error
    except PipelineError as raised:
        error = raised.message
    assert "tables.py:" in error
    assert "stream" in error


def test_a_table_that_was_restored_is_right_after_the_next_events(project):
    declare(project)
    for seq, name in enumerate("abc"):
        project.land(f"{seq}.json", [{"id": 1, "seq": seq, "op": "U", "name": name}])
        project.ok()
    project.lake.table("silver.people").restore(0)
    project.land("9.json", [{"id": 2, "seq": 0, "op": "U", "name": "z"}])
    project.ok()
    assert found(project) == [(None, 1, "c"), (None, 2, "z")]


def test_sql_declares_the_same(project):
    project.python(BRONZE.replace('    dp.create_streaming_table("silver.people")\n', ""))
    project.sql(
        """
        CREATE OR REFRESH STREAMING TABLE silver.people;
        CREATE FLOW people AS AUTO CDC INTO silver.people
        FROM STREAM(bronze.changes) KEYS (id) APPLY AS DELETE WHEN op = 'D'
        SEQUENCE BY seq COLUMNS * EXCEPT (op, seq) STORED AS SCD TYPE 2;
        """
    )
    changes = events(3)
    for number in range(3):
        project.land(f"{number}.json", changes[number * 20 : number * 20 + 20])
        project.ok()
    assert found(project, 2) == expected(changes, scd=2)


def test_expectations_hold_for_the_rows_after_the_merge(project):
    project.sql(
        """
        CREATE OR REFRESH STREAMING TABLE silver.people
        (CONSTRAINT named EXPECT (name IS NOT NULL) ON VIOLATION DROP ROW);
        """
    )
    project.python(
        BRONZE.replace('    dp.create_streaming_table("silver.people")\n', "")
        + FLOW.format(more=", ignore_null_updates=True")
    )
    project.land("1.json", [{"id": 1, "seq": 1, "op": "U", "name": "a"}])
    project.ok()
    project.land("2.json", [{"id": i, "seq": 2, "op": "U"} for i in (1, 2)])
    report = project.ok()["silver.people"]
    assert report.dropped == 1
    assert found(project) == [(None, 1, "a")]
