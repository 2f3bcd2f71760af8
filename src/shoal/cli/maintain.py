"""``shoal restore``, ``diff``, ``clone``, ``optimize``, ``vacuum`` and ``checks``."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shoal.cli import show
from shoal.cli.app import command
from shoal.cli.options import as_json, opened, project_options
from shoal.errors import TableError

if TYPE_CHECKING:
    from shoal.lake import Change, Difference

__all__ = ["checks", "clone", "diff", "optimize", "restore", "vacuum"]

_SCALE = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_dry = click.option("--dry-run", is_flag=True, help="Show what would happen; change nothing.")


@command("shoal restore silver.flights --version 3")
@click.argument("table")
@click.option("--version", type=int, help="The version to go back to.")
@click.option("--timestamp", default="", help="Or the version that was the newest then (UTC).")
@click.option("--rewind", is_flag=True, help="Also read again what was read since.")
@_dry
@project_options
@as_json
def restore(
    table: str,
    folder: Path | None,
    profile: str | None,
    *,
    version: int | None,
    timestamp: str,
    rewind: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Take TABLE back to an older version, as a new version: nothing is lost."""
    if version is None and not timestamp:
        raise click.UsageError("Give --version or --timestamp; shoal history shows them.")
    with opened(folder, profile) as space:
        care = space.maintenance
        target = care.version(table, version=version, timestamp=timestamp)
        done, notes = care.restore(table, target, rewind=rewind, dry_run=dry_run)
    if as_json:
        show.print_json({**asdict(done), "notes": notes})
        return
    out = show.console()
    if done.version is not None:
        word = f"[green]restored[/] as version {done.version}"
    else:
        word = "[dim]would be restored[/]" if dry_run else "[dim]is there already[/]"
    out.print(
        f"{done.table} at version {done.target} {word}: {done.rows[0]:,} -> {done.rows[1]:,} rows, "
        f"{done.added:,} files back, {done.removed:,} taken out"
        + (f", columns {', '.join(done.columns)}" if done.columns else "")
    )
    for note in notes:
        out.print(f"[yellow]note[/]  {note}")


@command("shoal diff silver.flights --from 3 --to 5 --key id")
@click.argument("table")
@click.option("--from", "before", type=int, help="A version [default: the one before --to].")
@click.option("--to", "after", type=int, help="Another version [default: the newest].")
@click.option("--key", default="", help="Columns that name a row, separated by commas.")
@click.option("--limit", default=20, show_default=True, help="Show so many rows of each kind.")
@project_options
@as_json
def diff(
    table: str,
    folder: Path | None,
    profile: str | None,
    *,
    before: int | None,
    after: int | None,
    key: str,
    limit: int,
    as_json: bool,
) -> None:
    """Show the rows added, removed and changed between two versions of TABLE."""
    with opened(folder, profile) as space:
        care = space.maintenance
        last = care.version(table, version=after)
        first = max(last - 1, 0) if before is None else before
        found = care.diff(table, first, last, key=_names(key), limit=limit)
    if as_json:
        show.print_json(asdict(found))
    else:
        _show_diff(found)


def _show_diff(found: Difference) -> None:
    from rich.markup import escape

    out = show.console()
    out.print(
        f"[bold]{found.table}[/] version {found.before} -> {found.after}: "
        f"[green]{found.added:,} added[/], [red]{found.removed:,} removed[/]"
        + (f", [yellow]{found.changed:,} changed[/]" if found.key else "")
        + f" [dim]({found.files:,} files read)[/]"
    )
    for name, (old, new) in found.schema.items():
        out.print(f"[yellow]column[/]  {name}: {old or 'none'} -> {new or 'none'}")
    if found.columns:
        said = ", ".join(f"{name} ({count:,})" for name, count in found.columns.items())
        out.print(f"[dim]changed columns[/]  {escape(said)}")
    for change in found.sample:
        out.print(_line(change), soft_wrap=True)


def _line(change: Change) -> str:
    from rich.markup import escape

    row = ", ".join(f"{name}={show.value(value)}" for name, value in change.row.items())
    if change.kind == "changed":
        edits = ", ".join(
            f"{name}: {show.value(old)} -> {show.value(new)}"
            for name, (old, new) in change.columns.items()
        )
        return f"[yellow]~[/] {escape(row)}  {escape(edits)}"
    times = f"  x{change.times}" if change.times > 1 else ""
    sign = "[green]+[/]" if change.kind == "added" else "[red]-[/]"
    return f"{sign} {escape(row)}{times}"


