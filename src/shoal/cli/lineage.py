"""Lineage as a tree, and what came from a bad file or version."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shoal.cli import show
from shoal.cli.app import command
from shoal.cli.options import as_json, opened, project_options

if TYPE_CHECKING:
    from rich.tree import Tree

    from shoal.workspace.impact import Impact
    from shoal.workspace.lineage import Branch

__all__ = ["impact", "lineage"]


@command("shoal lineage gold.route_days.mean_delay")
@click.argument("name", metavar="TABLE[.COLUMN]")
@project_options
@as_json
@click.option("--downstream", is_flag=True, help="What comes from it, instead of what it is from.")
@click.option("--depth", type=click.IntRange(1), default=None, help="At most so many steps.")
def lineage(
    name: str,
    folder: Path | None,
    profile: str | None,
    as_json: bool,
    downstream: bool,
    depth: int | None,
) -> None:
    """Show where a table or a column comes from.

    Values come from the columns without a mark. "rows" marks columns that only decide which rows
    there are, or how they are put together; "?" what goes through a function that cannot be looked
    into.
    """
    with opened(folder, profile) as space:
        find = space.lineage.downstream if downstream else space.lineage.upstream
        tree = find(name, depth=depth)
    if as_json:
        show.print_json(asdict(tree))
    else:
        show.console().print(_drawn(tree))


def _drawn(branch: Branch) -> Tree:
    from rich.markup import escape
    from rich.tree import Tree

    marks = {"direct": "", "indirect": " [dim]rows[/]", "opaque": " [yellow]?[/]"}
    column = f".[bold]{escape(branch.column)}[/]" if branch.column else ""
    again = " [dim](see above)[/]" if branch.again and branch.below == () else ""
    tree = Tree(f"{escape(branch.source)}{column}{marks[branch.kind]}{again}", guide_style="dim")
    for below in branch.below:
        tree.children.append(_drawn(below))
    return tree


@command("shoal impact landing/flights/2013-12-24.jsonl")
@click.argument("source", metavar="FILE|TABLE@VERSION")
@project_options
@as_json
def impact(source: str, folder: Path | None, profile: str | None, as_json: bool) -> None:
    """Show what came from a bad input file or table version.

    Tables with rows of it, registered models and segments that learned from those, and their
    predictions. A file may be a path, the end of one or a pattern. Rows that were committed
    together with the file's count as its own: nothing is left out.
    """
    from shoal.workspace.impact import find_impact

    with opened(folder, profile) as space:
        found = find_impact(space, source)
    if as_json:
        show.print_json(asdict(found))
    else:
        _show_impact(found)


def _show_impact(found: Impact) -> None:
    out = show.console()
    grid = show.grid(f"Came from {found.source}", "what", "versions", "of it", right=["of it"])
    for table in found.tables:
        numbers = ", ".join(map(str, table.versions))
        rows = "all rows" if table.rows is None else f"{table.rows:,} rows"
        grid.add_row(show.escape(table.table), numbers, rows)
    for model in found.models:
        names = ", ".join([str(model.version), *(f"@{alias}" for alias in model.aliases)])
        part = "the model"
        if model.segments is not None:
            part = f"{len(model.segments):,} of {model.members:,} segments"
        grid.add_row(f"models:/{show.escape(model.model)}", names, part)
    for made in found.predictions:
        grid.add_row(show.escape(made.table), "", f"{made.rows:,} predictions of {made.model}")
    out.print(grid)
    if not found.models:
        out.print("No registered model learned from it.")
