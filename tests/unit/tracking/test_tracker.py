"""Recording and reading back, on MLflow's own SQLite store."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from fleets import CONTEXT, flights, trained_fleet
from shoal.errors import TrackingError, Unavailable
from shoal.models import TrainedFleet
from shoal.serving import ServedModels
from shoal.tracking import ModelVersion, Tracker

# What SQLAlchemy 2.1 says to MLflow 3.17 where a test uses MLflow's own client.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tracking")


@pytest.fixture(scope="module")
def tracker(folder: Path) -> Tracker:
    return Tracker(f"sqlite:///{folder}/deep/mlflow.db", None, "flights")


@pytest.fixture(scope="module")
def first(folder: Path) -> TrainedFleet:
    return trained_fleet(folder)


@pytest.fixture(scope="module")
def recorded(tracker: Tracker, first: TrainedFleet) -> ModelVersion:
    return tracker.record(first, CONTEXT)


def client(tracker: Tracker) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracker.uri, registry_uri=tracker.uri)


def test_the_version_names_run_alias_and_origin(recorded: ModelVersion) -> None:
    assert recorded.uri == "models:/delay/1"
    assert recorded.aliases == ("champion",)
    assert recorded.source.startswith("models:/m-")
    assert recorded.tags["shoal.table"] == "gold.flights"
    assert recorded.tags["shoal.table_version"] == "0"


def test_the_run_holds_what_is_needed_to_make_it_again(
    tracker: Tracker, recorded: ModelVersion, first: TrainedFleet
) -> None:
    run = tracker.run(recorded.run_id)
    assert run.status == "FINISHED"
    assert run.seconds is not None
    assert run.seconds >= 1.25
    assert run.params["alpha"] == "1.0"
    assert run.params["by"] == "carrier, dest"
    assert run.params["seed"] == "7"
    assert run.metrics["mae_p90"] == 2.0
    assert run.metrics["segments_fallback"] == 1
    assert "mae_p99" not in run.metrics  # not measured
    assert run.tags["mlflow.source.git.commit"] == "0a1b2c3"
    assert run.tags["shoal.code_dirty"] == "true"
    assert run.tags["shoal.environment_hash"] == "e" * 64
    assert run.tags["shoal.fingerprint"] == first.declaration.fingerprint()
    assert json.loads(run.tags["shoal.failures"]) == first.failures
    assert [(d.name, d.version, d.path) for d in run.datasets] == [
        ("gold.flights", 0, first.table_path)
    ]


def test_mlflow_shows_the_model_with_its_metrics_and_dataset(
    tracker: Tracker, recorded: ModelVersion
) -> None:
    run = client(tracker).get_run(recorded.run_id)
    model_id = recorded.source.removeprefix("models:/")
    assert [output.model_id for output in run.outputs.model_outputs] == [model_id]
    model = client(tracker).get_logged_model(model_id)
    assert str(model.status) == "READY"
    assert model.source_run_id == recorded.run_id
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "delay", "version": 1}]
    metrics = {metric.key: metric for metric in model.metrics}
    assert metrics["mae_mean"].dataset_name == "gold.flights"
    assert metrics["mae_mean"].dataset_digest.startswith("v0-")


def test_the_model_folder_is_small_and_needs_no_project_files(
    tracker: Tracker, recorded: ModelVersion
) -> None:
    where = client(tracker).get_model_version_download_uri("delay", "1")
    files = {path.name for path in Path(where).rglob("*") if path.is_file()}
    assert {"fleet.json", "members.arrow", "MLmodel", "requirements.txt"} <= files
    assert not files & {"pyproject.toml", "uv.lock"}
    requirements = (Path(where) / "requirements.txt").read_text()
    assert "scikit-learn==" in requirements
    assert "torch" not in requirements


def test_column_types_follow_the_table_and_its_gaps(
    tracker: Tracker, recorded: ModelVersion
) -> None:
    assert tracker.input_types("delay") == {
        "carrier": "string",
        "dest": "string",
        "distance": "long",
        "hour": "double",  # whole numbers with gaps
        "dep_delay": "double",
        "holiday": "boolean",
    }


def test_the_fleet_comes_back_as_it_was(
    tracker: Tracker, recorded: ModelVersion, first: TrainedFleet
) -> None:
    from shoal.models import Fleet

    rows = flights(seed=4)
    assert tracker.fleet("delay/1").predict(rows).equals(Fleet.open(first.artifact).predict(rows))


def test_nothing_of_the_callers_mlflow_changes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import mlflow

    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project]")
    (tmp_path / "uv.lock").write_text("version = 1")
    own = f"sqlite:///{folder}/deep/mlflow.db"
    mlflow.set_tracking_uri(own)
    try:
        mlflow.set_experiment("own")
        with mlflow.start_run() as active:
            before = logging.getLogger("mlflow").level, os.environ["MLFLOW_TRACKING_URI"]
            capfd.readouterr()
            tracker = Tracker(f"sqlite:///{folder}/other.db", None, "flights")
            tracker.record(trained_fleet(folder, name="quiet"), CONTEXT)
            assert capfd.readouterr() == ("", "")
            assert mlflow.active_run().info.run_id == active.info.run_id
            assert mlflow.get_tracking_uri() == own
            assert (logging.getLogger("mlflow").level, os.environ["MLFLOW_TRACKING_URI"]) == before
            assert "MLFLOW_UV_AUTO_DETECT" not in os.environ
        assert {path.name for path in tmp_path.iterdir()} == {"pyproject.toml", "uv.lock"}
    finally:
        mlflow.set_tracking_uri(None)
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        os.environ.pop("MLFLOW_EXPERIMENT_ID", None)


def test_versions_count_up_and_the_alias_moves(folder: Path, tracker: Tracker) -> None:
    for seed in (1, 2):
        tracker.record(trained_fleet(folder, name="arrival", seed=seed), CONTEXT)
    kept = tracker.record(trained_fleet(folder, name="arrival", seed=3), CONTEXT, alias=None)
    assert kept.aliases == ()
    assert [v.version for v in tracker.versions("arrival")] == [3, 2, 1]
    for ref in ("arrival", "arrival@champion", "models:/arrival@champion", "models:/arrival/2"):
        assert tracker.resolve(ref).version == 2
    assert tracker.set_alias("arrival", "champion", 1).aliases == ("champion",)
    assert tracker.resolve("arrival").version == 1
    assert "arrival" in tracker.models()
    newest = tracker.runs(limit=2)
    assert len(newest) == 2
    assert newest[0].started >= newest[1].started


def test_unknown_names_say_what_there_is(tracker: Tracker, recorded: ModelVersion) -> None:
    with pytest.raises(TrackingError, match=r"no registered model 'delai'.*\n.*'delay'"):
        tracker.resolve("delai")
    with pytest.raises(TrackingError, match="no version 9; it has 1"):
        tracker.resolve("delay/9")
    with pytest.raises(TrackingError, match="no alias 'blue'; it has champion"):
        tracker.resolve("delay@blue")
    with pytest.raises(TrackingError, match="no version 9"):
        tracker.set_alias("delay", "champion", 9)
    with pytest.raises(TrackingError, match="set the alias 'v1' of 'delay'"):
        tracker.set_alias("delay", "v1", 1)  # MLflow keeps such aliases for versions
    with pytest.raises(TrackingError, match="read the run"):
        tracker.run("0" * 32)


@pytest.mark.parametrize("ref", ["", "delay/x", "a/b/c", "delay@", "models:/", "runs:/a/model"])
def test_a_reference_of_another_form_is_refused(tracker: Tracker, ref: str) -> None:
    with pytest.raises(TrackingError):
        tracker.resolve(ref)


@pytest.mark.parametrize("step", ["_save", "_register", "set_terminated", "alias"])
def test_a_failure_leaves_a_failed_run_and_no_version(
    folder: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Each step fails as it would with a full disk, a lost connection or a bad alias."""
    from mlflow import MlflowClient

    from shoal.tracking.record import Recording

    name = f"broken_{step}"
    trained = trained_fleet(folder, name=name)
    alias = "champion"
    if step == "_save":
        (trained.artifact / "members.arrow").chmod(0)
        trained = dataclasses.replace(trained, artifact=trained.artifact / "gone")
        expected: type[Exception] = Exception
    elif step == "alias":
        alias, expected = "v7", TrackingError
    else:
        owner = Recording if step == "_register" else MlflowClient
        right = getattr(owner, step)

        def fail(*arguments: Any, **more: Any) -> Any:
            if more.get("status") == "FAILED":  # the clean-up itself
                return right(*arguments, **more)
            raise KeyboardInterrupt

        monkeypatch.setattr(owner, step, fail)
        expected = KeyboardInterrupt
    before = len(tracker.runs())
    with pytest.raises(expected):
        tracker.record(trained, CONTEXT, alias=alias)
    if step == "_save":  # the artifact is read before anything is written
        assert len(tracker.runs()) == before
        assert name not in tracker.models()
        return
    assert tracker.runs(limit=1)[0].status == "FAILED"
    if name in tracker.models():
        assert tracker.versions(name) == []