@command("shoal clone silver.flights sandbox.flights")
@click.argument("source")
@click.argument("target")
@click.option("--version", type=int, help="Version of SOURCE [default: the newest].")
@click.option("--deep", is_flag=True, help="Copy the files instead of sharing them.")
@project_options
@as_json
def clone(
    source: str,
    target: str,
    folder: Path | None,
    profile: str | None,
    *,
    version: int | None,
    deep: bool,
    as_json: bool,
) -> None:
    """Make TARGET a new table with SOURCE's rows, sharing its files."""
    with opened(folder, profile) as space:
        done = space.maintenance.clone(source, target, version=version, deep=deep)
    if as_json:
        show.print_json(asdict(done))
        return
    how = "copied" if done.copied else "shared, which takes no space"
    show.console().print(
        f"{done.table} [green]made[/] of {done.source} at version {done.version}: "
        f"{done.files:,} files ({show.size(done.bytes)}) {how}"
    )


@command("shoal optimize silver.flights --zorder carrier,day")
@click.argument("table")
@click.option("--zorder", default="", help="Sort rows so that filters on these columns skip files.")
@click.option("--target-size", default="", help="Size of a file, for example 128MB.")
@click.option("--where", default=None, help="Only these partitions: \"day = '2026-01-01'\".")
@project_options
@as_json
def optimize(
    table: str,
    folder: Path | None,
    profile: str | None,
    *,
    zorder: str,
    target_size: str,
    where: str | None,
    as_json: bool,
) -> None:
    """Put the small files of TABLE together; its rows, and its readers, stay as they are."""
    size = _bytes(target_size) if target_size else None
    with opened(folder, profile) as space:
        done = space.maintenance.optimize(
            table, zorder=_names(zorder), target_size=size, where=where
        )
    if as_json:
        show.print_json(asdict(done))
        return
    out = show.console()
    if not done.removed:
        out.print(f"{done.table}: [dim]nothing to put together[/]")
        return
    out.print(
        f"{done.table} [green]optimized[/] as version {done.version}: {done.removed:,} files "
        f"became {done.added:,}, {show.size(done.bytes[0])} -> {show.size(done.bytes[1])}"
    )
    out.print(f"[dim]The old files stay for older versions until: shoal vacuum {done.table}[/]")


@command("shoal vacuum --dry-run")
@click.argument("table", required=False)
@click.option("--retain", default="7d", show_default=True, help="Keep this long: 30m, 168h, 7d.")
@click.option("--force", is_flag=True, help="Keep nothing for models and readers that need it.")
@_dry
@project_options
@as_json
def vacuum(
    table: str | None,
    folder: Path | None,
    profile: str | None,
    *,
    retain: str,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Remove files that no recent version of TABLE (or any table) needs.

    Versions that registered models were trained on are kept, and those that another table has
    still to read.
    """
    from shoal.workspace.maintain import parse_duration

    with opened(folder, profile) as space:
        done = space.maintenance.vacuum(
            table, retain=parse_duration(retain), dry_run=dry_run, force=force
        )
    if as_json:
        show.print_json([asdict(item) for item in done])
        return
    out = show.console()
    right = ["data files", "leftovers", "log", "size"]
    grid = show.grid("Would be removed" if dry_run else "Removed", "table", *right, right=right)
    for item in done:
        counts = (show.number(n) for n in (item.files, item.leftovers, item.log))
        grid.add_row(item.table, *counts, show.size(item.bytes) if item.bytes else "")
    out.print(grid)
    for item in done:
        for kept in item.kept:
            first, last = kept.guard.versions
            span = f"version {first}" if first == last else f"versions {first} to {last}"
            out.print(
                f"[yellow]kept[/]  {item.table} {span}, {kept.files:,} files "
                f"({show.size(kept.bytes)}): {kept.guard.reason}. --force removes them."
            )
        for guard in item.unreachable:
            out.print(
                f"[yellow]gone[/]  {item.table} version {guard.versions[0]}: {guard.reason}, but "
                "its files were removed before."
            )


@command("shoal checks silver.flights")
@click.argument("table", required=False)
@project_options
@as_json
def checks(table: str | None, folder: Path | None, profile: str | None, as_json: bool) -> None:
    """Check that TABLE (or every table) is whole; exit code 1 when one is broken."""
    with opened(folder, profile) as space:
        found = space.maintenance.checks(table)
        names = [table] if table else [item.name for item in space.lake.tables()]
    broken = [finding for finding in found if finding.broken]
    if as_json:
        show.print_json({"tables": names, "findings": [asdict(finding) for finding in found]})
    else:
        out = show.console()
        for finding in sorted(found, key=lambda finding: not finding.broken):
            word = "[bold red]broken[/]" if finding.broken else "[yellow]note[/]"
            out.print(f"{word}  {finding.table} ({finding.check}): {finding.message}")
            if finding.hint:
                out.print(f"        {finding.hint}", markup=False)
        what = f"{len(names):,} table{'' if len(names) == 1 else 's'} checked"
        out.print(f"[bold red]{what}, not whole[/]" if broken else f"[green]{what}, whole[/]")
    sys.exit(1 if broken else 0)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _bytes(text: str) -> int:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?)i?b?\s*", text.lower())
    if not found or float(found[1]) <= 0:
        raise TableError(f"'{text}' is no size.", hint="Write 128MB or 1GB, for example.")
    return int(float(found[1]) * _SCALE[found[2]])
