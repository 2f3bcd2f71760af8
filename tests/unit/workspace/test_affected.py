"""Training again exactly what a bad file or version reached."""

from __future__ import annotations

import json

import polars as pl
import pytest
from click.testing import CliRunner

from shoal.cli import cli
from shops import Shops, sales

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")


def members(space) -> dict[str, tuple[int, int]]:
    """Segment or group to the versions of fleet and table that it was fitted at."""
    version = space.tracker.resolve("sales")
    rows = space.lake.table("shoal.fleet_sales").scan(int(version.tags["shoal.members_version"]))
    rows = rows.filter(pl.col("fleet_version") == int(version.tags["shoal.fleet_version"]))
    found = rows.select("segment", "origin_version", "trained_on_version").collect()
    return {segment: (origin, seen) for segment, origin, seen in found.rows()}


def test_exactly_the_members_that_learned_from_it_are_fitted_again(tmp_path) -> None:
    shops = Shops(tmp_path / "project")
    shops.train(1.0)
    later = sales(40, 5)
    bad = later.filter([name in ("s1", "s2", "s99") for name in later["shop"].to_pylist()])
    strange = sales(40, 40, shops=100)  # a shop that only the bad version has
    strange = strange.filter([name == "s99" for name in strange["shop"].to_pylist()])
    with shops.open() as space:
        space.lake.table("gold.sales").append(bad)
        at = space.lake.table("gold.sales").append(strange)
    shops.train(1.0)
    with shops.open() as space:
        space.lake.table("gold.sales").restore(0)  # both are mended
        assert '["r1","s99"]' in members(space)
    asked = ["train", "--affected", f"gold.sales@{at - 1}", "--json", "--project", str(shops.root)]
    told = CliRunner().invoke(cli, asked)
    assert told.exit_code == 0, told.output
    (report,) = json.loads(told.stdout)
    assert (report["status"], report["version"]) == ("trained", 3)
    with shops.open() as space:
        now = members(space)
        again = {segment for segment, (origin, _) in now.items() if origin == 3}
        assert again == {'["r1","s1"]', '["r0","s2"]', '["r0"]', "[]"}
        assert all(now[segment][1] == at + 1 for segment in again)
        (gone,) = space.train_affected(f"gold.sales@{at}")
        assert "1 gone" in gone.reason
        assert '["r1","s99"]' not in members(space)
        (report,) = space.train_affected(f"gold.sales@{at}")
        assert report.status == "current"
        assert "version 4 learned from none of gold.sales@2" in report.reason


def test_it_chooses_the_segments_itself(tmp_path) -> None:
    told = CliRunner().invoke(cli, ["train", "--affected", "x.json", "--all"])
    assert told.exit_code == 2
    assert "--affected chooses the segments" in told.output
