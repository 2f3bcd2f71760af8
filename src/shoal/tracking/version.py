"""Registered model versions and the ways to name one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from shoal.errors import TrackingError

__all__ = ["ModelVersion", "Pointers", "Reference"]

_FORMS = "delay, delay@champion, delay/3, models:/delay@champion or models:/delay/3"
_REFERENCE = re.compile(
    r"(?:models:/)?(?P<name>[^/:@]+)(?:@(?P<alias>[^/:@]+)|/(?P<version>[^/:@]+))?"
)


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """One registered version of a model.

    Args:
        name: Registered model.
        version: Number, from 1.
        run_id: MLflow run that made it.
        aliases: Aliases that point at it now, sorted.
        source: MLflow's source URI of the version's artifacts.
        tags: The version's tags.
        created: When it was registered, in seconds since 1970.
    """

    name: str
    version: int
    run_id: str
    aliases: tuple[str, ...] = ()
    source: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    created: float = 0.0

    @property
    def uri(self) -> str:
        """``models:/delay/3``, which stock MLflow loads."""
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True, kw_only=True)
class Pointers:
    """Where a model's aliases point now.

    Args:
        name: Registered model.
        aliases: Alias to version.
        newest: Its highest version; None while it has none.
        tags: The model's own tags.
        own: Whether Shoal made the newest version.
    """

    name: str
    aliases: Mapping[str, int]
    newest: int | None
    tags: Mapping[str, str] = field(default_factory=dict)
    own: bool = True


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A name of a model version, as a person writes it: at most one of alias and version."""

    name: str
    alias: str | None = None
    version: int | None = None

    def __str__(self) -> str:
        alias = "" if self.alias is None else f"@{self.alias}"
        return f"{self.name}{alias}" + ("" if self.version is None else f"/{self.version}")

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Reads ``delay``, ``delay@champion``, ``delay/3`` or the same after ``models:/``.

        Raises:
            TrackingError: It is none of these forms.
        """
        found = _REFERENCE.fullmatch(text.strip())
        if not found:
            raise TrackingError(f"'{text}' does not name a model version.", hint=f"Write {_FORMS}.")
        version = found["version"]
        if version is not None and not (version.isascii() and version.isdigit()):
            raise TrackingError(
                f"'{text}' asks for version '{version}'; versions are whole numbers.",
                hint=f"For an alias write {found['name']}@{version}.",
            )
        return cls(
            name=found["name"],
            alias=found["alias"],
            version=None if version is None else int(version),
        )
