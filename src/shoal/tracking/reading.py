"""The registry as a server reads it: without importing MLflow, where that gives the same answer.

MLflow takes seconds to import. What a server asks for (where aliases point, which folder holds a
version, what its ``MLmodel`` file says) are five small queries of a SQLite registry and one YAML
file. Only database schemas that this was tested with are read so; every other one, and every other
store, is asked through MLflow itself.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.errors import ModelError, TrackingError
from shoal.tracking.places import local_folder, sqlite_file
from shoal.tracking.version import Pointers, Reference

if TYPE_CHECKING:
    from shoal.tracking.tracker import Tracker

__all__ = ["Reading", "Recorded"]

# Schemas of MLflow's database whose registry tables are as below (its alembic revisions).
_REVISIONS = frozenset({"dc11669786a5"})  # 3.17
_OWN = "shoal.models.pyfunc"
# In the workspace of everyone who does not turn MLflow's workspaces on.
_QUERIES = {
    "models": "SELECT name FROM registered_models WHERE workspace = 'default' "
    "AND (:name IS NULL OR name = :name) ORDER BY name",
    "aliases": "SELECT name, alias, version FROM registered_model_aliases "
    "WHERE workspace = 'default' AND (:name IS NULL OR name = :name)",
    "tags": "SELECT name, key, value FROM registered_model_tags "
    "WHERE workspace = 'default' AND (:name IS NULL OR name = :name)",
    "newest": "SELECT name, max(version) FROM model_versions WHERE workspace = 'default' "
    "AND (:name IS NULL OR name = :name) AND current_stage <> 'Deleted_Internal' GROUP BY name",
    "own": "SELECT name, version FROM model_version_tags WHERE workspace = 'default' "
    "AND (:name IS NULL OR name = :name) AND key = 'shoal.fingerprint'",
}
_PLACE = (
    "SELECT storage_location, source FROM model_versions WHERE workspace = 'default' "
    "AND name = ? AND version = ? AND current_stage <> 'Deleted_Internal'"
)


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What a version's ``MLmodel`` file says.

    Attributes:
        folder: The version's local folder.
        flavors: MLflow's flavors by name.
        inputs: Input columns in order, each with its MLflow type name; a tensor of the signature
            is here by its name, or ``""``, with the type ``tensor``.
        outputs: The signature's outputs, as MLflow writes them.
        shape: Of the one input that is a tensor: its dtype and shape; None for columns.
    """

    folder: Path
    flavors: Mapping[str, Any]
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: tuple[Mapping[str, Any], ...] = ()
    shape: tuple[str, tuple[int, ...]] | None = None

    @property
    def fleet(self) -> Path | None:
        """The fleet artifact, where Shoal made the model."""
        function = self.flavors.get("python_function", {})
        return (
            self.folder / str(function["data"]) if function.get("loader_module") == _OWN else None
        )


class Reading:
    """Reads what is served.

    Args:
        tracker: The registry, and who is asked where it cannot be read directly.
    """

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._file = sqlite_file(tracker.uri) if tracker.uri.startswith("sqlite:") else None

    def pointers(self, name: str | None = None) -> list[Pointers]:
        """Where the aliases of one model, or of all, point now; see `Tracker.pointers`."""
        return self._direct(name) or self._tracker.pointers(name)

    def number(self, ref: Reference) -> int:
        """The version that a reference means now; see `Tracker.resolve`.

        Raises:
            TrackingError: There is no such model, alias or version.
        """
        for pointers in self._direct(ref.name):
            number = pointers.aliases.get(ref.alias or "champion")
            if ref.alias is None:
                number = ref.version or number or pointers.newest
            if number is not None and self._folder(ref.name, number) is not None:
                return number
        return self._tracker.resolve(str(ref)).version

    def version(self, name: str, number: int) -> Recorded:
        """One version, downloaded first when its artifacts are remote.

        Raises:
            ModelError: Its ``MLmodel`` file cannot be read.
            TrackingError: There is no such version, or its artifacts are gone.
        """
        folder = self._folder(name, number)
        if folder is None or not (folder / "MLmodel").is_file():
            folder = self._tracker.model_folder(self._tracker.resolve(f"{name}/{number}"))
        return read_recorded(folder)

    @contextlib.contextmanager
    def _database(self) -> Iterator[sqlite3.Connection | None]:
        """The registry's database, if it is one that is known."""
        if self._file is None or not self._file.is_file():
            yield None
            return
        uri = f"{self._file.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=20)) as database:
            revision = database.execute("SELECT version_num FROM alembic_version").fetchall()
            yield database if {row[0] for row in revision} <= _REVISIONS and revision else None

    def _direct(self, name: str | None) -> list[Pointers]:
        """Nothing where the database is no known one, or has no such model."""
        try:
            with self._database() as database:
                if database is None:
                    return []
                database.execute("BEGIN")  # what the queries find is of one moment
                found = {
                    key: database.execute(query, {"name": name}).fetchall()
                    for key, query in _QUERIES.items()
                }
        except sqlite3.Error:
            return []
        newest = dict(found["newest"])
        aliases: dict[str, dict[str, int]] = {}
        for model, alias, number in found["aliases"]:
            aliases.setdefault(model, {})[alias] = int(number)
        tags: dict[str, dict[str, str]] = {}
        for model, key, value in found["tags"]:
            tags.setdefault(model, {})[key] = value
        own = set(found["own"])
        return [
            Pointers(
                name=model,
                aliases=aliases.get(model, {}),
                newest=newest.get(model),
                tags=tags.get(model, {}),
                own=(model, newest.get(model)) in own,
            )
            for (model,) in found["models"]
        ]

    def _folder(self, name: str, number: int) -> Path | None:
        try:
            with self._database() as database:
                if database is None:
                    return None
                found = database.execute(_PLACE, (name, number)).fetchone()
        except sqlite3.Error:
            return None
        where = (found[0] or found[1]) if found else None
        return None if where is None or where.startswith("models:") else local_folder(where)


def read_recorded(folder: Path) -> Recorded:
    """Reads a folder's ``MLmodel`` file.

    Raises:
        ModelError: It is damaged.
        TrackingError: It is not there.
    """
    import yaml

    path = folder / "MLmodel"
    try:
        content = yaml.safe_load(path.read_bytes())
        signature = content.get("signature") or {}
        inputs = json.loads(signature.get("inputs") or "[]")
        outputs = json.loads(signature.get("outputs") or "[]")
        flavors = dict(content["flavors"])
        tensor = next((item for item in inputs if item["type"] == "tensor"), None)
        shape = None
        if tensor is not None and len(inputs) == 1:
            spec = tensor["tensor-spec"]
            shape = (str(spec["dtype"]), tuple(int(size) for size in spec["shape"]))
        named = {str(item.get("name", number)): item for number, item in enumerate(inputs)}
        types = {name: str(item["type"]) for name, item in named.items()}
    except FileNotFoundError:
        raise TrackingError(
            f"The artifacts are gone: {folder} has no MLmodel file.",
            hint="Train it again, or point the alias at another version.",
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    return Recorded(
        folder=folder, flavors=flavors, inputs=types, outputs=tuple(outputs), shape=shape
    )
