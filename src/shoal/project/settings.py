"""``shoal.toml``: where a project runs. Optional; the defaults need no server.

.. code-block:: toml

    default_profile = "laptop"

    [profiles.laptop]
    engine = "embedded"                    # or "spark", "sail-cluster", "sc://host:15002"
    storage = "lake"                       # instead of the specification's storage; or s3://...,
                                           # abfss://container@account.dfs.core.windows.net/path
    tracking = "http://localhost:5000"     # instead of <storage>/mlflow.db
    artifacts = "/data/artifacts"          # instead of <storage>/artifacts
    workers = 4                            # training processes; default: the number of cores

``[monitor]`` and ``[alerts]`` are in `shoal.project.monitor`.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from shoal.errors import ProjectError, nearest
from shoal.project.keys import known_keys, table, text
from shoal.project.monitor import MonitorSettings, read_monitor

__all__ = ["Profile", "Settings", "read_settings"]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Where one run happens.

    Args:
        name: The profile's name.
        engine: ``embedded``; ``spark`` or ``sail-cluster``, which are started on this machine; or a
            Spark Connect URL.
        storage: Root of the lake, a folder or the URL of an object store; None means the
            specification's.
        tracking: MLflow tracking URI; None means SQLite in the storage, or in ``.shoal`` of the
            project when the storage is an object store.
        artifacts: MLflow artifact root; None means a folder in the storage.
        workers: Training processes; None means the number of cores.
        training: ``local`` fits segments in processes of this machine, ``engine`` in the engine's
            workers; None means ``local`` with the embedded engine, and ``engine`` otherwise.
    """

    name: str = "default"
    engine: str = "embedded"
    storage: str | None = None
    tracking: str | None = None
    artifacts: str | None = None
    workers: int | None = None
    training: str | None = None

    @property
    def on_engine(self) -> bool:
        """Whether the engine's workers fit the segments."""
        return (self.training or ("local" if self.engine == "embedded" else "engine")) == "engine"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All profiles of a project.

    Args:
        file: The file, which may not exist.
        default_profile: Name of the profile used when none is named.
        profiles: The profiles by name.
        monitor: What is watched, and who is told.
    """

    file: Path
    default_profile: str = "default"
    profiles: dict[str, Profile] = field(default_factory=lambda: {"default": Profile()})
    monitor: MonitorSettings = field(default_factory=MonitorSettings)

    def profile(self, name: str | None = None) -> Profile:
        """A profile by name, or the default one.

        Raises:
            ProjectError: There is no such profile; the message has the nearest.
        """
        wanted = name or self.default_profile
        if wanted in self.profiles:
            return self.profiles[wanted]
        close = nearest(wanted, self.profiles)
        raise ProjectError(
            f"{self.file.name} has no profile '{wanted}'; it has "
            f"{', '.join(sorted(self.profiles))}.",
            hint=f"Did you mean '{close}'?" if close else f"Add [profiles.{wanted}].",
        )


def read_settings(folder: Path) -> Settings:
    """Reads ``shoal.toml`` of a folder; without one, the defaults.

    Raises:
        ProjectError: It is no valid TOML, a key is unknown, or a value has the wrong type.
    """
    file = folder / "shoal.toml"
    if not file.is_file():
        return Settings(file=file)
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProjectError(
            f"{file.name} is no valid TOML: {error}", hint=f"Mend {file}."
        ) from error
    known_keys(found, ("default_profile", "profiles", "monitor", "alerts"), file, "")
    profiles = {}
    for name, values in table(found, "profiles", file).items():
        if not isinstance(values, dict):
            raise ProjectError(
                f"{file.name}: profile '{name}' must be a table; found {values!r}.",
                hint=f"Write [profiles.{name}]",
            )
        allowed = ("engine", "storage", "tracking", "artifacts", "workers", "training")
        known_keys(values, allowed, file, f" in profiles.{name}")
        workers = values.get("workers")
        if workers is not None and (type(workers) is not int or workers < 1):
            raise ProjectError(
                f"{file.name}: 'workers' must be a whole number of at least 1; found {workers!r}.",
                hint=f"Mend profiles.{name} in {file}.",
            )
        training = text(values, "training", file)
        if training not in (None, "local", "engine"):
            raise ProjectError(
                f"{file.name}: 'training' must be local or engine; found {training!r}.",
                hint=f"Mend profiles.{name} in {file}.",
            )
        profiles[name] = Profile(
            name=name,
            engine=text(values, "engine", file) or "embedded",
            storage=text(values, "storage", file),
            tracking=text(values, "tracking", file),
            artifacts=text(values, "artifacts", file),
            workers=workers,
            training=training,
        )
    profiles.setdefault("default", Profile())
    default = text(found, "default_profile", file) or "default"
    settings = Settings(
        file=file,
        default_profile=default,
        profiles=profiles,
        monitor=read_monitor(found, file),
    )
    settings.profile()
    return settings
