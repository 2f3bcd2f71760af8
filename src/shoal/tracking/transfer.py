"""A registered version as files, and as a version again, in this MLflow or another one.

A version is its run (parameters, metrics, tags, datasets, artifacts), its model folder and what the
registry says of it. Ids are the server's own: a version that comes in gets a new run and number,
and a tag that tells where it came from.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.errors import ModelError, TrackingError
from shoal.tracking.quiet import quietly, tracking_uri
from shoal.tracking.version import ModelVersion

if TYPE_CHECKING:
    from shoal.tracking.tracker import Tracker

__all__ = ["MODEL", "RUN", "read_in", "write_out"]

MODEL, RUN, _ABOUT = "model", "run", "version.json"
_BATCH = 100
_LOADER = "shoal.models.pyfunc"


def write_out(tracker: Tracker, version: ModelVersion, folder: Path) -> None:
    """Writes a version's run, model folder and registry entry.

    Args:
        tracker: Where it is.
        version: The version; one that Shoal trained.
        folder: An empty folder.

    Raises:
        TrackingError: Its run or artifacts are gone, or another tool made it.
    """
    shutil.copytree(tracker.model_folder(version), folder / MODEL)
    with quietly(f"export {version.uri}"):
        client = tracker._client
        item = client.get_model_version(version.name, str(version.version))
        run = client.get_run(version.run_id)
        (folder / RUN).mkdir()
        if client.list_artifacts(version.run_id):
            client.download_artifacts(version.run_id, "", str(folder / RUN))
        metrics = [
            {"key": m.key, "value": m.value, "timestamp": m.timestamp, "step": m.step}
            for key in sorted(run.data.metrics)
            for m in client.get_metric_history(version.run_id, key)
        ]
        inputs = run.inputs.dataset_inputs if run.inputs else []
        about = {
            "name": version.name,
            "version": version.version,
            "aliases": list(version.aliases),
            "description": item.description or "",
            "tags": dict(version.tags),
            "run": {
                "name": run.info.run_name,
                "status": run.info.status,
                "started": run.info.start_time,
                "ended": run.info.end_time,
                "params": dict(run.data.params),
                "tags": dict(run.data.tags),
                "metrics": metrics,
                "datasets": [each.dataset.to_dictionary() for each in inputs],
            },
        }
    text = json.dumps(about, indent=1, sort_keys=True)
    (folder / _ABOUT).write_text(text, encoding="utf-8")


def read_in(tracker: Tracker, folder: Path, name: str, tags: Mapping[str, str]) -> tuple[str, int]:
    """Makes a run and a registered version of what `write_out` wrote.

    Args:
        tracker: Where they go.
        folder: The folder, checked before.
        name: The registered model.
        tags: Tags that take the place of the version's own.

    Returns:
        The run's id, and the version's number.

    Raises:
        ModelError: The model folder would load code that is not Shoal's.
        TrackingError: MLflow refused; the run is FAILED, and no version was registered.
    """
    from shoal.tracking.record import Recording, ensure_registered_model

    refuse_other_loaders(folder / MODEL)
    about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
    said = about["run"]
    with quietly(f"import '{name}'"):
        from mlflow.entities import (
            Dataset,
            DatasetInput,
            InputTag,
            LoggedModelOutput,
            Metric,
            Param,
        )
        from mlflow.models import Model

        client, experiment = tracker._client, tracker._experiment_id()
        own = {k: v for k, v in said["tags"].items() if k != "mlflow.log-model.history"} | dict(
            tags
        )
        run_id = client.create_run(
            experiment, start_time=said["started"], run_name=said["name"], tags=own
        ).info.run_id
        failed = Recording.undone_on_error
        with failed(lambda: client.set_terminated(run_id, status="FAILED")):
            model = client.create_logged_model(
                experiment, name=name, source_run_id=run_id, params=said["params"]
            )
            with failed(lambda: client.finalize_logged_model(model.model_id, "FAILED")):
                params = [Param(key, value) for key, value in said["params"].items()]
                metrics = [Metric(m["key"], m["value"], m["timestamp"], m["step"])
                           for m in said["metrics"]]  # fmt: skip
                for start in range(0, max(len(params), len(metrics)), _BATCH):
                    part = slice(start, start + _BATCH)
                    client.log_batch(run_id, metrics=metrics[part], params=params[part])
                context = [InputTag("mlflow.data.context", "training")]
                given = [DatasetInput(Dataset(**each), context) for each in said["datasets"]]
                client.log_inputs(run_id, given)
                client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
                if any((folder / RUN).iterdir()):
                    client.log_artifacts(run_id, str(folder / RUN))
                with tempfile.TemporaryDirectory(prefix="shoal-import-") as place:
                    copy = Path(place) / MODEL
                    shutil.copytree(folder / MODEL, copy)
                    info = Model.load(str(copy))
                    info.run_id, info.model_uuid = run_id, model.model_id
                    info.model_id, info.artifact_path = model.model_id, model.artifact_location
                    info.save(str(copy / "MLmodel"))
                    client.log_model_artifacts(model.model_id, str(copy))
                client.finalize_logged_model(model.model_id, "READY")
                ensure_registered_model(client, name)
                with tracking_uri(tracker.uri):
                    version = client.create_model_version(
                        name,
                        source=f"models:/{model.model_id}",
                        run_id=run_id,
                        model_id=model.model_id,
                        tags=about["tags"] | dict(tags),
                        description=about["description"],
                    )
                client.set_terminated(run_id, status=said["status"], end_time=said["ended"])
    return run_id, int(version.version)


def refuse_other_loaders(folder: Path) -> None:
    """Refuses a model folder whose ``MLmodel`` makes MLflow run code that is not Shoal's.

    Raises:
        ModelError: It does, or it cannot be read.
    """
    import yaml

    try:
        told: Any = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))
        flavors = dict(told["flavors"])
        python = flavors.pop("python_function")
        loader, code = python["loader_module"], python.get("code")
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise ModelError(f"{folder / 'MLmodel'} cannot be read: {error!r}") from error
    if loader != _LOADER or code or flavors:
        raise ModelError(
            f"{folder} is loaded by {loader}{' with code of its own' if code else ''}, which would "
            f"run whatever is in it; expected {_LOADER} alone.",
            hint="only versions that Shoal trained can be imported",
        )


def about(folder: Path) -> dict[str, Any]:
    """What an exported folder says of its version.

    Raises:
        TrackingError: It says nothing that can be read.
    """
    try:
        told = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        _ = str(told["name"]), int(told["version"]), dict(told["tags"]), dict(told["run"]["tags"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrackingError(f"{folder / _ABOUT} cannot be read: {error!r}") from error
    return dict(told)
