"""Recording one training: a run, its dataset, a logged model and a registered version."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import math
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.tracking.card import CARD, model_card
from shoal.tracking.context import RunContext
from shoal.tracking.quiet import tracking_uri
from shoal.tracking.signature import input_example, input_types, model_signature

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Dataset, LoggedModel, Metric

    from shoal.models import FleetHeader, TrainedFleet

__all__ = ["KEPT", "Recording", "ensure_registered_model", "move_alias"]

# The folder among a run's artifacts that holds its code and environment.
KEPT = "shoal"

# Limits of MLflow's REST API, per request and per value.
_BATCH = 100
_LONGEST_PARAM = 6_000
_LONGEST_TAG = 5_000
_ALIAS_ATTEMPTS = 5
_METRIC_NAME = re.compile(r"[^\w\-. /:]")


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One training on its way into MLflow.

    Args:
        client: A client of the one tracking server or database.
        uri: That server's tracking URI.
        experiment_id: Where the run belongs.
        trained: What training made.
        header: Header of the fleet artifact.
        context: Code, environment and user.
    """

    client: MlflowClient
    uri: str
    experiment_id: str
    trained: TrainedFleet
    header: FleetHeader
    context: RunContext

    def record(self, alias: str | None) -> int:
        """Writes everything and returns the new version's number.

        The alias moves last, so it never points at something unfinished. After an error or an
        interrupt the run and the logged model are FAILED and no version of them is registered.
        """
        name = self.trained.declaration.name
        run_id = self._begin(f"{name}-{self.trained.fleet_version}")
        with self.undone_on_error(lambda: self.client.set_terminated(run_id, status="FAILED")):
            model = self.client.create_logged_model(
                self.experiment_id, name=name, source_run_id=run_id, params=self._params()
            )
            with self.undone_on_error(
                lambda: self.client.finalize_logged_model(model.model_id, "FAILED")
            ):
                self._log(run_id, model)
                self._keep(run_id)
                self._save(run_id, model)
                number = self._register(run_id, model)
                with self.undone_on_error(
                    lambda: self.client.delete_model_version(name, str(number))
                ):
                    self.client.set_logged_model_tags(
                        model.model_id,
                        {"mlflow.modelVersions": json.dumps([{"name": name, "version": number}])},
                    )
                    self.client.set_terminated(run_id)
                    if alias is not None:
                        move_alias(self.client, name, alias, number)
        return number

    def _begin(self, name: str) -> str:
        """The run that the training's own code has logged into, or a new one."""
        from mlflow.entities import RunTag

        opened = self.trained.run_id
        if opened is not None:
            self.client.update_run(opened, name=name)
            tags = [RunTag(key, value) for key, value in self._run_tags().items()]
            self.client.log_batch(opened, tags=tags)
            return opened
        return str(
            self.client.create_run(
                self.experiment_id,
                run_name=name,
                start_time=int((time.time() - self.trained.seconds) * 1000),
                tags=self._run_tags(),
            ).info.run_id
        )

    @staticmethod
    @contextlib.contextmanager
    def undone_on_error(undo: Any) -> Iterator[None]:
        """Calls ``undo`` when what is inside raises, whatever that is."""
        try:
            yield
        except BaseException:
            # The first error is the one to report, whatever the clean-up meets.
            with contextlib.suppress(Exception):
                undo()
            raise

    def _log(self, run_id: str, model: LoggedModel) -> None:
        from mlflow.entities import DatasetInput, InputTag, LoggedModelOutput, Param

        told = self.client.get_run(run_id).data.params if self.trained.run_id else {}
        params = [Param(key, value) for key, value in self._params().items() if key not in told]
        for start in range(0, len(params), _BATCH):
            self.client.log_batch(run_id, params=params[start : start + _BATCH])
        dataset = self._dataset()
        tags = [InputTag("mlflow.data.context", "training")]
        self.client.log_inputs(run_id, [DatasetInput(dataset, tags)])
        # The run must own the model before its metrics can be the model's, too.
        self.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        metrics = self._metrics(run_id, model.model_id, dataset)
        for start in range(0, len(metrics), _BATCH):
            self.client.log_batch(run_id, metrics=metrics[start : start + _BATCH])

    def _keep(self, run_id: str) -> None:
        """Writes what the training needs to be made again."""
        declared = self.trained.searched or self.trained.declaration
        asked = {
            "model": declared.name,
            "table": self.trained.table,
            "table_version": self.trained.table_version,
            "params": dict(declared.params),
            "tuned": {key: dict(params) for key, params in declared.tuned.items()},
        }
        with tempfile.TemporaryDirectory(prefix="shoal-code-") as folder:
            for name, content in self.context.files.items():
                (Path(folder) / name).write_bytes(content)
            text = json.dumps(asked, indent=1, default=repr)
            (Path(folder) / "training.json").write_text(text, encoding="utf-8")
            self.client.log_artifacts(run_id, folder, KEPT)

    def _save(self, run_id: str, model: LoggedModel) -> None:
        """Writes the model folder aside, then uploads it: no loading, no inferring."""
        import mlflow.pyfunc
        from mlflow.models import Model

        with tempfile.TemporaryDirectory(prefix="shoal-model-") as folder:
            path = Path(folder) / "model"
            mlflow.pyfunc.save_model(
                str(path),
                loader_module="shoal.models.pyfunc",
                data_path=str(self.trained.artifact),
                mlflow_model=Model(
                    artifact_path=model.artifact_location,
                    model_uuid=model.model_id,
                    run_id=run_id,
                    model_id=model.model_id,
                ),
                signature=model_signature(input_types(self.trained), self.header),
                input_example=input_example(self.trained),
                pip_requirements=_requirements(self.header),
                metadata={
                    "table": self.trained.table,
                    "table_version": self.trained.table_version,
                    "segments": int(self.trained.metrics.get("segments", 0)),
                },
            )
            card = model_card(self.trained, self.header, self.context)
            (path / CARD).write_text(card, encoding="utf-8")
            self.client.log_model_artifacts(model.model_id, str(path))
        self.client.finalize_logged_model(model.model_id, "READY")

    def _register(self, run_id: str, model: LoggedModel) -> int:
        name = self.trained.declaration.name
        ensure_registered_model(self.client, name)
        # A source of this form is what MLflow's user interface turns into a link to the model.
        # A server looks the model up itself; a database client does it by the global URI.
        remote = self.uri.startswith(("http:", "https:", "databricks", "uc:"))
        with contextlib.nullcontext() if remote else tracking_uri(self.uri):
            version = self.client.create_model_version(
                name,
                source=f"models:/{model.model_id}",
                run_id=run_id,
                model_id=model.model_id,
                tags=self._version_tags(),
                description=f"{self.trained.table} version {self.trained.table_version}",
            )
        return int(version.version)

    def _dataset(self) -> Dataset:
        """The table at its version; MLflow's own Delta source loses version 0."""
        from mlflow.entities import Dataset

        trained = self.trained
        columns = [
            {"name": name, "type": kind, "required": True}
            for name, kind in input_types(trained).items()
        ]
        # MLflow keeps one dataset per name and digest, so the digest must tell versions and
        # tables made anew apart.
        made = hashlib.sha256(f"{trained.table_path}\n{trained.table_id}".encode()).hexdigest()
        return Dataset(
            name=trained.table,
            digest=f"v{trained.table_version}-{made[:8]}",
            source_type="delta_table",
            source=json.dumps(
                {
                    "path": trained.table_path,
                    "delta_table_version": trained.table_version,
                    "delta_table_id": trained.table_id,
                }
            ),
            schema=json.dumps({"mlflow_colspec": columns}),
            profile=json.dumps({"num_rows": int(trained.metrics.get("rows", 0))}),
        )

    def _metrics(self, run_id: str, model_id: str, dataset: Dataset) -> list[Metric]:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        return [
            Metric(
                _METRIC_NAME.sub("_", key),
                float(value),
                now,
                0,
                model_id=model_id,
                dataset_name=dataset.name,
                dataset_digest=dataset.digest,
                run_id=run_id,
            )
            for key, value in self.trained.metrics.items()
            if not math.isnan(value)  # NaN says "not measured"; MLflow would draw it as 0
        ]

    def _params(self) -> dict[str, str]:
        declared = self.trained.declaration
        fixed = {
            "model": declared.name,
            "table": self.trained.table,
            "table_version": str(self.trained.table_version),
            "target": declared.target,
            "by": ", ".join(declared.by),
            "time": declared.time or "",
            "metric": declared.metric,
            "baseline": declared.baseline,
            "features": ", ".join(feature.name for feature in self.header.features),
            "holdout": str(declared.holdout),
            "min_rows": str(declared.min_rows),
            "seed": str(self.trained.seed),
        }
        params = dict(fixed)
        for key, value in self.trained.params.items():
            clash = key in fixed and fixed[key] != value
            params[f"params.{key}" if clash else key] = value
        return {_METRIC_NAME.sub("_", k): v[:_LONGEST_PARAM] for k, v in params.items()}

    def _version_tags(self) -> dict[str, str]:
        trained, context = self.trained, self.context
        tags = {
            "shoal.project": context.project,
            "shoal.fleet_version": trained.fleet_version,
            "shoal.fingerprint": trained.declaration.fingerprint(),
            "shoal.table": trained.table,
            "shoal.table_version": trained.table_version,
            "shoal.current_version": (
                trained.table_version
                if trained.current_version is None
                else trained.current_version
            ),
            "shoal.table_id": trained.table_id,
            "shoal.members_table": trained.members_table,
            "shoal.members_version": trained.members_version,
            "shoal.artifact": _hash(trained.artifact / "members.arrow"),
            "shoal.code_commit": context.code_commit or "",
            "shoal.code_dirty": str(context.code_dirty).lower(),
            "shoal.environment_hash": context.environment_hash or "",
            "shoal.seed": trained.seed,
            **trained.tags,
        }
        return {key: str(value) for key, value in tags.items()}

    def _run_tags(self) -> dict[str, str]:
        tags = self._version_tags() | {
            "mlflow.user": self.context.user,
            "mlflow.source.name": self.trained.declaration.location,
            "mlflow.source.type": "LOCAL",
            "shoal.failures": json.dumps(self.trained.failures)[:_LONGEST_TAG],
        }
        if self.context.code_commit:
            tags["mlflow.source.git.commit"] = self.context.code_commit
        return tags


