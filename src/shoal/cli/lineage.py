"""Lineage as a tree."""

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

    from shoal.workspace.lineage import Branch

__all__ = ["lineage"]


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