def test_many_trainings_at_once(folder: Path, tracker: Tracker, recorded: ModelVersion) -> None:
    fleets = [trained_fleet(folder, name="crowd", seed=seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda fleet: tracker.record(fleet, CONTEXT), fleets))
    assert sorted(version.version for version in made) == [1, 2, 3, 4]
    assert len({version.run_id for version in made}) == 4
    assert logging.getLogger("mlflow").level != logging.ERROR


@pytest.mark.parametrize("uri", ["mlruns", "/data/mlruns", "file:///data/mlruns", "ftp://x/y"])
def test_a_folder_is_no_tracking_uri(uri: str) -> None:
    with pytest.raises(TrackingError, match="is no tracking database or server"):
        Tracker(uri, None, "flights")


def test_a_file_that_is_no_database_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(TrackingError, match=r"mlflow\.db cannot be opened: file is not a database"):
        Tracker(f"sqlite:///{tmp_path}/mlflow.db", None, "flights").models()
    with pytest.raises(TrackingError, match="names no database file"):
        Tracker("sqlite://", None, "flights")


def test_artifacts_lie_beside_the_database_whatever_its_folder_is_called(tmp_path: Path) -> None:
    folder = tmp_path / "lake #1 50%"
    tracker = Tracker(f"sqlite:///{folder}/mlflow.db", None, "flights")
    tracker.record(trained_fleet(tmp_path), CONTEXT)
    assert {path.name for path in folder.iterdir()} == {"artifacts", "mlflow.db"}
    rows = flights(seed=2)
    assert tracker.fleet("delay").predict(rows).num_rows == rows.num_rows


