"""``shoal tables``, ``shoal history`` and ``shoal sql``."""

from __future__ import annotations

import datetime as dt
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shoal.cli import show
from shoal.cli.app import command
from shoal.cli.lifecycle import moves
from shoal.cli.options import as_json, opened, project_options

if TYPE_CHECKING:
    from shoal.workspace import Workspace

__all__ = ["history", "sql", "tables"]


@command("shoal tables")
@project_options
@as_json
def tables(folder: Path | None, profile: str | None, as_json: bool) -> None:
    """List the lake's Delta tables."""
    with opened(folder, profile) as space:
        found: list[dict[str, Any]] = []
        for table in space.lake.tables():
            rows, files, size = table.size()
            found.append(
                {
                    "table": table.name,
                    "version": table.version(),
                    "rows": rows,
                    "files": files,
                    "bytes": size,
                    "comment": table.comment(),
                    "path": table.path,
                }
            )
    if as_json:
        show.print_json(found)
        return
    right = ["version", "rows", "files", "size"]
    grid = show.grid(None, "table", *right, "comment", right=right)
    for row in found:
        grid.add_row(
            str(row["table"]),
            str(row["version"]),
            f"{row['rows']:,}",
            f"{row['files']:,}",
            show.size(row["bytes"]),
            row["comment"] or "",
        )
    show.console().print(grid)


@command("shoal history silver.flights --limit 5")
@click.argument("table")
@project_options
@click.option("--limit", default=20, show_default=True, help="At most so many versions.")
@as_json
def history(
    table: str, folder: Path | None, profile: str | None, limit: int, as_json: bool
) -> None:
    """Show the versions of TABLE, newest first; of a model, how its aliases moved."""
    with opened(folder, profile) as space:
        if _is_model(space, table):
            found = space.audit.moves(table)[::-1][:limit]
            if as_json:
                show.print_json([asdict(move) for move in found])
            else:
                moves(found)
            return
        entries = space.lake.existing(table).history(limit)
    if as_json:
        show.print_json(entries)
        return
    right = ["version"]
    grid = show.grid(table, *right, "at", "operation", "refresh", "inputs", right=right)
    for entry in entries:
        at = dt.datetime.fromtimestamp(entry["timestamp"] / 1000, dt.UTC)
        mode = (entry.get("operationParameters") or {}).get("mode", "")
        grid.add_row(
            str(entry["version"]),
            f"{at:%Y-%m-%d %H:%M:%S} UTC",
            f"{entry.get('operation', '')} {mode if mode != 'ErrorIfExists' else ''}".strip(),
            entry.get("shoal.refresh", ""),
            entry.get("shoal.inputs", ""),
        )
    show.console().print(grid)


def _is_model(space: Workspace, name: str) -> bool:
    """Whether a name is a model's and no table's; MLflow is not asked."""
    if not name.isidentifier() or space.lake.table(name).exists():
        return False
    return space.lake.table(f"shoal.fleet_{name}").exists()


@command('shoal sql "SELECT carrier, count(*) AS n FROM silver.flights GROUP BY carrier"')
@click.argument("query")
@project_options
@click.option("--limit", default=50, show_default=True, help="Show at most so many rows.")
@as_json
def sql(query: str, folder: Path | None, profile: str | None, limit: int, as_json: bool) -> None:
    """Run a Spark SQL QUERY over the lake ("-" reads it from standard input)."""
    text = sys.stdin.read() if query == "-" else query
    with opened(folder, profile) as space:
        rows = space.sql(text, limit=limit)
    if as_json:
        show.print_json(rows.to_pylist())
    else:
        show.arrow(rows, limit=limit)
