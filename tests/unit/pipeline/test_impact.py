"""What came from a bad file or version: tables, models, segments and predictions."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from shoal.cli import cli
from shoal.errors import TableError, TableNotFound
from shoal.workspace.impact import find_impact
from shops import Shops, sales

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")

TABLES = """
@dp.table(name="bronze.sales")
def sales():
    return spark.readStream.schema("id BIGINT, shop STRING, price DOUBLE").json("landing/sales")

@dp.table(name="bronze.other")
def other():
    return spark.readStream.schema("id BIGINT").json("landing/other")

@dp.materialized_view(name="gold.shops")
def shops():
    return spark.read.table("bronze.sales").groupBy("shop").agg(F.sum("price").alias("total"))
"""


@pytest.fixture
def shop(project):
    project.python(TABLES)
    project.land("sales/a.json", [{"id": n, "shop": f"s{n}", "price": 2.0} for n in range(3)])
    project.land("other/x.json", [{"id": 1}])
    project.ok()
    project.land("sales/b.json", [{"id": 7, "shop": "s1", "price": 2.0}])
    project.ok()
    return project


def tables(project, source: str) -> dict[str, tuple[tuple[int, ...], int | None]]:
    with project.open() as space:
        found = find_impact(space, source)
    return {t.table: (t.versions, t.rows) for t in found.tables}


def test_a_file_is_followed_into_the_tables_that_took_it_in(shop) -> None:
    # One row came; one grouping changed, which is a row less and a row more.
    expected = {"bronze.sales": ((1,), 1), "gold.shops": ((1,), 2)}
    for source in ("landing/sales/b.json", "b.json", str(shop.root / "landing/sales/b.json")):
        assert tables(shop, source) == expected
    assert tables(shop, "bronze.sales@1") == expected
    # The second refresh computed the view anew, so that what it changed is made of both files.
    assert tables(shop, "sales/a.json") == {
        "bronze.sales": ((0,), 3),
        "gold.shops": ((0, 1), 5),
    }
    assert tables(shop, "x.json") == {"bronze.other": ((0,), 1)}


def test_a_restore_ends_it(shop) -> None:
    with shop.open() as space:
        space.maintenance.restore("bronze.sales", 0)
        space.lake.table("gold.shops").restore(0)
    with shop.open() as space:
        assert find_impact(space, "bronze.sales@1").tables == ()


def test_what_is_asked_for_must_be_known(shop) -> None:
    with shop.open() as space:
        with pytest.raises(TableNotFound, match=r"read from 'c\.json'"):
            find_impact(space, "c.json")
        with pytest.raises(TableNotFound, match="by version"):
            find_impact(space, "gold.shops")
        with pytest.raises(TableError, match="no version 9; it has 0 to 1"):
            find_impact(space, "gold.shops@9")


def test_members_and_their_predictions(tmp_path) -> None:
    shops = Shops(tmp_path / "project")
    shops.train(1.0)
    later = sales(40, 5)
    with shops.open() as space:
        three = later.filter([name in ("s1", "s2", "s3") for name in later["shop"].to_pylist()])
        at = space.lake.table("gold.sales").append(three)
    shops.train(1.0)
    with shops.open() as space:
        space.score(["sales"])
        assert find_impact(space, "gold.sales@0").models[-1].version == 1
        found = find_impact(space, f"gold.sales@{at}")
        (model,) = found.models
        assert (model.version, model.members) == (2, 12)
        assert set(model.segments) == {'["r1","s1"]', '["r0","s2"]', '["r1","s3"]'}
        (made,) = found.predictions
        used = space.lake.table(made.table).scan().collect()["model_used"]
        groups = {*model.segments, '["r0"]', '["r1"]', "[]", "baseline"}
        assert made.rows == sum(name in groups for name in used) > 0
    asked = ["impact", f"gold.sales@{at}", "--json", "--project", str(shops.root)]
    told = CliRunner().invoke(cli, asked)
    assert told.exit_code == 0, told.output
    assert json.loads(told.output)["models"][0]["segments"] == list(model.segments)
