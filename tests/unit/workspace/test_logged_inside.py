"""A model's own code logs with MLflow's functions, and sees it in the training's run."""

from __future__ import annotations

import os

import mlflow
import pytest

from shops import Shops

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")

MODEL = """
import mlflow
import shoal
from sklearn.linear_model import Ridge


class Watched(Ridge):
    def fit(self, X, y, sample_weight=None):
        mlflow.log_metric("rows_seen", len(y))
        return super().fit(X, y, sample_weight)


@shoal.model(table="gold.sales", target="y", by=["region", "shop"], time="day", trust_pickle=True)
def sales(alpha=1.0):
    mlflow.log_param("regularised", "yes")
    return Watched(alpha=alpha)
"""


def write(shops: Shops, text: str) -> None:
    (shops.root / "models/sales.py").write_text(text)


def test_it_lands_in_the_run_of_the_training(tmp_path, monkeypatch) -> None:
    shops = Shops(tmp_path / "project")
    write(shops, MODEL)
    variables = {key: os.environ.get(key) for key in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI")}
    uri = mlflow.get_tracking_uri()
    monkeypatch.setattr("mlflow.tracking.fluent._active_experiment_id", "17")  # the caller's own
    with shops.open() as space:
        (report,) = space.train()
        assert report.status == "trained", report.error
        (run,) = space.tracker.runs()
        assert (run.run_id, run.status) == (report.run_id, "FINISHED")
        assert run.params["regularised"] == "yes"  # from here
        assert run.metrics["rows_seen"] > 0  # from a process that fits
        assert run.metrics["segments"] == 12
        assert run.tags["shoal.fleet_version"] == "1"
        (again,) = space.train()
        assert again.status == "current"
        assert len(space.tracker.runs()) == 1  # nothing was fitted, and no run is left
        write(shops, MODEL.replace("return Watched", "raise ValueError('no')"))
    with shops.open() as space:
        (report,) = space.train()
        assert report.status == "failed"
        assert {run.status for run in space.tracker.runs()} == {"FINISHED", "FAILED"}
    assert {key: os.environ.get(key) for key in variables} == variables
    assert mlflow.get_tracking_uri() == uri
    assert mlflow.active_run() is None


def test_it_lands_there_from_an_engines_workers_too(tmp_path) -> None:
    shops = Shops(tmp_path / "project")
    write(shops, MODEL)
    (shops.root / "shoal.toml").write_text('[profiles.default]\ntraining = "engine"\n')
    with shops.open() as space:
        first = land(space)
        write(shops, MODEL.replace('"rows_seen", len(y)', '"rows_seen", 2.0 * len(y)'))
    with shops.open() as space:
        second = land(space)
        assert second["rows_seen"] == 2 * first["rows_seen"] > 0
        assert len(space.tracker.runs()) == 2
    assert mlflow.active_run() is None


def land(space) -> dict[str, float]:
    (report,) = space.train()
    assert report.status == "trained", report.error
    return next(r for r in space.tracker.runs() if r.run_id == report.run_id).metrics
