"""Lake operations on the tables of a real project, and what the next run makes of them."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner
from deltalake import DeltaTable

from shoal.cli import cli
from shoal.errors import PipelineError, TableError
from shoal.workspace.maintain import parse_duration

TABLES = """
@dp.table(name="bronze.orders")
def orders():
    return spark.readStream.format("json").schema("id BIGINT, price DOUBLE").load("landing/*.json")

@dp.table(name="silver.cheap")
def cheap():
    return spark.readStream.table("bronze.orders").filter("price < 10")

@dp.materialized_view(name="gold.total")
def total():
    return spark.read.table("bronze.orders").groupBy().agg(F.sum("price").alias("price"))
"""


@pytest.fixture
def shop(project):
    project.python(TABLES)
    project.land("a.json", [{"id": 1, "price": 1.0}])
    project.ok()
    project.land("b.json", [{"id": 2, "price": 2.0}, {"id": 3, "price": 30.0}])
    project.ok()
    return project


def shoal(project, *arguments, code=0):
    """What a command prints; its JSON where it was asked for."""
    done = CliRunner().invoke(cli, [*arguments, "--project", str(project.root)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return json.loads(done.output) if "--json" in arguments else done.output


def said(output: str) -> str:
    return " ".join(output.split())


def test_a_restored_stream_goes_on_from_its_progress(shop) -> None:
    dry = said(shoal(shop, "restore", "bronze.orders", "--version", "0", "--dry-run"))
    assert "would be restored: 3 -> 1 rows, 0 files back, 1 taken out" in dry
    assert shop.versions()["bronze.orders"] == 1
    done = said(shoal(shop, "restore", "bronze.orders", "--version", "0"))
    assert "restored as version 2" in done
    assert "restore with --rewind" in done
    assert "silver.cheap reads bronze.orders as a stream" in done
    shop.land("c.json", [{"id": 4, "price": 4.0}])
    reports = shop.run()
    assert shop.rows("bronze.orders", "id") == [1, 4]
    assert shop.rows("gold.total", "price") == [5.0]
    assert "--full-refresh silver.cheap" in reports["silver.cheap"].error
    shop.ok(full_refresh=["silver.cheap"])
    assert shop.rows("silver.cheap", "id") == [1, 4]


def test_a_rewound_stream_reads_again_what_was_taken_back(shop) -> None:
    found = shoal(shop, "restore", "bronze.orders", "--version", "0", "--rewind", "--json")
    assert found["rewound"] == ["bronze.orders"]
    shop.ok(select=["bronze.orders"])
    assert shop.rows("bronze.orders", "id") == [1, 2, 3]


def test_a_restored_view_is_computed_anew(shop) -> None:
    done = said(shoal(shop, "restore", "gold.total", "--version", "0"))
    assert "gold.total is a materialized view: the next shoal run computes it anew" in done
    assert shop.rows("gold.total", "price") == [1.0]
    action, reason = shop.plan()["gold.total"]
    assert (action, "a restore" in reason) == ("full", True)
    shop.ok()
    assert shop.rows("gold.total", "price") == [33.0]
    assert shop.plan()["gold.total"][0] == "none"


def test_compaction_disturbs_neither_streams_nor_views(shop) -> None:
    done = said(shoal(shop, "optimize", "bronze.orders"))
    assert "2 files became 1" in done
    shoal(shop, "optimize", "gold.total")
    assert {action for action, _ in shop.plan().values()} <= {"none", "incremental"}
    shop.ok()
    assert shop.rows("silver.cheap", "id") == [1, 2]
    assert shop.rows("gold.total", "price") == [33.0]
    assert shoal(shop, "optimize", "bronze.orders", "--json")["removed"] == 0


def test_history_diff_and_time_travel(shop) -> None:
    found = shoal(shop, "diff", "bronze.orders", "--from", "0", "--to", "1", "--json")
    assert (found["added"], found["removed"]) == (2, 0)
    text = said(shoal(shop, "diff", "gold.total"))
    assert "version 0 -> 1: 1 added, 1 removed" in text
    assert "- price=1 + price=33" in " ".join(sorted(text.split("+ "), reverse=True)) or (
        "+ price=33" in text and "- price=1" in text
    )
    with shop.open() as space:
        stamp = space.lake.table("bronze.orders").history()[1]["timestamp"]
        moment = str(pa.scalar(stamp, pa.timestamp("ms")))
        for query, ids in (
            ("SELECT id FROM bronze.orders VERSION AS OF 0", [1]),
            ("SELECT id FROM bronze.orders@v0", [1]),
            ("SELECT o.id FROM bronze.orders VERSION AS OF 1 AS o", [1, 2, 3]),
            (f"SELECT orders.id FROM bronze.orders TIMESTAMP AS OF '{moment}'", [1]),
            (
                "SELECT n.id FROM bronze.orders n LEFT ANTI JOIN bronze.orders FOR VERSION AS OF 0 o"
                " ON n.id = o.id",
                [2, 3],
            ),
        ):
            assert sorted(space.sql(query).column("id").to_pylist()) == ids, query
        with pytest.raises(TableError, match="has no version 9"):
            space.sql("SELECT * FROM bronze.orders VERSION AS OF 9")
        with pytest.raises(PipelineError, match="needs a number or a time"):
            space.sql("SELECT * FROM bronze.orders TIMESTAMP AS OF current_timestamp()")


def test_a_view_may_read_an_older_version(shop) -> None:
    shop.sql(
        "CREATE MATERIALIZED VIEW gold.first AS SELECT id FROM bronze.orders VERSION AS OF 0",
        name="first.sql",
    )
    shop.ok()
    assert shop.rows("gold.first", "id") == [1]


def test_a_clone_is_listed_and_stays_when_its_source_changes(shop) -> None:
    done = said(shoal(shop, "clone", "bronze.orders", "sandbox.orders", "--version", "0"))
    assert "shared, which takes no space" in done
    shop.ok(full_refresh_all=True)
    assert shop.rows("sandbox.orders", "id") == [1]
    again = CliRunner().invoke(
        cli, ["clone", "bronze.orders", "sandbox.orders", "--project", str(shop.root)]
    )
    assert again.exit_code == 1
    assert "already exists" in again.output


def test_vacuum_keeps_what_a_late_reader_still_needs(shop) -> None:
    shop.land("c.json", [{"id": 4, "price": 4.0}])
    shop.ok(select=["bronze.orders"])
    shoal(shop, "optimize", "bronze.orders")
    refused = CliRunner().invoke(cli, ["vacuum", "--retain", "0h", "--project", str(shop.root)])
    assert refused.exit_code == 1
    assert "--force" in refused.output
    with shop.open() as space:
        (found,) = space.maintenance.vacuum(
            "bronze.orders", retain=parse_duration("0h"), dry_run=True
        )
    reasons = {kept.guard.reason for kept in found.kept}
    assert reasons == {f"{name} has read it up to there" for name in ("silver.cheap", "gold.total")}
    assert found.files == 0
    shop.ok()
    assert shop.rows("silver.cheap", "id") == [1, 2, 4]
    done = shoal(shop, "vacuum", "bronze.orders", "--retain", "0h", "--force", "--json")
    assert done[0]["files"] == 3
    assert shop.rows("bronze.orders", "id") == [1, 2, 3, 4]
    assert {action for action, _ in shop.plan().values()} == {"none"}


def test_vacuum_of_the_whole_lake(shop) -> None:
    shop.ok(full_refresh_all=True)
    orphan = shop.storage / "bronze" / "orders" / "part-0123456789abcdef"
    orphan.mkdir()
    (orphan / "rows.parquet").write_bytes(b"x")
    findings = shoal(shop, "checks", "bronze.orders", "--json")["findings"]
    assert [f["message"] for f in findings if f["check"] == "leftovers"] == [
        "Killed runs left 1 files."
    ]
    shoal(shop, "vacuum", "--dry-run")
    assert orphan.exists()
    done = {item["table"]: item for item in shoal(shop, "vacuum", "--json")}
    assert done["bronze.orders"]["leftovers"] == 1
    assert not orphan.exists()
    shop.ok()


def test_checks_pass_and_fail_with_the_next_command(shop) -> None:
    assert "tables checked, whole" in shoal(shop, "checks")
    file = next(Path(shop.storage, "bronze/orders").rglob("*.parquet"))
    file.unlink()
    text = said(shoal(shop, "checks", code=1))
    assert "1 of 2 files are damaged" in text
    assert "shoal run --full-refresh bronze.orders" in text
    shop.ok(full_refresh=["bronze.orders", "silver.cheap"])
    shoal(shop, "checks")


# Constraints -------------------------------------------------------------------------------------


def test_declared_constraints_fail_the_update_and_reach_the_table(project) -> None:
    project.python("""
    dp.create_streaming_table(
        "silver.orders", table_properties={"delta.constraints.positive": "price > 0"}
    )

    @dp.append_flow(target="silver.orders")
    def orders():
        rows = spark.readStream.format("json").schema("id BIGINT, price DOUBLE")
        return rows.load("landing/*.json")
    """)
    project.land("a.json", [{"id": 1, "price": 1.0}])
    project.ok()
    table = project.lake.table("silver.orders")
    assert [(rule.name, rule.condition) for rule in table.constraints()] == [
        ("positive", "price > 0")
    ]
    project.land("b.json", [{"id": 2, "price": -1.0}, {"id": 3, "price": None}])
    error = project.run()["silver.orders"].error
    assert "2 of 2 rows for 'silver.orders' break 'positive' (price > 0)" in error
    assert project.rows("silver.orders", "id") == [1]


def test_a_constraint_that_another_writer_added_holds(shop) -> None:
    DeltaTable(shop.lake.table("bronze.orders").path).alter.add_constraint({"few": "id < 10"})
    shop.land("c.json", [{"id": 10, "price": 1.0}])
    error = shop.run()["bronze.orders"].error
    assert "1 of 1 rows for 'bronze.orders' break 'few' (id < 10)" in error
    assert shop.rows("bronze.orders", "id") == [1, 2, 3]


def test_a_full_refresh_with_other_columns_keeps_constraints(shop) -> None:
    DeltaTable(shop.lake.table("bronze.orders").path).alter.add_constraint({"few": "id < 10"})
    shop.python(TABLES.replace("price DOUBLE", "price DOUBLE, more STRING"))
    shop.ok(full_refresh_all=True)
    assert [r.name for r in shop.lake.table("bronze.orders").constraints()] == ["few"]


@pytest.mark.parametrize("schema", ['"id BIGINT NOT NULL, price DOUBLE"'])
def test_a_declared_not_null_column_holds(project, schema) -> None:
    project.python(f"""
    @dp.materialized_view(name="silver.orders", schema={schema})
    def orders():
        rows = spark.read.format("json").schema("id BIGINT, price DOUBLE")
        return rows.load("landing/*.json")
    """)
    project.land("a.json", [{"id": 1, "price": 1.0}])
    project.ok()
    project.land("b.json", [{"price": 1.0}])
    assert "break 'NOT NULL id'" in project.run()["silver.orders"].error
    assert project.rows("silver.orders", "id") == [1]
    path = project.lake.table("silver.orders").path
    assert [f.nullable for f in DeltaTable(path).schema().fields] == [False, True]


# Models ------------------------------------------------------------------------------------------


def test_vacuum_keeps_the_version_that_a_model_was_trained_on(shop) -> None:
    from mlflow import MlflowClient

    from shoal.tracking.quiet import quietly

    table = shop.lake.table("gold.total")
    with shop.open() as space:
        space.tracker.models()  # makes the database
        client = MlflowClient(tracking_uri=space.project.tracking)
        tags = {
            "shoal.table": "gold.total",
            "shoal.table_version": "0",
            "shoal.table_id": table.id(),
        }
        other = {**tags, "shoal.table_id": "another table of that name"}
        with quietly("register two versions"):
            client.create_registered_model("delay")
            for given in (tags, other):
                client.create_model_version("delay", source=str(shop.root), tags=given)
        (dry,) = space.maintenance.vacuum("gold.total", retain=parse_duration("0h"), dry_run=True)
        assert [(kept.guard.versions, kept.guard.reason) for kept in dry.kept] == [
            ((0, 0), "model delay/1 was trained on it")
        ]
    shop.ok(full_refresh_all=True)
    age = 40 * 86400
    for path in Path(table.path).rglob("*"):
        status = path.stat()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - age * 10**9))
    text = said(shoal(shop, "vacuum", "gold.total"))
    assert table.scan(0).collect()["price"].to_list() == [1.0]
    shop.ok(full_refresh_all=True)
    done = said(shoal(shop, "vacuum", "gold.total", "--retain", "0h", "--force"))
    assert "model" not in done
    with pytest.raises(TableError, match="are gone"), shop.open() as space:
        space.maintenance.restore("gold.total", 0)
    gone = said(shoal(shop, "vacuum", "gold.total"))
    assert "gold.total version 0: model delay/1 was trained on it, but its files were" in gone
    assert text
