"""What a registry may hold that Shoal did not put there, or not so: moved, deleted, skewed."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from click.testing import CliRunner

from shoal.cli import cli
from shoal.errors import TrackingError, Unavailable
from shoal.tracking.moved import follow_move
from shoal.workspace.collect import collect
from shoal.workspace.origins import find_origin
from shoal.workspace.reproduce import reproduce
from shoal.workspace.transfer import export_version
from shops import Shops

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Shops:
    shops = Shops(tmp_path_factory.mktemp("bad") / "project")
    shops.train(1.0)
    return shops


@pytest.fixture
def shops(trained, tmp_path) -> Shops:
    return trained.copy(tmp_path / "project")


def test_a_moved_lake_is_followed_when_asked(trained, tmp_path) -> None:
    folder = tmp_path / "before"
    there = trained.copy(folder)
    folder.rename(tmp_path / "after")
    there.root = tmp_path / "after"
    with there.open() as space:
        with pytest.raises(TrackingError, match="artifacts .* are gone") as told:
            space.tracker.fleet("sales")
        assert "shoal track --moved" in str(told.value.hint)
        there.declare(2.0)
        (report,) = space.train()
        assert report.status == "failed"
        assert "The lake was moved" in report.error
    assert not folder.exists()  # nothing was written to where it lay
    done = CliRunner().invoke(cli, ["track", "--moved", "--project", str(there.root)])
    assert done.exit_code == 0, done.output
    with there.open() as space:
        assert space.tracker.fleet("sales/1").header.fleet_version == 1
        assert space.tracker.kept(space.tracker.resolve("sales/1").run_id) is not None
        (report,) = space.train()
        assert report.status == "trained"
        assert follow_move(space.tracker) == 0


def test_a_run_of_another_tool_is_left_alone(shops) -> None:
    with shops.open() as space:
        client = space.tracker._client
        run = client.create_run(space.tracker._experiment_id(), start_time=1).info.run_id
        client.log_metric(run, "loss", 0.5)
        client.create_registered_model("theirs")
        client.create_model_version("theirs", "s3://somewhere/model", run)  # and no credentials
        for act in (
            lambda: reproduce(space, run),
            lambda: reproduce(space, "theirs/1"),
            lambda: find_origin(space, "theirs/1"),
            lambda: export_version(space, "theirs/1", shops.root / "out"),
        ):
            with pytest.raises((TrackingError, Unavailable)):
                act()
        assert collect(space, keep=1, older_than=dt.timedelta(0)).gone == ()
        (report,) = space.train()
        assert report.status == "current"


def test_a_deleted_table_version_is_named(shops) -> None:
    shops.land()
    with shops.open() as space:
        table = space.lake.table("gold.sales")
        for file in table.changes(after=-1, until=0).files:
            Path(file.path).unlink()
        origin = find_origin(space, "sales/1", segments=["r0,s2"])
        assert origin.asked[0].files is None
        drawn = CliRunner().invoke(
            cli, ["lineage", "sales/1", "--segment", "r0,s2", "--project", str(shops.root)]
        )
        assert "its files are gone" in drawn.output
        (report,) = space.train(everything=True)
        assert report.status == "failed"
        assert "A file of gold.sales is gone" in report.error


def test_a_clock_that_goes_wrong_changes_no_order(shops, monkeypatch) -> None:
    shops.train(2.0, alias="challenger")
    with shops.open() as space:
        real = dt.datetime

        class Yesterday(real):
            @classmethod
            def now(cls, tz=None):
                return real.now(tz) - dt.timedelta(days=400)

        monkeypatch.setattr("shoal.workspace.audit.dt.datetime", Yesterday)
        assert space.promote("sales").move.number == 2
        monkeypatch.undo()
        moves = space.audit.moves("sales", "champion")
        assert [(m.number, m.version) for m in moves] == [(1, 1), (2, 2)]
        assert moves[1].at < moves[0].at
        assert space.audit.before("sales") == [1, 2]
        assert space.rollback("sales").move.version == 1
