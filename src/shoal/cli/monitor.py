"""``shoal monitor``: what drifts, and training it again."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shoal.cli import show
from shoal.cli.app import command
from shoal.cli.options import as_json, opened, project_options

if TYPE_CHECKING:
    from shoal.workspace.watch import MonitorReport

__all__ = ["monitor"]


@command("shoal monitor load --retrain --promote")
@click.argument("models", nargs=-1, metavar="[MODELS OR TABLES]...")
@project_options
@click.option("--retrain", is_flag=True, help="Fit the segments with an open alarm again.")
@click.option(
    "--promote",
    is_flag=True,
    help="Promote, if the gate lets it: with --retrain what was fitted, and who challenges since.",
)
@as_json
def monitor(
    models: tuple[str, ...],
    *,
    folder: Path | None,
    profile: str | None,
    retrain: bool,
    promote: bool,
    as_json: bool,
) -> None:
    """Watch champions and tables over what is new since the last time.

    By default all models, and the tables of [monitor.tables] in shoal.toml; a name with a dot is a
    table.

    Features and predictions of new rows are compared with what each member learned from, and
    predictions that came true with what its holdout promised. False alarms among thousands of
    segments are held down. Findings are rows of shoal.drift_MODEL (of a table, of
    shoal.drift_table_SCHEMA__TABLE), alerts go where [alerts] of shoal.toml says. Run it on a
    schedule: shoal schedule.
    """
    from shoal.workspace.watch import retrain_drifted, settle

    with show.watching(quiet=as_json) as event, opened(folder, profile, on_event=event) as space:
        reports = space.monitor(models)
        watched = [report.model for report in reports if report.window and report.version]
        settled = {name: settle(space, name) for name in watched if promote}
        found = [retrain_drifted(space, name, promote=promote) for name in watched if retrain]
    trained = [report for report in found if report is not None]
    if as_json:
        show.print_json(
            {
                "windows": [asdict(report) for report in reports],
                "settled": {name: text for name, text in settled.items() if text},
                "trained": [asdict(report) for report in trained],
            }
        )
    else:
        _shown(reports)
        for name, text in settled.items():
            if text:
                show.console().print(f"[bold]{show.escape(name)}[/]  {show.escape(text)}")
        if trained:
            show.models(trained, show.console())
        elif retrain:
            show.console().print("No alarm is open: nothing was trained.")
    statuses = [*(report.status for report in reports), *(report.status for report in trained)]
    sys.exit(1 if "failed" in statuses else 0)


def _shown(reports: Sequence[MonitorReport]) -> None:
    out = show.console()
    if not reports:
        out.print("Nothing is watched: the project declares no model, and shoal.toml no table.")
        out.print("[yellow]Hint:[/]  shoal monitor silver.readings watches a table as it is.")
        return
    right = ["new rows", "came true", "promised", "now", "tests", "opened", "closed", "open"]
    grid = show.grid("Windows", "watched", "window", *right, "took", right=right)
    for report in reports:
        of = "" if report.metric is None else f"{report.metric} "
        grid.add_row(
            f"{show.escape(report.model)} {report.version or ''}",
            show.coloured(report.status) if report.window is None else str(report.window),
            show.number(report.rows),
            show.number(report.labelled),
            f"{of}{show.figure(report.reference)}",
            show.figure(report.value),
            show.number(report.tests),
            show.number(report.opened),
            show.number(report.closed),
            f"{report.alarms:,}" if report.window is not None else "",
            show.seconds(report.seconds),
        )
    out.print(grid)
    for report in reports:
        _worst(report)
        for note in report.notes:
            out.print(f"[yellow]note[/]  {report.model}: {show.escape(note)}")
        if report.undelivered:
            out.print(
                f"[yellow]note[/]  {report.model}: {report.undelivered} alerts wait in shoal.alerts"
            )
        if report.error:
            out.print(f"[bold red]error[/]  {report.model}: {show.escape(report.error)}")


def _worst(report: MonitorReport) -> None:
    if not report.worst:
        return
    title = f"Gravest alarms of {report.model}, by effect and the segment's weight"
    right = ["effect", "now", "promised"]
    grid = show.grid(title, "check", "segment", "column", *right, right=right)
    for part in report.worst:
        grid.add_row(
            part["check"],
            show.escape(part["segment"]),
            show.escape(part["column"] or ""),
            show.figure(part["effect"]),
            show.figure(part["value"]),
            show.figure(part["reference"]),
        )
    show.console().print(grid)
