"""The registry read directly says what MLflow says."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from fleets import CONTEXT, trained_fleet
from shoal.errors import TrackingError
from shoal.tracking import Reading, Reference, Tracker


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    folder = tmp_path_factory.mktemp("reading")
    tracker = Tracker(f"sqlite:///{folder}/mlflow.db", None, "flights")
    for seed in range(3):
        tracker.record(trained_fleet(folder, seed=seed), CONTEXT)
    tracker._client.create_registered_model("o'clock")
    tracker.set_alias("delay", "challenger", 2)
    tracker.set_tag("delay", "colour", "blue")
    tracker._client.create_registered_model("empty")
    tracker._client.delete_model_version("delay", "3")
    return tracker


def test_pointers_are_those_of_mlflow(tracker: Tracker) -> None:
    reading = Reading(tracker)
    assert reading._direct(None) == tracker.pointers()
    for name in ("delay", "o'clock", "empty"):
        assert reading._direct(name) == tracker.pointers(name) == reading.pointers(name)
    (delay,) = reading.pointers("delay")
    assert (delay.newest, delay.aliases, delay.own) == (2, {"challenger": 2}, True)
    with pytest.raises(TrackingError, match=r"no registered model 'dely'"):
        reading.pointers("dely")


def test_versions_are_those_of_mlflow(tracker: Tracker) -> None:
    reading = Reading(tracker)
    found = reading.version("delay", 1)
    assert found.fleet == tracker.fleet_folder(tracker.resolve("delay/1"))
    assert found.inputs == tracker.input_types("delay/1")
    with pytest.raises(TrackingError, match="no version 3"):
        reading.version("delay", 3)


@pytest.mark.parametrize("text", ["delay@challenger", "delay/1", "delay"])
def test_references_mean_what_they_mean_to_the_tracker(tracker: Tracker, text: str) -> None:
    assert Reading(tracker).number(Reference.parse(text)) == tracker.resolve(text).version


@pytest.mark.parametrize("text", ["dely", "delay@champion2", "delay/7", "o'clock"])
def test_what_is_wrong_with_a_reference_is_told(tracker: Tracker, text: str) -> None:
    with pytest.raises(TrackingError, match=r"no (registered model|alias|version)"):
        Reading(tracker).number(Reference.parse(text))


def test_an_unknown_schema_is_left_to_mlflow(tracker: Tracker, tmp_path: Path) -> None:
    copy = tmp_path / "mlflow.db"
    source, target = sqlite3.connect(tracker.uri.removeprefix("sqlite:///")), sqlite3.connect(copy)
    source.backup(target)
    target.execute("UPDATE alembic_version SET version_num = 'of another version'")
    target.commit()
    source.close()
    target.close()
    other = Reading(Tracker(f"sqlite:///{copy}", None, "flights"))
    assert other._direct("delay") == []
    assert other._folder("delay", 1) is None


def test_a_server_of_lines_imports_neither_mlflow_nor_pandas_nor_scikit_learn(
    tracker: Tracker,
) -> None:
    script = (
        "import sys; from shoal.serving import ServedModels, create_app;"
        "from shoal.tracking import Tracker;"
        f"models = ServedModels.load(Tracker({tracker.uri!r}, None, 'flights'), ['delay/1']);"
        "create_app(models, default=None);"
        "print(models.get('delay').fleet.predict_few([('UA', 'IAH')], [[100.0, 9.0, 1.0, 1.0]]));"
        "heavy = {'mlflow', 'pandas', 'polars', 'sklearn', 'scipy', 'deltalake', 'sqlalchemy'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    predicted, heavy = done.stdout.splitlines()
    assert heavy == "[]"
    assert len(predicted) > 5
