"""A project: its folder, settings, storage and source files."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlparse

from shoal.errors import ProjectError
from shoal.project.monitor import MonitorSettings
from shoal.project.settings import Profile, read_settings
from shoal.project.spec import SPEC_NAMES, PipelineSpec, read_spec
from shoal.store import is_url, storage_url

__all__ = ["Project", "SourceFile", "find_project"]


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One source file of a project.

    Args:
        path: Absolute path.
        shown: Path relative to the project, for messages.
    """

    path: Path
    shown: str


@dataclass(frozen=True, kw_only=True)
class Project:
    """A project that was found and read.

    Args:
        root: The folder of the specification.
        spec: The specification.
        profile: Where this run happens.
        monitor: What is watched, and who is told.
    """

    root: Path
    spec: PipelineSpec
    profile: Profile
    monitor: MonitorSettings = field(default_factory=MonitorSettings)

    @property
    def name(self) -> str:
        """The pipeline's name."""
        return self.spec.name

    @property
    def storage(self) -> Path | str:
        """Root of the lake: an absolute folder, or the URL of an object store.

        Raises:
            ProjectError: The URL's scheme is unknown, or readers would not agree on the path.
        """
        written = self.profile.storage or self.spec.storage
        parsed = urlparse(written)
        if "://" in written and parsed.scheme != "file":
            return storage_url(written)
        path = Path(unquote(parsed.path)) if parsed.scheme == "file" else self.root / written
        if odd := re.search(r"[^A-Za-z0-9_./:+&=,@~-]", str(path.absolute())):
            raise ProjectError(
                f"The storage '{path.absolute()}' has a '{odd.group()}' in its path, with which "
                "Delta readers cannot find the tables' files.",
                hint=f"Set 'storage' in shoal.toml or {self.spec.file.name} to a folder whose "
                "path has only plain letters, digits, '.', '_' and '-'.",
            )
        return path.absolute()

    @property
    def here(self) -> Path:
        """The folder for what must be on a disk: the storage, or ``.shoal`` if that is a URL."""
        storage = self.storage
        return storage if isinstance(storage, Path) else self.root / ".shoal"

    @property
    def database(self) -> Path:
        """MLflow's SQLite file, where no tracking server is set."""
        return self.here / "mlflow.db"

    @property
    def tracking(self) -> str:
        """MLflow tracking URI.

        Raises:
            ProjectError: The profile's is in an object store, where no database can be.
        """
        written = self.profile.tracking
        if written and is_url(written.partition(":///")[2] or written):
            raise ProjectError(
                f"The tracking database '{written}' is in an object store, where no database can "
                "be.",
                hint="Set 'tracking' to a server (http://host:5000), to postgresql://..., or leave "
                f"it out: it is then {self.database}. Artifacts may be there: 'artifacts'.",
            )
        return written or f"sqlite:///{self.database}"

    @property
    def artifacts(self) -> str | None:
        """MLflow artifact root; None lets a tracking server decide."""
        if self.profile.artifacts or self.profile.tracking:
            return self.profile.artifacts
        storage = self.storage
        return str(storage / "artifacts") if isinstance(storage, Path) else f"{storage}/_artifacts"

    def transformations(self) -> list[SourceFile]:
        """The pipeline's source files, in a stable order.

        Raises:
            ProjectError: A file is neither Python, SQL nor R, or a pattern matches nothing.
        """
        found: dict[Path, SourceFile] = {}
        for pattern in self.spec.libraries:
            matches = self._matching(f"{pattern}/*" if pattern.endswith("/**") else pattern)
            if not matches:
                raise ProjectError(
                    f"{self.spec.file.name}: '{pattern}' matches no file in {self.root}.",
                    hint="Create it, or mend 'libraries'.",
                )
            for file in matches:
                if file.path.suffix not in {".py", ".sql", ".R"}:
                    raise ProjectError(
                        f"{file.shown} is neither .py, .sql nor .R.",
                        hint="Move it out of the libraries' folders.",
                    )
                found[file.path] = file
        models = {file.path for file in self.models()}
        return [file for path, file in found.items() if path not in models]

    def models(self) -> list[SourceFile]:
        """The Python files below ``models``, in a stable order."""
        return self._matching("models/**/*.py")

    def _matching(self, pattern: str) -> list[SourceFile]:
        paths = [
            path
            for path in sorted(self.root.glob(pattern))
            if path.is_file()
            and "__pycache__" not in path.parts
            and not path.name.startswith((".", "__"))
        ]
        return [SourceFile(path=p, shown=os.path.relpath(p, self.root)) for p in paths]


def find_project(start: Path | None = None, *, profile: str | None = None) -> Project:
    """Finds the project of a folder, searching upward, and reads its settings.

    Args:
        start: A folder, or the specification file itself; the current folder by default.
        profile: Name of the profile to use instead of the default one.

    Raises:
        ProjectError: There is none, a folder has two specifications, or a setting is wrong.
    """
    folder = (start or Path.cwd()).absolute()
    if folder.is_file():
        return _project(folder, profile)
    for candidate in (folder, *folder.parents):
        files = [candidate / name for name in SPEC_NAMES if (candidate / name).is_file()]
        if len(files) > 1:
            raise ProjectError(
                f"{candidate} has both {files[0].name} and {files[1].name}.", hint="Keep one."
            )
        if files:
            return _project(files[0], profile)
    raise ProjectError(
        f"There is no {SPEC_NAMES[0]} in {folder} or above.",
        hint="Make a project: shoal init my_project",
    )


def _project(file: Path, profile: str | None) -> Project:
    spec = read_spec(file)
    settings = read_settings(file.parent)
    return Project(
        root=file.parent, spec=spec, profile=settings.profile(profile), monitor=settings.monitor
    )
