"""``shoal export``, ``shoal import`` and ``shoal gc``."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict
from pathlib import Path

import click

from shoal.cli import show
from shoal.cli.app import command
from shoal.cli.export import databricks_bundle
from shoal.cli.options import as_json, opened, project_options

__all__ = ["export", "gc", "import_"]


@command("shoal export delay@champion backup/delay")
@click.argument("ref", metavar="MODEL[/VERSION]|databricks")
@click.argument("target", metavar="[FOLDER]", required=False, type=click.Path(path_type=Path))
@project_options
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="FOLDER, by name.")
@as_json
def export(
    ref: str,
    target: Path | None,
    *,
    folder: Path | None,
    profile: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Write a version with its lineage to FOLDER: model, run, code, members, evidence.

    manifest.json has the SHA-256 of each file; the digest that is printed vouches for all.

    "shoal export databricks" writes the whole project as a Declarative Automation Bundle instead:
    its pipeline, a job that refreshes, trains and scores, a serving endpoint for each model.
    """
    target = target or out
    if ref == "databricks":
        databricks_bundle(folder, profile, target or Path("databricks"), as_json=as_json)
        return
    if target is None:
        raise click.UsageError(f"Name the folder: shoal export {ref} FOLDER")
    from shoal.workspace.transfer import export_version

    with opened(folder, profile) as space:
        found = export_version(space, ref, target)
    if as_json:
        show.print_json(asdict(found))
        return
    console = show.console()
    console.print(f"[green]exported[/]  {found.model}: {found.files} files, {found.bytes:,} bytes")
    console.print(f"[dim]digest[/]    {found.digest}")
    console.print(
        f"[dim]next[/]      shoal import {show.escape(str(target))} --digest {found.digest}"
    )


@command("shoal import backup/delay")
@click.argument("source", metavar="FOLDER", type=click.Path(exists=True, path_type=Path))
@project_options
@click.option("--name", default=None, help="Registered model [default: as it was].")
@click.option("--digest", default=None, help="What shoal export printed; any other is refused.")
@click.option("--trust-pickle", is_flag=True, help="Also take members that were pickled.")
@as_json
def import_(
    source: Path,
    *,
    folder: Path | None,
    profile: str | None,
    name: str | None,
    digest: str | None,
    trust_pickle: bool,
    as_json: bool,
) -> None:
    """Register an exported version here as a new version, without an alias.

    A folder that was changed, or that would load code that is not Shoal's, is refused.
    """
    from shoal.workspace.transfer import import_version

    with opened(folder, profile) as space:
        found = import_version(space, source, name=name, digest=digest, trust_pickle=trust_pickle)
    if as_json:
        show.print_json(asdict(found))
        return
    out = show.console()
    out.print(f"[green]imported[/]  {found.source} as {found.model}, run {found.run_id}")
    if found.members:
        out.print(f"[dim]members[/]   {found.members}")
    out.print(f"[dim]next[/]      shoal promote {found.model.split('/')[1]} "
              f"{found.model.split('/')[2]}")  # fmt: skip


@command("shoal gc --keep 20 --older-than 90d")
@click.argument("models", nargs=-1)
@project_options
@click.option("--keep", type=click.IntRange(min=1), default=10, show_default=True,
              help="Newest versions of each model that stay.")  # fmt: skip
@click.option("--older-than", default="30d", show_default=True, help="Only older ones: 90d or 12h.")
@click.option("--apply", is_flag=True, help="Delete; without it nothing is changed.")
@as_json
def gc(
    models: tuple[str, ...],
    *,
    folder: Path | None,
    profile: str | None,
    keep: int,
    older_than: str,
    apply: bool,
    as_json: bool,
) -> None:
    """Show which old versions and runs of MODELS (default: all) would go, or delete them.

    What an alias, a rollback, a composite's members, a reproduction's receipt or a snapshot needs
    stays. Afterwards mlflow gc frees the artifacts, and shoal vacuum the tables' files.
    """
    from shoal.workspace.collect import collect

    number, unit = older_than[:-1], older_than[-1:]
    units = {"d": 86_400, "h": 3_600, "w": 604_800}
    if unit not in units or not (number.isascii() and number.isdigit()):
        raise click.UsageError(f"'{older_than}' is no age. Write 90d, 12h or 8w.")
    age = dt.timedelta(seconds=int(number) * units[unit])
    with opened(folder, profile) as space:
        found = collect(space, models, keep=keep, older_than=age, apply=apply)
    if as_json:
        show.print_json(asdict(found))
        return
    out = show.console()
    grid = show.grid("Deleted" if apply else "Would be deleted", "what", "run", "made")
    for each in found.gone:
        grid.add_row(show.escape(each.model), each.run_id, f"{each.created:%Y-%m-%d %H:%M}")
    if found.gone:
        out.print(grid)
    for uri, why in found.kept.items():
        out.print(f"[dim]stays[/]  {uri}: {why}")
    if not found.gone:
        out.print("Nothing is old enough and needed by nobody.")
    elif not apply:
        out.print("[dim]next[/]   the same with --apply")
