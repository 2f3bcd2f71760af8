"""``shoal snapshot``: named versions of tables."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from shoal.cli import show
from shoal.cli.app import command
from shoal.cli.options import as_json, opened, project_options

__all__ = ["snapshot"]


@command("shoal snapshot create spring gold.delay_features@v12")
@click.argument("action", type=click.Choice(["create", "list", "drop"]))
@click.argument("name", required=False)
@click.argument("table", required=False, metavar="[TABLE[@VERSION]]")
@project_options
@click.option("--comment", default="", help="What it is for.")
@as_json
def snapshot(
    action: str,
    name: str | None,
    table: str | None,
    *,
    folder: Path | None,
    profile: str | None,
    comment: str,
    as_json: bool,
) -> None:
    """Give a table's version a name that training sets are pinned by.

    create NAME TABLE takes the newest version, TABLE@v12 or TABLE@2026-01-01 another one. A model
    learns from it with @shoal.model(table="gold.features@NAME"), and shoal vacuum keeps its files
    until drop NAME.
    """
    from shoal.lake import Snapshots
    from shoal.tracking import user_name

    wanted = {"create": 2, "list": 0, "drop": 1}[action]
    if sum(given is not None for given in (name, table)) != wanted:
        usage = {"create": "create NAME TABLE[@VERSION]", "list": "list", "drop": "drop NAME"}
        raise click.UsageError(f"Write: shoal snapshot {usage[action]}")
    with opened(folder, profile) as space:
        kept = Snapshots(space.lake)
        if action == "create":
            found = [kept.create(name or "", table or "", comment=comment, user=user_name())]
        elif action == "drop":
            found = [kept.drop(name or "")]
        else:
            found = kept.all()
    if as_json:
        show.print_json([asdict(each) for each in found])
        return
    out = show.console()
    if not found:
        out.print("No snapshots.")
        return
    if action == "drop":
        out.print(f"[green]dropped[/]  {found[0].name}; shoal vacuum may remove its files now")
        return
    grid = show.grid("Snapshots", "name", "table", "version", "rows", "made", "by", "comment")
    for each in found:
        cells = [each.name, each.table, f"v{each.version}", f"{each.rows:,}"]
        cells += [f"{each.at:%Y-%m-%d %H:%M}", each.user, each.comment]
        grid.add_row(*map(show.escape, cells))
    out.print(grid)
