"""``shoal track``: trainings that wait until MLflow can be reached."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from shoal.cli import show
from shoal.cli.app import command
from shoal.cli.options import as_json, opened, project_options

__all__ = ["track"]


@command("shoal track --pending")
@click.argument("models", nargs=-1)
@project_options
@click.option("--pending", is_flag=True, help="Record what waits.")
@click.option("--moved", is_flag=True, help="The lake was moved: mend MLflow's paths.")
@as_json
def track(
    models: tuple[str, ...],
    *,
    folder: Path | None,
    profile: str | None,
    pending: bool,
    moved: bool,
    as_json: bool,
) -> None:
    """Record trainings of MODELS (default: all) that MLflow could not be told of, or list them.

    A training that cannot reach MLflow keeps its members and all else that is to be recorded in the
    lake. The next training of the model records it first, too.
    """
    if moved:
        from shoal.tracking.moved import follow_move

        with opened(folder, profile) as space:
            count = follow_move(space.tracker)
        if as_json:
            show.print_json({"rewritten": count})
        else:
            show.console().print(f"{count} paths of MLflow's database follow the lake.")
        return
    from shoal.workspace.pending import record_pending, waiting

    with opened(folder, profile) as space:
        if not pending:
            found = waiting(space, models)
            rows = [
                {
                    "model": each.trained.declaration.name,
                    "fleet_version": each.trained.fleet_version,
                    "table": f"{each.trained.table}@{each.trained.table_version}",
                    "why": each.why,
                }
                for each in found
            ]
            if as_json:
                show.print_json(rows)
                return
            for row in rows:
                show.console().print(
                    f"[yellow]waits[/]  {row['model']} fleet version {row['fleet_version']}, "
                    f"trained on {row['table']}: {show.escape(str(row['why']))}"
                )
            show.console().print("shoal track --pending records it." if rows else "Nothing waits.")
            return
        reports = record_pending(space, models)
    if as_json:
        show.print_json([asdict(report) for report in reports])
    elif reports:
        out = show.console()
        show.models(reports, out)
        for report in reports:
            if report.error:
                out.print(f"[bold red]error[/]  {report.model}: {show.escape(report.error)}")
    else:
        show.console().print("Nothing waits.")
    words = {report.status for report in reports}
    sys.exit(1 if "failed" in words else 75 if "pending" in words else 0)
