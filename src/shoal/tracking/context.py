"""Who trained, with which code, in which environment."""

from __future__ import annotations

import getpass
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shoal.tracking.code import code_files, git, packages

__all__ = ["RunContext", "run_context", "user_name"]

_LOCK_FILES = (
    "uv.lock",
    "poetry.lock",
    "pdm.lock",
    "pylock.toml",
    "conda-lock.yml",
    "requirements.lock",
    "requirements.txt",
)


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """What a run must know to be made again, besides its data.

    Args:
        project: Name of the project.
        code_commit: Git commit of the project's code; None outside a repository.
        code_dirty: Whether the code differed from that commit.
        environment_hash: SHA-256 of the lock file beside the project, else of the installed
            packages' ``name==version`` lines.
        user: Who started the run.
        files: What is kept of code and environment, by file name; see `code_files`.
    """

    project: str
    code_commit: str | None
    code_dirty: bool
    environment_hash: str | None
    user: str
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)


def run_context(folder: str | Path, *, project: str) -> RunContext:
    """Reads the context of the project in ``folder``.

    Args:
        folder: The project's folder. The lock file is looked for in it, then in the folders above
            it up to the root of the Git repository.
        project: Name of the project.
    """
    folder = Path(folder).absolute()
    root = _git(folder, "rev-parse", "--show-toplevel")
    files = code_files(folder)
    return RunContext(
        project=project,
        code_commit=_git(folder, "rev-parse", "--verify", "HEAD"),
        code_dirty=bool(_git(folder, "status", "--porcelain", "--", ".")),
        environment_hash=_environment_hash(folder, Path(root) if root else folder),
        user=user_name(),
        files=files,
    )


def _git(folder: Path, *arguments: str) -> str | None:
    """Output of a Git command as text; None when there is none."""
    said = git(folder, *arguments)
    return (said.decode(errors="replace").strip() or None) if said else None


def _environment_hash(folder: Path, root: Path) -> str:
    for place in (folder, *folder.parents):
        for name in _LOCK_FILES:
            if (place / name).is_file():
                return hashlib.sha256((place / name).read_bytes()).hexdigest()
        if place == root or root not in place.parents:
            break
    installed = {f"{name}=={version}".lower() for name, version in packages().items()}
    return hashlib.sha256("\n".join(sorted(installed)).encode()).hexdigest()


def user_name() -> str:
    """Who runs this process; ``unknown`` for a user id without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
