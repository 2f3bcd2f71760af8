"""Lineage of a registered version: back to row groups of files, forward to predictions."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from shoal.cli import cli
from shoal.errors import ModelError, TrackingError
from shoal.lake import row_groups
from shoal.workspace.origins import find_origin
from shops import Shops, sales

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")


@pytest.fixture(scope="module")
def shops(tmp_path_factory) -> Shops:
    """Two trainings: the second one fitted three segments; then a composite of both."""
    shops = Shops(tmp_path_factory.mktemp("origins") / "project")
    shops.train(1.0)
    later = sales(40, 5)
    with shops.open() as space:
        three = later.filter([name in ("s1", "s2", "s3") for name in later["shop"].to_pylist()])
        space.lake.table("gold.sales").append(three)
    shops.train(1.0, alias="challenger")
    with shops.open() as space:
        space.score(["sales"])
        space.promote("sales", segments=["r0,s2"])
    return shops


def test_a_member_is_followed_to_the_row_groups_that_hold_its_rows(shops) -> None:
    with shops.open() as space:
        origin = find_origin(space, "models:/sales/2", segments=["r0,s2", "r0,s4", "r0,s0"])
        table = space.lake.table("gold.sales")
    refitted, carried, poor = sorted(
        origin.asked, key=lambda m: ["s2", "s4", "s0"].index(m.segment[7:9])
    )
    assert (refitted.table, carried.table) == ("gold.sales@1", "gold.sales@0")
    assert (refitted.rows, carried.rows) == (45, 40)
    assert refitted.trained_by["model"] == "models:/sales/2"
    assert carried.trained_by["model"] == "models:/sales/1"
    for member in (refitted, carried):
        assert sum(part.rows for part in member.files) == member.rows
        for part in member.files:
            file = pq.ParquetFile(Path(table.path) / part.path)
            for number, rows in part.row_groups.items():
                there = file.read_row_group(number).to_pylist()
                key = json.loads(member.segment)
                assert sum([row["region"], row["shop"]] == key for row in there) == rows
    # Too few rows: its group predicts, and the rows are the group's.
    assert (poor.status, poor.model_used) == ("fallback", '["r0"]')
    assert sum(part.rows for part in poor.files) == poor.rows > 200
    assert carried.params["metric"] == "mae"
    assert origin.trained_on == {"gold.sales@0": 9, "gold.sales@1": 3}
    assert origin.composites == ("models:/sales/3",)


def test_a_composites_member_names_the_training_that_fitted_it(shops) -> None:
    with shops.open() as space:
        origin = find_origin(space, "sales@champion", segments=["r0,s2", "r1,s3"])
    assert origin.parts == ("models:/sales/1", "models:/sales/2")
    made = {m.segment: m.trained_by["model"] for m in origin.asked}
    assert made == {'["r0","s2"]': "models:/sales/2", '["r1","s3"]': "models:/sales/1"}


def test_the_command_draws_and_tells_machines(shops) -> None:
    def told(*asked: str) -> str:
        done = CliRunner().invoke(cli, ["lineage", *asked, "--project", str(shops.root)])
        assert done.exit_code == 0, done.output
        return done.output

    drawn = told("models:/sales/1", "--segment", "r0,s2")
    for words in ("40 rows of gold.sales@0", "row group 0 (40 rows)", "predictions in", "Python 3"):
        assert words in " ".join(drawn.split())
    found = json.loads(told("sales/1", "--json"))
    assert found["environment"]["packages"]["scikit-learn"]
    assert found["code"]["declared"].endswith("sales.py:6")
    assert found["predictions"][0]["rows"] > 0


def test_what_is_unknown_is_said(shops) -> None:
    with shops.open() as space:
        with pytest.raises(ModelError, match="has no segment r9,s9"):
            find_origin(space, "sales/1", segments=["r9,s9"])
        with pytest.raises(TrackingError, match="no version 99"):
            find_origin(space, "sales/99")


def test_partition_columns_and_deleted_rows_are_told(tmp_path) -> None:
    from shoal.lake import Lake

    table = Lake(tmp_path).table("gold.parted")
    frame = pl.DataFrame({"day": [1, 1, 2, None], "shop": list("abab")})
    frame.write_delta(table.path, delta_write_options={"partition_by": ["day"]})
    rows = [row for _, _, part in row_groups(table, 0, ["day", "shop"]) for row in part.to_pylist()]
    assert sorted(map(str, rows)) == sorted(map(str, frame.to_dicts()))
