"""Versions as folders and back; what was changed on the way is refused. And retention."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from pathlib import Path

import polars as pl
import pytest
import yaml
from click.testing import CliRunner

from shoal.cli import cli
from shoal.errors import ModelError, ShoalError, TrackingError
from shoal.lake import Snapshots
from shoal.workspace.collect import collect
from shoal.workspace.manifest import write_manifest
from shoal.workspace.transfer import export_version, import_version
from shops import Shops

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Shops:
    """Versions 1 to 4: a champion, one nobody needs, a challenger, and a composite champion."""
    shops = Shops(tmp_path_factory.mktemp("transfer") / "project")
    shops.train(1.0)
    shops.train(2.0, alias="tried")
    shops.train(0.1, alias="challenger")
    with shops.open() as space:
        space.promote("sales", "challenger", segments=["r0,s2"], why="better there")
    return shops


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "sales"
    with trained.open() as space:
        found = export_version(space, "sales/1", folder)
    return folder, found.digest


@pytest.fixture
def folder(exported, tmp_path):
    return shutil.copytree(exported[0], tmp_path / "copy")


@pytest.fixture
def shops(trained, tmp_path) -> Shops:
    return trained.copy(tmp_path / "project")


def test_a_version_goes_into_another_project_and_predicts_the_same(
    trained, folder, exported, tmp_path
) -> None:
    other = Shops(tmp_path / "other")
    asked = ["--digest", exported[1], "--project", str(other.root), "--json"]
    told = CliRunner().invoke(cli, ["import", str(folder), *asked])
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert (found["model"], found["source"]) == ("models:/sales/1", "sales/1")
    with trained.open() as here, other.open() as there:
        ours, theirs = here.tracker.resolve("sales/1"), there.tracker.resolve("sales/1")
        rows = here.lake.table("gold.sales").scan().collect().to_arrow()
        mine, other_one = (s.tracker.fleet("sales/1").predict(rows) for s in (here, there))
        assert mine.equals(other_one)
        before, after = here.tracker.run(ours.run_id), there.tracker.run(theirs.run_id)
        assert (after.params, after.metrics, after.name) == (
            before.params,
            before.metrics,
            before.name,
        )
        assert after.datasets == before.datasets
        assert after.started == before.started
        assert (there.tracker.kept(theirs.run_id) / "code.json").is_file()
        assert theirs.aliases == ()
        assert theirs.tags["shoal.fingerprint"] == ours.tags["shoal.fingerprint"]
        assert exported[1] in theirs.tags["shoal.imported_from"]
        members = there.lake.table("shoal.fleet_sales").scan().collect()
        assert members.filter(pl.col("level") == 0).height == 12
        evidence = there.tracker._client.download_artifacts(theirs.run_id, "imported/audit.json")
        moves = json.loads(Path(evidence).read_text())["moves"]
        assert [move["kind"] for move in moves] == ["train", "promote"]


def test_into_the_same_project_its_members_are_there_already(shops, folder) -> None:
    with shops.open() as space:
        at = space.lake.table("shoal.fleet_sales").version()
        found = import_version(space, folder)
        assert found.model == "models:/sales/5"
        assert space.lake.table("shoal.fleet_sales").version() == at
        again = import_version(space, folder, name="other")
        assert (again.model, again.members) == ("models:/other/1", "shoal.fleet_other@1")
        done = space.promote("sales", 5, segments=["r1,s1"])
        assert done.composite


def change(folder, name: str) -> None:
    file = folder / name
    file.write_bytes(file.read_bytes()[:-1] + b"!")


def resigned(folder, edit) -> None:
    """Changes the MLmodel file, and makes a manifest that says so: checksums alone do not help."""
    file = folder / "model" / "MLmodel"
    told = yaml.safe_load(file.read_text())
    edit(told)
    file.write_text(yaml.safe_dump(told))
    (folder / "manifest.json").unlink()
    write_manifest(folder)


def fleet_of(folder):
    return next((folder / "model").rglob("members.arrow"))


TAMPERED = {
    "members": (lambda f: change(f, str(fleet_of(f).relative_to(f))), "not what its checksum says"),
    "about": (lambda f: change(f, "version.json"), "version.json is not what its checksum says"),
    "missing": (lambda f: (f / "members.parquet").unlink(), "members.parquet is missing"),
    "added": (lambda f: (f / "run/evil.py").write_text("x"), "evil.py is not in its manifest"),
    "link": (lambda f: (f / "run/link").symlink_to("/etc/passwd"), "link is a link"),
    "folder link": (lambda f: (f / "run/more").symlink_to("/etc"), "more is a link"),
    "manifest": (lambda f: (f / "manifest.json").write_text("[]"), "manifest.json cannot be read"),
    "format": (
        lambda f: (f / "manifest.json").write_text('{"format": 9, "files": {}}'),
        "has format 9",
    ),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_what_was_changed_is_refused(trained, folder, case) -> None:
    edit, words = TAMPERED[case]
    edit(folder)
    with trained.open() as space:
        with pytest.raises(TrackingError, match=words):
            import_version(space, folder, name="never")
        assert "never" not in space.tracker.models()


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "a\\b", "./a"])
def test_names_outside_of_the_folder_are_refused(trained, folder, name) -> None:
    told = json.loads((folder / "manifest.json").read_text())
    told["files"][name] = {"sha256": "0" * 64, "bytes": 0}
    (folder / "manifest.json").write_text(json.dumps(told))
    with trained.open() as space, pytest.raises(TrackingError, match="not inside of it"):
        import_version(space, folder)


def set_loader(told) -> None:
    told["flavors"]["python_function"]["loader_module"] = "os"


def add_code(told) -> None:
    told["flavors"]["python_function"]["code"] = "code"


def add_sklearn(told) -> None:
    told["flavors"]["sklearn"] = {"pickled_model": "model.pkl"}


def leave(told) -> None:
    told["flavors"]["python_function"]["data"] = "../../run"


@pytest.mark.parametrize("edit", [set_loader, add_code, add_sklearn, leave])
def test_other_peoples_code_is_never_loaded(trained, folder, edit) -> None:
    resigned(folder, edit)
    with trained.open() as space:
        words = "would run whatever" if edit is not leave else "outside of its folder"
        with pytest.raises(ModelError, match=words):
            import_version(space, folder, name="never")


def test_a_digest_vouches_for_all(trained, folder, exported) -> None:
    resigned(folder, lambda told: told.update(mlflow_version="9"))
    with trained.open() as space, pytest.raises(TrackingError, match="digest is"):
        import_version(space, folder, digest=exported[1])


def test_names_and_folders_are_checked_first(trained, folder, tmp_path) -> None:
    with trained.open() as space:
        with pytest.raises(TrackingError, match="cannot name a model"):
            import_version(space, folder, name="../x")
        with pytest.raises(TrackingError, match="is not empty"):
            export_version(space, "sales/1", folder)
        with pytest.raises(ShoalError):
            import_version(space, tmp_path)


def test_retention_takes_what_nobody_needs(shops) -> None:
    now = dt.timedelta(0)
    with shops.open() as space:
        shown = collect(space, keep=1, older_than=now)
        assert "tried points at it" in shown.kept["models:/sales/2"]
        assert shown.kept["models:/sales/1"] == "shoal rollback sales goes back to it"
        space.tracker._client.delete_registered_model_alias("sales", "tried")
        space.tracker._client.delete_registered_model_alias("sales", "challenger")
        shown = collect(space, keep=1, older_than=now)
        assert [each.model for each in shown.gone] == ["models:/sales/2"]
        assert shown.kept["models:/sales/3"] == "members of models:/sales/4 come from it"
        assert not shown.applied
        assert len(space.tracker.versions("sales")) == 4
        assert collect(space, keep=1).gone == ()  # nothing is a month old
        assert collect(space, keep=3, older_than=now).gone == ()
        run = space.tracker.resolve("sales/2").run_id
        space.tracker.receive(run, "reproductions/a.json", "{}", {"shoal.reproduced": "now"})
        assert "receipt" in collect(space, keep=1, older_than=now).kept["models:/sales/2"]
        space.tracker._client.delete_tag(run, "shoal.reproduced")
        Snapshots(space.lake).create("first", "gold.sales@v0")
        assert "snapshot first" in collect(space, keep=1, older_than=now).kept["models:/sales/2"]
        Snapshots(space.lake).drop("first")
    asked = ["gc", "--keep", "1", "--older-than", "0h", "--project", str(shops.root)]
    assert "Would be deleted" in CliRunner().invoke(cli, asked).output
    told = CliRunner().invoke(cli, [*asked, "--apply", "--json"])
    assert [each["model"] for each in json.loads(told.stdout)["gone"]] == ["models:/sales/2"]
    with shops.open() as space:
        assert [v.version for v in space.tracker.versions("sales")] == [4, 3, 1]
        assert run not in {each.run_id for each in space.tracker.runs()}
        assert space.rollback("sales").move.version == 1
        (report,) = space.train()  # the newest training is there: nothing to fit
        assert (report.status, report.version) == ("current", 3)
    assert CliRunner().invoke(cli, ["gc", "--older-than", "soon"]).exit_code == 2


def test_runs_that_registered_nothing_go_too(shops) -> None:
    with shops.open() as space:
        client, experiment = space.tracker._client, space.tracker._experiment_id()
        tags = {"shoal.project": "shop"}
        lost = [client.create_run(experiment, tags=tags, start_time=n).info.run_id for n in (1, 2)]
        foreign = client.create_run(experiment, start_time=1).info.run_id
        found = collect(space, keep=1, older_than=dt.timedelta(days=1), apply=True)
        assert [each.run_id for each in found.gone] == [lost[0]]
        left = {run.run_id for run in space.tracker.runs()}
        assert {lost[1], foreign} <= left
        assert lost[0] not in left
