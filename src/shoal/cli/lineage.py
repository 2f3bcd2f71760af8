"""Lineage of tables, columns and models as a tree, and what came from a bad file or version."""

from __future__ import annotations

import re
from collections.abc import Iterable
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
    from shoal.workspace.origins import MemberOrigin, Origin, Upstream

__all__ = ["impact", "lineage"]

_MODEL = re.compile(r"models:/.+|\w+[/@]\w+")

# Files of one step that the tree shows; --json has all.
_SHOWN = 4


@command("shoal lineage gold.route_days.mean_delay")
@click.argument("name", metavar="TABLE[.COLUMN]|MODEL/VERSION")
@project_options
@as_json
@click.option("--segment", "segments", multiple=True, help="Of a model: this member, like UA,IAH.")
@click.option("--downstream", is_flag=True, help="What comes from it, instead of what it is from.")
@click.option("--depth", type=click.IntRange(1), default=None, help="At most so many steps.")
def lineage(
    name: str,
    folder: Path | None,
    profile: str | None,
    *,
    as_json: bool,
    segments: tuple[str, ...],
    downstream: bool,
    depth: int | None,
) -> None:
    """Show where a table, a column or a model's version comes from.

    Of a version (models:/delay/7, delay@champion): the table version that it learned from and what
    that was made of, code, parameters, environment, and the predictions that it made; of a member,
    with --segment, also the files and row groups that hold its rows.

    Values come from the columns without a mark. "rows" marks columns that only decide which rows
    there are, or how they are put together; "?" what goes through a function that cannot be looked
    into.
    """
    if segments or _MODEL.fullmatch(name):
        with opened(folder, profile) as space:
            from shoal.workspace.origins import find_origin

            origin = find_origin(space, name, segments=segments)
        if as_json:
            show.print_json(asdict(origin))
        else:
            show.console().print(_origin(origin))
        return
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


def _origin(origin: Origin) -> Tree:
    from rich.markup import escape
    from rich.tree import Tree

    names = "".join(f" @{alias}" for alias in origin.aliases)
    tree = Tree(f"[bold]{escape(origin.model)}[/]{names}", guide_style="dim")
    for member in origin.asked:
        _member(tree, member)
    learned = tree.add(f"learned from {escape(origin.upstream.table)}")
    _upstream(learned, origin.upstream)
    fitted = ", ".join(f"{count:,} on {table}" for table, count in origin.trained_on.items())
    tree.add(f"members {escape(origin.members)}: {origin.segments:,} segments, fitted {fitted}")
    if origin.parts:
        tree.add(f"composed of {', '.join(origin.parts)}")
    code, there = origin.code, origin.environment
    changed = " with uncommitted changes" if code["changed"] else ""
    commit = f"commit {code['commit'][:12]}{changed}" if code["commit"] else "kept with the run"
    tree.add(f"code {escape(code['declared'])}, {commit}")
    tree.add(
        f"environment Python {there.get('python', '?')}, {len(there.get('packages', {})):,} "
        f"packages, {escape(there.get('processor', ''))}"
    )
    shown = {k: v for k, v in origin.params.items() if k.startswith("params.") or k == "seed"}
    tree.add(f"parameters {escape(', '.join(f'{k}={v}' for k, v in shown.items()))}")
    tree.add(f"run {origin.run_id}")
    made = tree.add("since then")
    for composite in origin.composites:
        made.add(f"members of it are in {escape(composite)}")
    for found in origin.predictions:
        made.add(f"{found.rows:,} predictions in {escape(found.table)}")
    if not (origin.composites or origin.predictions):
        made.add("no predictions")
    return tree


def _member(tree: Tree, member: MemberOrigin) -> None:
    from rich.markup import escape

    branch = tree.add(f"segment [bold]{escape(member.segment)}[/] {member.status}")
    if member.model_used != member.segment:
        branch.add(f"predicted by {escape(member.model_used)}: {escape(member.reason)}")
    by = member.trained_by
    branch.add(
        f"fitted by {by['model'] or 'fleet version ' + by['fleet_version']}, run {by['run'] or '?'}"
    )
    branch.add(f"parameters {escape(', '.join(f'{k}={v}' for k, v in member.params.items()))}")
    rows = branch.add(f"{member.rows:,} rows of {escape(member.table)}")
    if member.rows_dropped:
        rows.add(f"{member.rows_dropped:,} of them could not be used")
    if member.files is None:
        rows.add("[yellow]its files are gone[/]")
    for part in member.files or ():
        groups = ", ".join(
            f"{number} ({count:,} rows)" for number, count in part.row_groups.items()
        )
        rows.add(f"{escape(part.path)}: row group {groups}")


def _upstream(tree: Tree, step: Upstream) -> None:
    from rich.markup import escape

    for below in step.below:
        _upstream(tree.add(escape(below.table)), below)
    for line in _first(step.files):
        tree.add(escape(line))


def _first(files: Iterable[str]) -> list[str]:
    names = list(files)
    more = len(names) - _SHOWN
    return names if more <= 0 else [*names[:_SHOWN], f"and {more:,} more files"]


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