def _hash(path: Path) -> str:
    """SHA-256 of a file: a bundle is refused when the registered artifact was changed since."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def ensure_registered_model(client: MlflowClient, name: str) -> None:
    """Makes a registered model, if there is none of this name."""
    from mlflow.exceptions import MlflowException

    # A search: fetching a model by its name reads all of its versions first.
    if client.search_registered_models(filter_string=f"name='{name}'"):
        return
    try:
        client.create_registered_model(name, tags={"shoal.model": name})
    except MlflowException as error:  # another training was faster
        if error.error_code not in {"RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS"}:
            raise


def move_alias(client: MlflowClient, name: str, alias: str, version: int) -> None:
    """Points an alias at a version, also while others set it for the first time."""
    from mlflow.exceptions import MlflowException

    for attempt in range(1, _ALIAS_ATTEMPTS + 1):
        try:
            client.set_registered_model_alias(name, alias, str(version))
        except MlflowException as error:
            # MLflow reads, then inserts: of two first inserts at once one breaks the key. The row
            # is there after that, and the next attempt updates it.
            if "IntegrityError" not in str(error) or attempt == _ALIAS_ATTEMPTS:
                raise
        else:
            return


# What a template says of networks, and the packages that open them.
_NETWORKS = {
    '"torch.nn.': ("torch", "safetensors"),
    '["net",': ("skorch", "torch", "safetensors"),
    '["keras",': ("keras", "tensorflow-cpu", "tensorflow", "safetensors"),
}


def _requirements(header: FleetHeader) -> list[str]:
    """What loading the fleet imports, pinned to what is installed now."""
    templates = " ".join(header.templates.values())
    names = ["shoal", "numpy", "pandas", "pyarrow", "scikit-learn", "skops"]
    names += [
        name for name in ("xgboost", "xgboost-cpu", "lightgbm") if name.split("-")[0] in templates
    ]
    for part, brings in _NETWORKS.items():
        names += brings if part in templates else ()
    installed = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return [f"{name}=={version}" for name, version in installed.items()]
