"""Options that several commands share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from shoal.workspace import Workspace

__all__ = ["as_json", "opened", "project_options"]

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


def project_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``--project`` and ``--profile``."""
    folder = click.option(
        "--project",
        "folder",
        type=click.Path(exists=True, path_type=Path),
        default=None,
        help="Project folder [default: found upward from here].",
    )
    profile = click.option("--profile", default=None, help="Profile of shoal.toml to use.")
    return folder(profile(function))


@contextlib.contextmanager
def opened(folder: Path | None, profile: str | None, **more: Any) -> Iterator[Workspace]:
    """The workspace of a command."""
    from shoal.workspace import Workspace

    with Workspace.open(folder, profile=profile, **more) as workspace:
        yield workspace