def test_a_server_that_is_down_is_told_at_once() -> None:
    for uri in ("http://127.0.0.1:9", "postgresql://ann:secret@127.0.0.1:9/mlflow"):
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9 does not answer"):
            Tracker(uri, None, "flights").models()


def test_repr_keeps_the_password() -> None:
    assert "secret" not in repr(Tracker("postgresql://ann:secret@db/mlflow", None, "flights"))


def test_models_of_others_are_listed_but_not_opened(
    tracker: Tracker, recorded: ModelVersion, tmp_path: Path
) -> None:
    import mlflow.pyfunc

    (tmp_path / "data").mkdir()
    path = tmp_path / "model"
    mlflow.pyfunc.save_model(
        str(path), loader_module="json", data_path=str(tmp_path / "data"), pip_requirements=[]
    )
    client(tracker).create_registered_model("foreign")
    client(tracker).create_model_version("foreign", str(path), run_id=recorded.run_id)
    assert tracker.resolve("foreign").version == 1
    with pytest.raises(TrackingError, match="was not trained by Shoal"):
        tracker.fleet("foreign")
    client(tracker).create_registered_model("without versions")
    served = [model.name for model in ServedModels.load(tracker)]
    assert "delay" in served
    assert not {"foreign", "without versions"} & set(served)


def test_artifacts_that_are_gone_are_told(tracker: Tracker, folder: Path) -> None:
    import shutil

    tracker.record(trained_fleet(folder, name="lost"), CONTEXT)
    shutil.rmtree(client(tracker).get_model_version_download_uri("lost", "1"))
    with pytest.raises(TrackingError, match="artifacts of 'lost' version 1 are gone"):
        tracker.fleet("lost")


def test_a_classification_fleet_says_what_it_predicts() -> None:
    from shoal.models import FleetHeader
    from shoal.tracking.signature import model_signature

    def output(classes: tuple[Any, ...] | None) -> str:
        header = FleetHeader(
            model="m",
            fleet_version=1,
            task="classification",
            by=(),
            features=(),
            target="y",
            levels=((),),
            templates={},
            table="t",
            table_version=0,
            classes=classes,
        )
        kinds = model_signature({"x": "double"}, header).outputs.input_types()
        return str(kinds[0].name)

    assert output(("late", "early")) == "string"
    assert output((0, 1)) == "long"
    assert output((False, True)) == "boolean"
    assert output(None) == "double"


def test_the_input_example_may_have_other_key_types(first: TrainedFleet) -> None:
    from shoal.tracking.signature import input_types

    example = pa.table(
        {
            "carrier": pa.array([1], pa.int32()),
            "dest": pa.array([0], pa.date32()),
            "hour": pa.array([1], pa.decimal128(5, 2)),
        }
    )
    gone = dataclasses.replace(first, input_example=example, table_path="/nowhere")
    assert input_types(gone) == {"carrier": "double", "dest": "string", "hour": "double"}


def test_decimals_and_moments_with_a_zone_are_recorded(folder: Path, tracker: Tracker) -> None:
    """Delta tables are full of them; MLflow's JSON and its schemas know neither."""
    trained = trained_fleet(folder, name="typed")
    example = trained.input_example
    moment = pa.array([dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC)] * 5)
    amount = pa.array([Decimal("1.50")] * 5)
    example = example.set_column(0, "carrier", moment.cast(pa.timestamp("us", "UTC")))
    example = example.set_column(1, "dest", amount).set_column(4, "dep_delay", amount)
    tracker.record(dataclasses.replace(trained, input_example=example), CONTEXT)
    types = tracker.input_types("typed")
    assert (types["carrier"], types["dest"], types["dep_delay"]) == ("datetime", "string", "double")


def test_mlflow_finds_the_table_and_its_version_behind_the_run(
    tracker: Tracker, recorded: ModelVersion, first: TrainedFleet
) -> None:
    import mlflow.data

    run = client(tracker).get_run(recorded.run_id)
    source = mlflow.data.get_source(run.inputs.dataset_inputs[0])
    assert (source.path, source.delta_table_version) == (first.table_path, 0)
