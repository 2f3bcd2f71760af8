"""Lineage of a project's tables: kept with runs, shown as a tree."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from shoal.cli import cli
from shoal.errors import TableNotFound
from shoal.workspace.lineage import Branch

TABLES = """
@dp.table(name="bronze.sales")
def sales():
    return spark.readStream.schema("id BIGINT, shop STRING, price DOUBLE").json("landing/sales")

@dp.temporary_view
def dear():
    return spark.read.table("bronze.sales").where("price > 1")

@dp.materialized_view(name="gold.shops")
def shops():
    return spark.read.table("dear").groupBy("shop").agg(F.sum("price").alias("total"))

@dp.materialized_view(name="gold.best")
@shoal.polars("gold.shops")
def best(shops):
    return shops.head(1)
"""


@pytest.fixture
def shop(project):
    project.python(TABLES)
    project.land("sales/a.json", [{"id": 1, "shop": "a", "price": 2.0}])
    project.ok()
    return project


def edges(project, table: str) -> set[tuple[str | None, str, str | None, str]]:
    with project.open() as space:
        found = space.lineage.edges
    return {(e.column, e.source, e.source_column, e.kind) for e in found if e.table == table}


def test_edges_of_files_views_groupings_and_functions(shop) -> None:
    assert edges(shop, "bronze.sales") == {
        (name, "files:landing/sales", name, "direct") for name in ("id", "shop", "price")
    }
    assert edges(shop, "gold.shops") == {
        ("shop", "bronze.sales", "shop", "direct"),
        ("total", "bronze.sales", "price", "direct"),
        (None, "bronze.sales", "price", "indirect"),
        (None, "bronze.sales", "shop", "indirect"),
    }
    assert edges(shop, "gold.best") == {(None, "gold.shops", None, "opaque")}


def test_edges_are_written_once_for_each_definition(shop) -> None:
    version = shop.lake.table("shoal.lineage").version()
    shop.ok()
    shop.land("sales/b.json", [{"id": 2, "shop": "b", "price": 3.0}])
    shop.ok()
    assert shop.lake.table("shoal.lineage").version() == version
    shop.python(TABLES.replace("price > 1", "id > 1"))
    shop.ok()
    assert shop.lake.table("shoal.lineage").version() == version + 1
    assert (None, "bronze.sales", "id", "indirect") in edges(shop, "gold.shops")
    assert (None, "bronze.sales", "price", "indirect") not in edges(shop, "gold.shops")


def test_change_events_are_merged_by_their_keys(project) -> None:
    project.python("""
    @dp.table(name="bronze.changes")
    def changes():
        return spark.readStream.schema("id BIGINT, name STRING, op STRING, seq BIGINT").json(
            "landing"
        )

    dp.create_streaming_table("silver.people")
    dp.create_auto_cdc_flow(
        target="silver.people", source="bronze.changes", keys=["id"], sequence_by="seq",
        apply_as_deletes="op = 'D'", except_column_list=["op", "seq"],
    )
    """)
    project.land("a.json", [{"id": 1, "name": "a", "op": "I", "seq": 1}])
    project.ok()
    assert edges(project, "silver.people") == {
        ("id", "bronze.changes", "id", "direct"),
        ("name", "bronze.changes", "name", "direct"),
        (None, "bronze.changes", "id", "indirect"),
        (None, "bronze.changes", "op", "indirect"),
        (None, "bronze.changes", "seq", "indirect"),
    }


def names(branch: Branch) -> list[str]:
    own = f"{branch.source}.{branch.column}" if branch.column else branch.source
    return [own, *(name for below in branch.below for name in names(below))]


def test_trees_in_both_directions(shop) -> None:
    with shop.open() as space:
        up = space.lineage.upstream("gold.shops.total")
        assert [(b.source, b.column, b.kind) for b in up.below] == [
            ("bronze.sales", "price", "direct"), ("bronze.sales", "shop", "indirect")
        ]  # fmt: skip
        assert names(up.below[0]) == ["bronze.sales.price", "files:landing/sales.price"]
        down = space.lineage.downstream("files:landing/sales")
        assert names(down) == ["files:landing/sales", "bronze.sales", "gold.shops", "gold.best"]
        assert names(space.lineage.downstream("files:landing/sales", depth=1)) == [
            "files:landing/sales", "bronze.sales"
        ]  # fmt: skip
        with pytest.raises(TableNotFound) as caught:
            space.lineage.upstream("gold.shop")
        assert caught.value.hint == "Did you mean 'gold.shops'?"
        with pytest.raises(TableNotFound) as caught:
            space.lineage.upstream("gold.shops.totl")
        assert caught.value.hint == "Did you mean 'gold.shops.total'?"


def test_what_never_ran_is_told_from_the_declaration(shop) -> None:
    shop.python(TABLES.replace("gold.best", "gold.top"))
    with shop.open() as space:
        assert [b.source for b in space.lineage.upstream("gold.top").below] == ["gold.shops"]


def test_the_command_draws_a_tree(shop) -> None:
    run = CliRunner().invoke(cli, ["lineage", "gold.shops.total", "--project", str(shop.root)])
    assert run.exit_code == 0, run.output
    assert "bronze.sales.price" in run.output
    assert "bronze.sales.shop rows" in run.output
    run = CliRunner().invoke(cli, ["lineage", "gold.best", "--json", "--project", str(shop.root)])
    assert json.loads(run.output)["below"][0]["source"] == "gold.shops"
