"""Which models a server answers for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shoal.errors import TrackingError, nearest

if TYPE_CHECKING:
    from shoal.models import Fleet
    from shoal.tracking import Tracker

__all__ = ["ServedModel", "ServedModels"]


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """One version of a model, opened.

    Args:
        name: Registered model.
        version: Version number.
        fleet: Its fleet.
        inputs: Input columns in order, each with its MLflow type name.
    """

    name: str
    version: int
    fleet: Fleet
    inputs: Mapping[str, str]


class ServedModels:
    """The models of one server, by name.

    Args:
        models: At most one version of each name.

    Raises:
        TrackingError: There is no model, or two versions of one name.
    """

    def __init__(self, models: Iterable[ServedModel]) -> None:
        self._models: dict[str, ServedModel] = {}
        for model in models:
            if model.name in self._models:
                raise TrackingError(
                    f"Two versions of '{model.name}' are to be served: "
                    f"{self._models[model.name].version} and {model.version}.",
                    hint="Serve each from its own port.",
                )
            self._models[model.name] = model
        if not self._models:
            raise TrackingError("There is no model to serve.", hint="Train one first: shoal run")

    @classmethod
    def load(cls, tracker: Tracker, refs: Iterable[str] | None = None) -> ServedModels:
        """Opens versions from the registry.

        Args:
            tracker: Where the models are registered.
            refs: ``delay``, ``delay@champion``, ``delay/3``, ...; None means all models that Shoal
                registered: a registry may hold others' models, too.

        Raises:
            TrackingError: A model, alias or version does not exist.
        """
        opened = []
        for ref in _servable(tracker) if refs is None else refs:
            version = tracker.resolve(ref)
            pinned = f"{version.name}/{version.version}"
            opened.append(
                ServedModel(
                    name=version.name,
                    version=version.version,
                    fleet=tracker.fleet(pinned),
                    inputs=tracker.input_types(pinned),
                )
            )
        return cls(opened)

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    def __len__(self) -> int:
        return len(self._models)

    def get(self, name: str) -> ServedModel | None:
        """The model of that name, or None."""
        return self._models.get(name)

    def nearest(self, name: str) -> str | None:
        """The served name most like ``name``."""
        return nearest(name, self._models)


def _servable(tracker: Tracker) -> list[str]:
    """Names that `Tracker.resolve` finds a version for that Shoal made."""
    found = []
    for name in tracker.models():
        # A training that failed at the last step leaves a name without versions.
        versions = tracker.versions(name)
        if versions and "shoal.fingerprint" in tracker.resolve(name).tags:
            found.append(name)
    return found
