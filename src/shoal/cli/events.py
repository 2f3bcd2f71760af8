"""``shoal events`` and ``shoal quality``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from shoal.cli import show
from shoal.cli.app import command
from shoal.cli.options import as_json, opened, project_options

__all__ = ["events", "quality"]

_LEVELS = {"INFO": "dim", "WARN": "yellow", "ERROR": "bold red"}


@command("shoal events silver.flights --level warn")
@click.argument("table", required=False)
@click.option("--run", help="Only this run: the beginning of its id, or last.")
@click.option(
    "--level",
    type=click.Choice(list(_LEVELS), case_sensitive=False),
    default="INFO",
    show_default=True,
    help="Only these and graver ones.",
)
@click.option("--limit", default=50, show_default=True, help="At most so many, the newest.")
@project_options
@as_json
def events(
    table: str | None,
    run: str | None,
    level: str,
    limit: int,
    folder: Path | None,
    profile: str | None,
    *,
    as_json: bool,
) -> None:
    """Show what happened in the runs (of TABLE), the newest last."""
    from rich.markup import escape

    with opened(folder, profile) as space:
        found = space.events(table, run=run, level=level.upper(), limit=limit)
    if as_json:
        show.print_json(found)
        return
    out = show.console()
    for row in found:
        first, *rest = row["message"].splitlines() or [""]
        out.print(
            f"[dim]{row['at']:%Y-%m-%d %H:%M:%S}  {row['run_id'][:8]}[/]  "
            f"[{_LEVELS[row['level']]}]{row['level']:5}[/]  {row['event_type']:13}  "
            + (f"[bold]{row['dataset']}[/]  " if row["dataset"] else "")
            + escape(first),
            soft_wrap=True,
        )
        for line in rest:
            out.print(f"    {line}", markup=False, soft_wrap=True)


@command("shoal quality silver.flights")
@click.argument("table", required=False)
@click.option("--last", default=8, show_default=True, help="Show the rates of so many runs.")
@project_options
@as_json
def quality(
    table: str | None, last: int, folder: Path | None, profile: str | None, *, as_json: bool
) -> None:
    """Show how many rows met the expectations (of TABLE), over all runs and run by run."""
    with opened(folder, profile) as space:
        found = space.quality(table, last=last)
    if as_json:
        show.print_json([{**asdict(one), "rate": one.rate} for one in found])
        return
    right = ["runs", "passed", "failed", "rate"]
    grid = show.grid(None, "table", "expectation", "action", *right, "last runs", right=right)
    for one in found:
        grid.add_row(
            one.table,
            one.expectation,
            one.action,
            f"{one.runs:,}",
            f"{one.passed:,}",
            f"{one.failed:,}",
            f"{_percent(one.rate)} %",
            " ".join(map(_percent, one.rates)),
        )
    show.console().print(grid)


def _percent(rate: float | None) -> str:
    """A share, short; never 100% while a row failed."""
    if rate is None:
        return "-"
    text = f"{100 * rate:.1f}"
    return "100" if rate == 1 else "99.9+" if text == "100.0" else text
