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
    """The workspace of a command; one that tells of its work leaves a feed for `shoal ui`."""
    from shoal.workspace import Workspace

    with Workspace.open(folder, profile=profile, **more) as workspace:
        if "on_event" not in more:
            yield workspace
            return
        from shoal.workspace.live import live

        context = click.get_current_context()
        asked = context.params.get("models") or context.params.get("select") or ()
        names = [context.params["model"]] if context.params.get("model") else list(asked)
        with live(workspace, context.info_name or "", names):
            yield workspace
