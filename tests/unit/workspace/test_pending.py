"""Trainings while MLflow cannot be reached: kept, and recorded later."""

from __future__ import annotations

import json
import shutil
import socket

import pytest
from click.testing import CliRunner

from shoal.cli import cli
from shoal.errors import TrackingError
from shoal.workspace.pending import record_pending, waiting
from shops import Shops

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")


def unreachable() -> str:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{closed.getsockname()[1]}"


def use(shops: Shops, tracking: str | None) -> None:
    text = f'[profiles.default]\ntracking = "{tracking}"\n' if tracking else ""
    (shops.root / "shoal.toml").write_text(text)


@pytest.fixture(scope="module")
def offline(tmp_path_factory) -> Shops:
    """Version 1 is recorded; two trainings after it wait."""
    shops = Shops(tmp_path_factory.mktemp("pending") / "project")
    shops.train(1.0)
    use(shops, unreachable())
    shops.declare(2.0)
    asked = ["train", "--alias", "challenger", "--json", "--project", str(shops.root)]
    told = CliRunner().invoke(cli, asked)
    assert told.exit_code == 75, told.output
    (report,) = json.loads(told.stdout)
    assert (report["status"], report["table_version"]) == ("pending", 0)
    assert "does not answer" in report["error"]
    shops.land(40, 5)
    with shops.open() as space:
        (again,) = space.train()
        assert again.status == "pending"
        assert "fitted" in again.reason
        (same,) = space.train()
        assert (same.status, same.reason) == (
            "pending",
            "nothing changed since the training that waits to be recorded",
        )
    use(shops, None)
    return shops


@pytest.fixture
def shops(offline, tmp_path) -> Shops:
    return offline.copy(tmp_path / "project")


def test_what_waits_is_recorded_as_it_was_trained(shops) -> None:
    told = CliRunner().invoke(cli, ["track", "--json", "--project", str(shops.root)])
    assert [row["fleet_version"] for row in json.loads(told.stdout)] == [2, 3]
    (shops.root / "models/sales.py").write_text("")  # the code of that time is kept with them
    told = CliRunner().invoke(cli, ["track", "--pending", "--json", "--project", str(shops.root)])
    assert told.exit_code == 0, told.output
    assert [report["version"] for report in json.loads(told.stdout)] == [2, 3]
    with shops.open() as space:
        assert waiting(space) == []
        (pointers,) = space.tracker.pointers("sales")
        assert pointers.aliases == {"champion": 3, "challenger": 2}
        first, second = (space.tracker.resolve(f"sales/{n}") for n in (2, 3))
        assert first.tags["shoal.fingerprint"] == second.tags["shoal.fingerprint"]
        assert (
            first.tags["shoal.fingerprint"]
            != space.tracker.version("sales", 1).tags["shoal.fingerprint"]
        )
        assert second.tags["shoal.table_version"] == "1"
        kept = space.tracker.kept(first.run_id)
        assert {"code.json", "environment.json", "training.json"} <= {
            f.name for f in kept.iterdir()
        }
        members = space.lake.table("shoal.fleet_sales").scan(
            int(second.tags["shoal.members_version"])
        )
        assert space.tracker.fleet("sales/3").header.fleet_version == 3
        assert members.collect().height > 12


def test_the_next_training_records_what_waits_first(shops) -> None:
    shops.declare(2.0)
    with shops.open() as space:
        (report,) = space.train()
        assert (report.status, report.version) == ("current", 3)
        assert waiting(space) == []


def test_a_process_that_died_between_makes_no_second_version(shops, tmp_path) -> None:
    with shops.open() as space:
        folders = [each.folder for each in waiting(space)]
        for folder in folders:
            shutil.copytree(folder, tmp_path / folder.name)
        record_pending(space)
        for folder in folders:  # as if it had died before it forgot them
            shutil.copytree(tmp_path / folder.name, folder)
        record_pending(space)
        assert [v.version for v in space.tracker.versions("sales")] == [3, 2, 1]
        assert waiting(space) == []


def test_what_cannot_be_read_is_said(shops) -> None:
    with shops.open() as space:
        (waiting(space)[0].folder / "pending.json").write_text("{}")
        with pytest.raises(TrackingError, match="cannot be read"):
            waiting(space)
