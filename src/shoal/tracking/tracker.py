"""The tracker: MLflow runs, registered versions and aliases of one project."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from shoal.errors import TrackingError, nearest
from shoal.tracking.card import CARD
from shoal.tracking.context import RunContext
from shoal.tracking.moved import moved_from
from shoal.tracking.places import (
    artifact_uri,
    check_file,
    check_server,
    local_folder,
    sqlite_file,
)
from shoal.tracking.quiet import quietly
from shoal.tracking.record import Recording, move_alias
from shoal.tracking.registry import all_pages, listed, model_version, named, pointers_of
from shoal.tracking.runs import TrackedRun, tracked_run
from shoal.tracking.scripts import Keep, script_run
from shoal.tracking.version import ModelVersion, Pointers, Reference

if TYPE_CHECKING:
    import pyarrow as pa
    from mlflow import MlflowClient

    from shoal.models import Fleet, TrainedFleet

__all__ = ["Tracker"]

_SCHEMES = {"sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks"}


class Tracker:
    """MLflow's runs and registry at one place, without touching the caller's MLflow state.

    Nothing is opened before the first use.

    Args:
        uri: MLflow tracking URI: ``sqlite:////lake/mlflow.db``, ``postgresql://...``,
            ``http://server:5000``. Not a folder.
        artifacts: Where a new experiment keeps artifacts: a folder or an object-store URI. None
            is ``artifacts`` beside a SQLite database, and otherwise what the server chooses.
        experiment: Name of the experiment; made when missing. On Databricks (``databricks``, or
            ``databricks://profile`` of its configuration file) it is in ``/Shared``.

    Raises:
        TrackingError: ``uri`` is a folder, or no tracking URI.
    """

    def __init__(self, uri: str, artifacts: str | None, experiment: str) -> None:
        scheme = urlsplit(uri).scheme.split("+")[0] if ":" in uri else uri
        if scheme not in _SCHEMES:
            raise TrackingError(
                f"'{uri}' is no tracking database or server"
                + ("; MLflow's file store is not used." if scheme in {"", "file", uri} else "."),
                hint="Write sqlite:////folder/mlflow.db, postgresql://... or http://server:5000.",
            )
        if scheme == "sqlite" and not sqlite_file(uri).name:
            raise TrackingError(
                f"'{uri}' names no database file.", hint="Write sqlite:////folder/mlflow.db."
            )
        self.uri = uri
        self.artifacts = artifacts
        # Databricks keeps experiments in its workspace's folders, and takes whole paths only.
        inside = scheme == "databricks" and not experiment.startswith("/")
        self.experiment = f"/Shared/{experiment}" if inside else experiment
        self._places: dict[tuple[str, int], str] = {}

    def __repr__(self) -> str:
        return f"Tracker(experiment={self.experiment!r})"  # the URI may hold a password

    @cached_property
    def _client(self) -> MlflowClient:
        if self.uri.startswith("sqlite"):
            check_file(sqlite_file(self.uri))
        else:
            check_server(self.uri)
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    @cached_property
    def _downloads(self) -> Path:
        # Fleets are memory-mapped: the files must live as long as the tracker.
        folder = tempfile.mkdtemp(prefix="shoal-fleets-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)

    def _experiment_id(self) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(self.experiment)
        if found is None:
            try:
                return str(self._client.create_experiment(self.experiment, self._location()))
            except MlflowException as error:
                if error.error_code not in {"RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS"}:
                    raise
                found = self._client.get_experiment_by_name(self.experiment)
        if found is None or found.lifecycle_stage == "deleted":
            raise TrackingError(
                f"The experiment '{self.experiment}' was deleted in MLflow.",
                hint="Restore it (mlflow experiments restore), or name another in shoal.toml.",
            )
        if self.uri.startswith("sqlite"):
            before = moved_from(found.artifact_location or "", self._location())
            if before is not None:
                raise TrackingError(
                    f"The lake was moved: MLflow looks for artifacts in {before}, which is gone.",
                    hint="shoal track --moved",
                )
        return str(found.experiment_id)

    def _location(self) -> str | None:
        if self.artifacts is None:
            if not self.uri.startswith("sqlite"):
                return None
            folder = sqlite_file(self.uri).absolute().parent / "artifacts"
        elif "://" in self.artifacts:
            return artifact_uri(self.artifacts)
        else:
            folder = Path(self.artifacts).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder)

    def record(
        self, trained: TrainedFleet, context: RunContext, *, alias: str | None = "champion"
    ) -> ModelVersion:
        """Records one training as one run and one registered version.

        Args:
            trained: What training made.
            context: Code, environment and user.
            alias: Alias to move to the new version; None moves none.

        Raises:
            ModelError: The fleet artifact cannot be read.
            TrackingError: MLflow refused. The run is marked FAILED; no version was registered
                and the alias points where it did.
            Unavailable: The tracking server or its database did not answer.
        """
        from shoal.models.artifact import read_header

        name = trained.declaration.name
        with quietly(f"record the training of '{name}'"):
            number = Recording(
                client=self._client,
                uri=self.uri,
                experiment_id=self._experiment_id(),
                trained=trained,
                header=read_header(trained.artifact),
                context=context,
            ).record(alias)
        return self.resolve(f"{name}/{number}")

    def resolve(self, ref: str) -> ModelVersion:
        """Finds the version that a person names.

        Args:
            ref: ``delay``, ``delay@champion``, ``delay/3``, also after ``models:/``. A bare name
                means the alias ``champion``, or the newest version while no version has it.

        Raises:
            TrackingError: There is no such model, alias or version.
        """
        wanted = Reference.parse(ref)
        if wanted.version is not None:
            version = self.version(wanted.name, wanted.version)
            if version is not None:
                return version
            known = sorted(str(version.version) for version in self.versions(wanted.name))
            raise TrackingError(
                f"Model '{wanted.name}' has no version {wanted.version}; it has {listed(known)}."
            )
        (found,) = self.pointers(wanted.name)
        number = found.aliases.get(wanted.alias or "champion")
        if number is None and wanted.alias is None:
            number = found.newest
        version = None if number is None else self.version(wanted.name, number)
        if version is None:
            raise TrackingError(
                f"Model '{wanted.name}' has no alias '{wanted.alias or 'champion'}'; "
                f"it has {listed(sorted(found.aliases))}."
            )
        return version

    def version(self, name: str, number: int) -> ModelVersion | None:
        """One version by its number, without reading the others; None when there is none."""
        from mlflow.exceptions import MlflowException

        with quietly(f"read version {number} of '{name}'"):
            try:
                item = self._client.get_model_version(name, str(number))
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return None
        return model_version(item, item.aliases)

    def versions(self, name: str) -> list[ModelVersion]:
        """All versions of a model, newest first.

        Raises:
            TrackingError: No model has that name.
        """
        (pointers,) = self.pointers(name)
        aliases: dict[int, list[str]] = {}
        for alias, number in pointers.aliases.items():
            aliases.setdefault(number, []).append(alias)
        with quietly(f"read the versions of '{name}'"):
            found = all_pages(self._client.search_model_versions, named(name))
        versions = [model_version(item, aliases.get(int(item.version), ())) for item in found]
        return sorted(versions, key=lambda version: -version.version)

    def models(self) -> list[str]:
        """Names of the registered models, sorted."""
        with quietly("list the registered models"):
            return sorted(m.name for m in all_pages(self._client.search_registered_models, None))

    def pointers(self, name: str | None = None) -> list[Pointers]:
        """Where the aliases of one model, or of all models, point now: one call to the registry.

        Raises:
            TrackingError: No model has that name.
        """
        with quietly("read the aliases of " + (f"'{name}'" if name else "all models")):
            # A search: fetching a model by its name reads all of its versions first.
            text = None if name is None else named(name)
            found = all_pages(self._client.search_registered_models, text)
        if name is not None:
            found = [model for model in found if model.name == name]
            if not found:
                close = nearest(name, self.models())
                raise TrackingError(
                    f"There is no registered model '{name}'.",
                    hint=f"Did you mean '{close}'?" if close else "Train it first: shoal run",
                )
        return [pointers_of(model) for model in found]

    def set_alias(self, name: str, alias: str, version: int) -> ModelVersion:
        """Points an alias at a version: the whole act of promoting and of rolling back.

        MLflow has no compare-and-set for aliases: of two callers at once the last one wins.

        Raises:
            TrackingError: There is no such version, or the alias is not allowed.
        """
        self.point_alias(name, alias, version)
        return self.resolve(f"{name}/{version}")

    def point_alias(
        self, name: str, alias: str, version: int, *, tag: tuple[str, str] | None = None
    ) -> None:
        """Points an alias at a version, and then sets a tag of the registered model.

        Raises:
            TrackingError: There is no such version, or the alias is not allowed.
        """
        self.resolve(f"{name}/{version}")
        with quietly(f"set the alias '{alias}' of '{name}'"):
            move_alias(self._client, name, alias, version)
            if tag is not None:
                self._client.set_registered_model_tag(name, *tag)

    def set_tag(self, name: str, key: str, value: str | None) -> None:
        """Sets a tag of a registered model; None takes it away.

        Raises:
            TrackingError: There is no such model.
        """
        (pointers,) = self.pointers(name)
        with quietly(f"tag '{name}'"):
            if value is not None:
                self._client.set_registered_model_tag(name, key, value)
            elif key in pointers.tags:
                self._client.delete_registered_model_tag(name, key)

    def runs(self, limit: int = 100) -> list[TrackedRun]:
        """The experiment's runs, newest first.

        Args:
            limit: At most so many.
        """
        with quietly("list the runs"):
            experiment = self._client.get_experiment_by_name(self.experiment)
            if experiment is None:
                return []
            found: list[Any] = []
            token = None
            while len(found) < limit:
                page = self._client.search_runs(
                    [experiment.experiment_id],
                    max_results=min(limit - len(found), 1_000),
                    order_by=["attributes.start_time DESC"],
                    page_token=token,
                )
                found += page
                token = page.token
                if not token:
                    break
            return [tracked_run(run) for run in found]

    def run(self, run_id: str) -> TrackedRun:
        """One run by MLflow's id.

        Raises:
            TrackingError: There is no such run.
        """
        with quietly(f"read the run '{run_id}'"):
            return tracked_run(self._client.get_run(run_id))

    def script_run(
        self, name: str, context: RunContext
    ) -> AbstractContextManager[tuple[str, Keep]]:
        """A run that is MLflow's active one while open; see `script_run`."""
        with quietly(f"begin the run '{name}'"):
            experiment = self._experiment_id()
        return script_run(self._client, self.uri, experiment, name, context)

    def kept(self, run_id: str) -> Path | None:
        """The local folder of what a run kept of its code; None for a run of another tool.

        Raises:
            TrackingError: There is no such run.
        """
        from mlflow.exceptions import MlflowException

        from shoal.tracking.record import KEPT

        with quietly(f"read the run '{run_id}'"):
            self._client.get_run(run_id)
            if not self._client.list_artifacts(run_id, KEPT):
                return None
            where = self._downloads / f"kept-{run_id}"
            where.mkdir(exist_ok=True)
            try:
                return Path(self._client.download_artifacts(run_id, KEPT, str(where)))
            except MlflowException:
                return None

    def forget_version(self, version: ModelVersion, *, run: bool) -> None:
        """Deletes a registered version and its logged model; MLflow keeps the run in its bin.

        ``mlflow gc`` frees what their artifacts take.

        Args:
            version: The version.
            run: Also delete its run.
        """
        with quietly(f"delete {version.uri}"):
            item = self._client.get_model_version(version.name, str(version.version))
            self._client.delete_model_version(version.name, str(version.version))
            if item.model_id:
                self._client.delete_logged_model(item.model_id)
            if run and version.run_id:
                self._client.delete_run(version.run_id)

    def forget_run(self, run_id: str) -> None:
        """Deletes a run: MLflow keeps it in its bin until ``mlflow gc``."""
        with quietly(f"delete the run '{run_id}'"):
            self._client.delete_run(run_id)

    def receive(self, run_id: str, name: str, text: str, tags: Mapping[str, str]) -> None:
        """Adds a document and tags to a run that has ended.

        Args:
            run_id: The run.
            name: The document's path among the run's artifacts.
            text: Its content.
            tags: Tags of the run.
        """
        with quietly(f"write to the run '{run_id}'"):
            self._client.log_text(run_id, text, name)
            for key, value in tags.items():
                self._client.set_tag(run_id, key, value)

    def fleet(
        self,
        ref: str,
        *,
        trust_pickle: bool = False,
        known_code: Mapping[str, str] | None = None,
    ) -> Fleet:
        """Opens the fleet of a version, downloaded first when its artifacts are remote.

        Downloaded files live as long as this tracker.

        Args:
            ref: ``delay``, ``delay@champion``, ``delay/3``, ....
            trust_pickle: Unpickle members that were pickled.
            known_code: Digests of code that the caller runs anyway; see `Fleet.open`.

        Raises:
            ModelError: The artifact is no fleet.
            TrackingError: There is no such version, or its artifacts are gone.
        """
        from shoal.models import Fleet

        folder = self.fleet_folder(self.resolve(ref))
        return Fleet.open(folder, trust_pickle=trust_pickle, known_code=known_code)

    def fleet_folder(self, version: ModelVersion) -> Path:
        """The local folder of a version's fleet artifact; see `fleet`."""
        folder, info = self._model_folder(version)
        return folder / str(info.flavors["python_function"]["data"])

    def input_types(self, ref: str) -> dict[str, str]:
        """MLflow type names of a version's input columns, as stock MLflow enforces them.

        Args:
            ref: As for `resolve`.

        Returns:
            Column name to ``string``, ``long``, ``double``, ``boolean`` or ``datetime``, in the
            signature's order.
        """
        _, info = self._model_folder(self.resolve(ref))
        if info.signature is None:
            return {}
        return {item["name"]: item["type"] for item in info.signature.inputs.to_dict()}

    def card(self, ref: str) -> str:
        """The model card of a version, as Markdown; empty for one that has none."""
        folder, _ = self._model_folder(self.resolve(ref))
        card = folder / CARD
        return card.read_text(encoding="utf-8") if card.is_file() else ""

    def input_example(self, ref: str) -> pa.Table:
        """The rows that a version was recorded with, as an example of its input."""
        import pyarrow as pa

        folder, info = self._model_folder(self.resolve(ref))
        with quietly(f"read the input example of '{ref}'"):
            found = info.load_input_example(str(folder))
        return pa.Table.from_pandas(found, preserve_index=False)

    def model_folder(self, version: ModelVersion) -> Path:
        """The local folder of a version's MLflow model, whoever made it; downloaded if need be.

        Raises:
            TrackingError: The artifacts are gone.
        """
        with quietly(f"read the artifacts of '{version.name}' version {version.version}"):
            from mlflow.artifacts import download_artifacts

            key = version.name, version.version
            if key not in self._places:  # a version's place never changes
                self._places[key] = self._client.get_model_version_download_uri(
                    version.name, str(version.version)
                )
            where = self._places[key]
            folder = local_folder(where)
            if folder is None:
                folder = self._downloads / f"{version.name}-{version.version}"
                if not (folder / "MLmodel").is_file():
                    folder.mkdir(parents=True, exist_ok=True)
                    folder = Path(
                        download_artifacts(
                            artifact_uri=where, dst_path=str(folder), tracking_uri=self.uri
                        )
                    )
            if not (folder / "MLmodel").is_file():
                raise TrackingError(
                    f"The artifacts of '{version.name}' version {version.version} are gone: "
                    f"{folder} has no MLmodel file.",
                    hint="If the lake was moved: shoal track --moved. Else train it again, or "
                    "point the alias at another version.",
                )
            return folder

    def _model_folder(self, version: ModelVersion) -> tuple[Path, Any]:
        """The local folder of a version that Shoal made, and what its MLmodel file says."""
        folder = self.model_folder(version)
        with quietly(f"read the artifacts of '{version.name}' version {version.version}"):
            from mlflow.models import Model

            info = Model.load(str(folder))
        if info.flavors.get("python_function", {}).get("loader_module") != "shoal.models.pyfunc":
            raise TrackingError(
                f"'{version.name}' version {version.version} was not trained by Shoal.",
                hint=f"Load it with MLflow: mlflow.pyfunc.load_model('{version.uri}')",
            )
        return folder, info
