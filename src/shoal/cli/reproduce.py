"""``shoal reproduce``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shoal.cli import show
from shoal.cli.app import command
from shoal.cli.options import as_json, opened, project_options

if TYPE_CHECKING:
    from shoal.workspace.reproduce import Reproduction

__all__ = ["reproduce"]


@command("shoal reproduce delay@champion")
@click.argument("ref")
@project_options
@click.option("--segment", "segments", multiple=True, help="Compare this one alone, like UA,IAH.")
@click.option(
    "--tolerance", default=1e-9, show_default=True, help="Largest relative difference of equals."
)
@click.option(
    "--env",
    "environment",
    type=click.Choice(["auto", "current", "rebuild"]),
    default="auto",
    show_default=True,
    help="Packages: rebuilt with uv where they differ, those here, or always rebuilt.",
)
@as_json
def reproduce(
    ref: str,
    *,
    folder: Path | None,
    profile: str | None,
    segments: tuple[str, ...],
    tolerance: float,
    environment: str,
    as_json: bool,
) -> None:
    """Train REF again from its pinned data, code and environment, and prove it is the same.

    REF is a version (delay/7, delay@champion) or a run's id. Nothing is registered and no table
    changes; the receipt is kept with the run. Exit code 1 when a member is different.
    """
    from shoal.workspace.reproduce import reproduce as again

    with opened(folder, profile) as space:
        found = again(space, ref, segments=segments, tolerance=tolerance, environment=environment)
    if as_json:
        show.print_json(asdict(found))
    else:
        _show(found)
    sys.exit(0 if found.proven else 1)


def _show(found: Reproduction) -> None:
    out = show.console()
    total = sum(found.verdicts.values())
    out.print(f"[bold]{found.model}[/] trained again on {found.table} in {found.seconds:.1f} s")
    out.print(f"code         {found.code}")
    out.print(f"environment  {found.environment}")
    words = {
        "identical": "bit-identical",
        "equal": "equal within the tolerance",
        "different": "different",
        "gone": "not to be trained: their data is gone",
    }
    for verdict, text in words.items():
        if count := found.verdicts.get(verdict):
            out.print(f"{count:,} of {total:,} members {text}")
    if found.difference is not None:
        out.print(f"largest relative difference of predictions: {found.difference:.2g}")
    for cause in found.causes[:10]:
        out.print(f"[yellow]cause[/]  {cause}")
    if found.different:
        out.print(f"among them: {', '.join(found.different[:5])}")
