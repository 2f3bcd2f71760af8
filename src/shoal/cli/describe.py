"""``shoal describe``: what a table's columns hold, and how that moved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shoal.cli import show
from shoal.cli.app import command
from shoal.cli.options import as_json, opened, project_options

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["describe"]


@command("shoal describe silver.flights --against 3 --html moved.html")
@click.argument("table")
@project_options
@click.option("--version", "at", help="Version, snapshot or time [default: the newest].")
@click.option("--against", help="Compare with this version, snapshot or time.")
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    help="With --against: write Evidently's page on both versions there.",
)
@as_json
def describe(
    table: str,
    *,
    folder: Path | None,
    profile: str | None,
    at: str | None,
    against: str | None,
    html: Path | None,
    as_json: bool,
) -> None:
    """Show what the columns of TABLE hold at a version, and how far they moved from another.

    Columns move far from a population stability index of 0.2 on, or when a tenth more or fewer
    values are missing, if that is not likely chance. To be told of it: shoal monitor TABLE.
    """
    from shoal.lake import pinned_version
    from shoal.workspace.profiles import clearly_moved, moved, sketched, write_report

    if html is not None and against is None:
        raise click.UsageError("--html compares two versions: give the other one by --against.")
    with opened(folder, profile) as space:
        found = space.lake.existing(table)
        version = found.version() if at is None else pinned_version(space.lake, found, at)
        now = sketched(found, version)
        told: dict[str, dict[str, Any]] = {}
        before: int | None = None
        if against is not None:
            before = pinned_version(space.lake, found, against)
            told = moved(sketched(found, before), now)
            if html is not None:
                write_report(found, before, version, html)
    if as_json:
        columns = [{**_plain(row), "moved": told.get(row["column"])} for row in now.to_pylist()]
        show.print_json(
            {"table": found.name, "version": version, "against": before, "columns": columns}
        )
        return
    out = show.console()
    far = {name for name, row in told.items() if clearly_moved(row)}
    out.print(_grid(found.name, version, before, now, told, far))
    if before is not None:
        which = ", ".join(sorted(far)) or "none"
        out.print(f"Moved far since version {before}: [bold]{show.escape(which)}[/]")
    if html is not None:
        out.print(f"[green]written[/]  {show.escape(str(html))}")


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    names = ("column", "kind", "rows", "missing", "mean", "std", "low", "high", "labels", "counts")
    return {name: row[name] for name in names}


def _grid(
    name: str,
    version: int,
    before: int | None,
    now: pa.Table,
    told: dict[str, dict[str, Any]],
    far: set[str],
) -> Any:
    right = ["missing", "low", "mean", "high", "std"]
    more = [] if before is None else ["psi", "p", ""]
    title = f"{name} version {version}" + ("" if before is None else f" against {before}")
    grid = show.grid(title, "column", *right, "most frequent", *more, right=[*right, "psi", "p"])
    for row in now.to_pylist():
        known = row["rows"] - row["missing"]
        labels = [
            f"{label} {count / known:.0%}"
            for label, count in list(zip(row["labels"] or [], row["counts"] or [], strict=True))[:3]
        ]
        change = told.get(row["column"])
        last = [] if before is None else ["", "", "new"]
        if change is not None:
            mark = "[yellow]moved[/]" if row["column"] in far else ""
            last = [show.figure(change["psi"]), show.figure(change["p"]), mark]
        grid.add_row(
            show.escape(row["column"]),
            f"{row['missing'] / row['rows']:.1%}" if row["rows"] else "",
            *(show.figure(row[side]) for side in ("low", "mean", "high", "std")),
            show.escape(", ".join(labels)),
            *last,
        )
    return grid
