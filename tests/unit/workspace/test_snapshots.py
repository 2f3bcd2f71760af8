"""Named versions of tables, and models that are pinned to one."""

from __future__ import annotations

import datetime as dt
import json

import pyarrow as pa
import pytest
from click.testing import CliRunner

from shoal.cli import cli
from shoal.errors import Conflict, TableError, TableNotFound
from shoal.lake import Lake, Snapshots, pinned_version, split_pin
from shops import MODELS, Shops, sales

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")


@pytest.fixture
def lake(tmp_path) -> Lake:
    lake = Lake(tmp_path / "lake")
    for number in range(3):
        lake.table("gold.sales").append(pa.table({"n": [number]}))
    lake.table("gold.other").append(pa.table({"n": [1]}))
    return lake


def test_a_name_stands_for_a_version_until_it_is_dropped(lake) -> None:
    kept = Snapshots(lake)
    assert kept.all() == []
    made = kept.create("spring", "gold.sales@v1", comment="before the move", user="ada")
    newest = kept.create("latest-run", "gold.sales")
    assert (made.version, made.rows, made.user) == (1, 2, "ada")
    assert [(s.name, s.version) for s in kept.all()] == [("latest-run", 2), ("spring", 1)]
    assert kept.all()[0] == newest
    table = lake.table("gold.sales")
    assert pinned_version(lake, table, "spring") == 1
    assert kept.create("again", "gold.sales@spring").version == 1
    kept.drop("spring")
    with pytest.raises(TableError, match="no snapshot 'spring'"):
        pinned_version(lake, table, "spring")
    assert kept.create("spring", "gold.sales@0").version == 0


def test_versions_and_times_as_delta_writes_them(lake) -> None:
    table = lake.table("gold.sales")
    assert [pinned_version(lake, table, pin) for pin in ("v1", "2")] == [1, 2]
    times = {entry["version"]: entry["timestamp"] for entry in table.history()}
    moment = dt.datetime.fromtimestamp(times[1] / 1000, dt.UTC)
    newest = max(version for version, at in times.items() if at <= times[1])
    assert pinned_version(lake, table, f"{moment:%Y%m%d%H%M%S}{times[1] % 1000:03}") == newest
    assert pinned_version(lake, table, moment.isoformat()) == newest
    assert pinned_version(lake, table, "2999-01-01") == 2
    for pin, words in [
        ("v3", "no version 3"),
        ("1999-01-01", "no version as old"),
        ("99999999999999999", "is no time"),
        ("spring", "no snapshot 'spring'"),
        ("a b", "names no version"),
        ("", "names no version"),
    ]:
        with pytest.raises(TableError, match=words):
            pinned_version(lake, table, pin)
    assert split_pin("delta.`/a@b/c`") == ("delta.`/a@b/c`", None)


def test_what_cannot_be_a_snapshot_is_refused(lake) -> None:
    kept = Snapshots(lake)
    kept.create("spring", "gold.sales")
    for name in ("v1", "2026", "a/b", "../x", "", "x" * 101, "ä"):
        with pytest.raises(TableError, match="cannot name a snapshot"):
            kept.create(name, "gold.sales")
    with pytest.raises(TableError, match=r"is gold\.sales@v2 already"):
        kept.create("spring", "gold.sales")
    with pytest.raises(TableNotFound):
        kept.create("summer", "gold.nothing")
    with pytest.raises(TableError, match=r"one of gold\.sales"):
        pinned_version(lake, lake.table("gold.other"), "spring")


def test_of_two_at_once_one_wins(lake, monkeypatch) -> None:
    kept, other = Snapshots(lake), Snapshots(lake)
    kept.create("first", "gold.sales")
    number = kept._log.transaction("shoal-snapshots")
    other.create("second", "gold.sales")
    monkeypatch.setattr(kept._log, "transaction", lambda _: number)  # read before the other one
    with pytest.raises(Conflict, match="at this moment"):
        kept.create("third", "gold.sales")
    assert [s.name for s in other.all()] == ["first", "second"]


@pytest.mark.parametrize("dropped", [False, True])
def test_vacuum_keeps_what_a_snapshot_names(tmp_path, dropped) -> None:
    shops = Shops(tmp_path / "project")
    with shops.open() as space:
        table = space.lake.table("gold.sales")
        kept = Snapshots(space.lake)
        kept.create("spring", "gold.sales")
        table.append(sales(0, 4), overwrite=True)
        if dropped:
            kept.drop("spring")
        (done,) = space.maintenance.vacuum("gold.sales", retain=dt.timedelta(0), dry_run=True)
    assert done.files == (1 if dropped else 0)
    assert [k.guard.reason for k in done.kept] == ([] if dropped else ["snapshot spring pins it"])


def test_a_pinned_model_learns_from_that_version_and_no_other(tmp_path) -> None:
    shops = Shops(tmp_path / "project")

    def pin(text: str) -> None:
        declared = MODELS.format(alpha=1.0, more="").replace("gold.sales", f"gold.sales@{text}")
        (shops.root / "models/sales.py").write_text(declared)

    def planned() -> tuple[bool, str]:
        with shops.open() as space:
            plan = space.stale_plan(space.models["sales"], {"gold.sales"})
        return plan.stale, plan.reason

    shops.land()
    with shops.open() as space:
        Snapshots(space.lake).create("old", "gold.sales@v0")
    pin("old")
    with shops.open() as space:
        (report,) = space.train()
        assert (report.status, report.table_version) == ("trained", 0)
        (again,) = space.train()
        assert again.status == "current"
    assert planned() == (False, "nothing changed")
    pin("v1")
    assert planned() == (True, "gold.sales is pinned to v1, version 1, it saw 0")
    with shops.open() as space:
        (report,) = space.train()
        assert (report.status, report.table_version) == ("trained", 1)
        assert "11 of 12 segments fitted" in report.reason
    pin("old")  # back to older rows
    with shops.open() as space:
        (report,) = space.train()
        assert (report.status, report.table_version) == ("trained", 0)
        (scored,) = space.score()  # predictions follow the table, whatever a model learned from
        assert scored.rows == space.lake.table("gold.sales").size()[0]
    asked = ["snapshot", "drop", "old", "--project", str(shops.root)]
    assert CliRunner().invoke(cli, asked).exit_code == 0
    assert planned() == (True, "There is no snapshot 'old'.")
    with shops.open() as space:
        (report,) = space.train()
        assert "no snapshot 'old'" in str(report.error)


def test_the_command(tmp_path) -> None:
    shops = Shops(tmp_path / "project")

    def told(*asked: str):
        return CliRunner().invoke(cli, ["snapshot", *asked, "--project", str(shops.root)])

    assert "No snapshots" in told("list").output
    assert "spring" in told("create", "spring", "gold.sales@v0", "--comment", "x").output
    (found,) = json.loads(told("list", "--json").output)
    assert (found["table"], found["version"], found["comment"]) == ("gold.sales", 0, "x")
    assert told("create", "spring").exit_code == 2
    assert told("drop", "winter").exit_code == 1
    assert "dropped" in told("drop", "spring").output
