"""What a plan says of each table: the refresh, why, what changed, and how much will be read."""

import json

from click.testing import CliRunner

from shoal.cli import cli

TABLES = """
@dp.table(name="bronze.events")
def bronze():
    return spark.readStream.schema("id INT, kind STRING").json("landing")

@dp.table(name="silver.events")
@shoal.expect("known", "kind IS NOT NULL")
def silver():
    return spark.readStream.table("bronze.events").where("id >= 0")

@dp.materialized_view(name="gold.kinds")
def gold():
    return doubled(spark.table("silver.events")).groupBy("kind").agg(F.sum("n").alias("n"))

@dp.temporary_view(name="small")
def small():
    return spark.read.table("silver.events").where("id < 10")

@dp.materialized_view(name="gold.small")
def seen():
    return spark.read.table("small")

def doubled(frame):
    return frame.withColumn("n", F.col("id") * 2)
"""


def planned(project, **options):
    with project.open() as space:
        found, _ = space.plan(space.options(**options))
    return {str(decision.name): decision for decision in found}


def test_new_files_and_versions_are_counted(project):
    project.python(TABLES)
    project.land("0.json", [{"id": i, "kind": "a"} for i in range(9)])
    new = planned(project)
    assert {d.reason for d in new.values()} == {"the table is new"}
    assert not any(d.edit or d.inputs for d in new.values())
    project.ok()
    project.land("1.json", [{"id": 2, "kind": "b"}, {"id": 3, "kind": "b"}])
    project.ok(select=["bronze.events"])
    silver = planned(project)["silver.events"]
    assert (silver.action, silver.rows, silver.files) == ("incremental", 2, 1)
    assert silver.reason == "1 new file, bronze.events 0 -> 1"
    project.ok(select=["silver.events"])
    gold = planned(project)["gold.kinds"]
    assert (gold.action, gold.rows, gold.files) == ("incremental", 2, 1)
    assert gold.reason == "silver.events 0 -> 1"
    assert dict(gold.inputs) == {"silver.events": (0, 1)}
    project.ok()
    assert {d.reason for d in planned(project).values()} == {"nothing new", "nothing changed"}


def test_a_changed_definition_is_shown_as_a_diff(project):
    project.python(TABLES)
    project.land("0.json", [{"id": 1, "kind": "a"}])
    project.ok()
    text = TABLES.replace('groupBy("kind")', 'groupBy(F.lower("kind").alias("kind"))')
    project.python(text.replace("id >= 0", "id > 0"))
    found = planned(project)
    gold = found["gold.kinds"]
    assert (gold.action, gold.reason, gold.rows) == ("full", "its definition changed", 1)
    assert gold.files == 1
    assert gold.edit.splitlines()[0] == "@@ source"
    assert [line[0] for line in gold.edit.splitlines()[1:]] == [" ", "-", "+"]
    assert '+    return doubled(spark.table("silver.events")).groupBy(F.lower(' in gold.edit
    silver = found["silver.events"]
    assert (silver.action, silver.reason) == ("none", "nothing new")
    assert "id > 0" in silver.edit
    assert "only new rows follow the new definition" in silver.notes[0]
    project.land("1.json", [{"id": 2, "kind": "b"}])
    late = planned(project)
    assert late["gold.kinds"].reason == "its definition changed, follows silver.events"
    assert "id > 0" in late["silver.events"].edit and late["silver.events"].notes == silver.notes
    project.ok()
    assert not any(decision.edit for decision in planned(project).values())


def test_what_no_source_line_says_is_shown_from_the_plan(project):
    project.python(TABLES)
    project.land("0.json", [{"id": 1, "kind": "a"}])
    project.ok()
    project.python(TABLES.replace('F.col("id") * 2', 'F.col("id") * 3').replace("< 10", "< 11"))
    found = planned(project)
    assert found["gold.kinds"].edit.startswith("@@ plan\n")
    assert "+  with_columns aliases=*(id, 3) AS n" in found["gold.kinds"].edit
    assert "@@ view default.small" in found["gold.small"].edit
    assert '+    return spark.read.table("silver.events").where("id < 11")' in (
        found["gold.small"].edit
    )


def test_sql_queries_expectations_and_cdc_rules_are_compared(project):
    sql = """
        CREATE OR REFRESH MATERIALIZED VIEW v (CONSTRAINT low EXPECT (id < 5))
        AS SELECT id
        FROM e;
    """
    project.python("""
        @dp.table(name="e")
        def e():
            return spark.readStream.schema("id INT, at INT").json("landing")

        dp.create_streaming_table("latest")
        dp.create_auto_cdc_flow(target="latest", source="e", keys=["id"], sequence_by=F.col("at"))
    """)
    project.sql(sql)
    project.land("0.json", [{"id": 1, "at": 1}])
    project.ok()
    project.sql(sql.replace("id < 5", "id < 6"))
    assert planned(project)["default.v"].edit.splitlines() == [
        "@@ expectations", "-low: id < 5 (warn)", "+low: id < 6 (warn)"
    ]  # fmt: skip
    project.sql(sql.replace("SELECT id", "SELECT id + 1 AS id"))
    assert "-SELECT id\n+SELECT id + 1 AS id" in planned(project)["default.v"].edit.replace(
        "  ", ""
    )


def test_the_command_prints_rows_versions_and_the_diff(project):
    project.python(TABLES)
    project.land("0.json", [{"id": 1, "kind": "a"}])
    project.ok()
    project.python(TABLES.replace('agg(F.sum("n")', 'agg(F.max("n")'))
    project.land("1.json", [{"id": 2, "kind": "[b]"}])
    project.ok(select=["bronze.events", "silver.events"])
    shown = CliRunner().invoke(cli, ["plan", "--project", str(project.root)]).output
    assert "changed  gold.kinds" in shown
    assert 'F.max("n")' in shown and "@@ source" in shown
    told = CliRunner().invoke(cli, ["plan", "--project", str(project.root), "--json"]).output
    tables = {found["table"]: found for found in json.loads(told)["tables"]}
    assert tables["gold.small"]["inputs"] == {"silver.events": {"from": 0, "to": 1}}
    assert tables["gold.small"]["rows"] == 1
    assert tables["gold.kinds"]["diff"].startswith("@@ source")
