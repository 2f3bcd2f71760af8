"""``shoal export databricks``."""

from __future__ import annotations

from pathlib import Path

import click

from shoal.cli import show
from shoal.cli.options import opened

__all__ = ["databricks_bundle"]


def databricks_bundle(
    folder: Path | None, profile: str | None, out: Path, *, as_json: bool
) -> None:
    """Writes the project as a bundle, and says what is in it.

    Args:
        folder: The project's folder.
        profile: Its profile.
        out: Where to.
        as_json: Say it as JSON.
    """
    from shoal.deploy import export_databricks

    with opened(folder, profile) as space:
        bundle = export_databricks(space.project, space.declared(()), out)
    resources = {kind: sorted(found) for kind, found in bundle["resources"].items()}
    if as_json:
        show.print_json({"target": "databricks", "folder": str(out), "resources": resources})
        return
    for kind, names in resources.items():
        click.echo(f"{kind}: {', '.join(names)}")
    click.echo(f"\ncd {out} && databricks bundle validate")
