"""``shoal run`` and ``shoal plan``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from shoal.cli import show
from shoal.cli.app import command
from shoal.cli.continuous import keep_going, told_to_stop
from shoal.cli.options import as_json, opened, project_options

__all__ = ["plan", "run"]


def _names(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> list[str]:
    return [name.strip() for value in values for name in value.split(",") if name.strip()]


_select = click.option(
    "--select",
    "--refresh",
    "select",
    multiple=True,
    callback=_names,
    metavar="TABLES",
    help="Refresh only these tables (comma-separated, or given several times; silver.* works).",
)
_until = click.option(
    "--until",
    multiple=True,
    callback=_names,
    metavar="TABLES",
    help="Refresh only these tables and all that they are made from.",
)
_full = click.option(
    "--full-refresh",
    multiple=True,
    callback=_names,
    metavar="TABLES",
    help="Rebuild these tables from their sources.",
)
_all = click.option("--full-refresh-all", is_flag=True, help="Rebuild every table.")


@command("shoal run --full-refresh silver.flights")
@project_options
@_select
@_until
@_full
@_all
@click.option("--tables-only", is_flag=True, help="Do not train and score models.")
@click.option("--continuous", is_flag=True, help="Keep going until interrupted.")
@click.option(
    "--trigger",
    default="10s",
    show_default=True,
    metavar="TIME",
    help="With --continuous: time from the start of a round to the start of the next.",
)
@click.option(
    "--max-failures",
    type=click.IntRange(min=1),
    metavar="N",
    help="With --continuous: end after N failed rounds in a row [default: never].",
)
@as_json
def run(
    folder: Path | None,
    profile: str | None,
    select: list[str],
    until: list[str],
    full_refresh: list[str],
    full_refresh_all: bool,
    *,
    tables_only: bool,
    continuous: bool,
    trigger: str,
    max_failures: int | None,
    as_json: bool,
) -> None:
    """Refresh tables, train what is stale, score new rows."""
    if continuous:
        from shoal.pipeline import trigger_seconds
        from shoal.workspace.live import live

        interval = trigger_seconds(trigger)
        with (
            opened(folder, profile) as space,
            live(space, "run --continuous", select),
            told_to_stop() as told,
        ):
            options = space.options(
                select=select,
                full_refresh=full_refresh,
                full_refresh_all=full_refresh_all,
                until=until,
            )
            models = not (tables_only or select or until)
            code = keep_going(
                space.run_continuous(
                    options,
                    trigger=interval,
                    models=models,
                    max_failures=max_failures,
                    stopped=told.is_set,
                ),
                as_json=as_json,
            )
        sys.exit(code)
    with show.watching(quiet=as_json) as event, opened(folder, profile, on_event=event) as space:
        options = space.options(
            select=select,
            full_refresh=full_refresh,
            full_refresh_all=full_refresh_all,
            until=until,
        )
        report = space.run(options, models=not (tables_only or select or until))
    if as_json:
        show.print_json(report.as_json())
    else:
        show.run(report)
    sys.exit(report.exit_code)


@command("shoal plan --select gold.route_days")
@project_options
@_select
@_until
@_full
@_all
@as_json
def plan(
    folder: Path | None,
    profile: str | None,
    select: list[str],
    until: list[str],
    full_refresh: list[str],
    full_refresh_all: bool,
    as_json: bool,
) -> None:
    """Show what a run would do and why; change nothing."""
    from dataclasses import asdict

    with opened(folder, profile) as space:
        options = space.options(
            select=select,
            full_refresh=full_refresh,
            full_refresh_all=full_refresh_all,
            until=until,
        )
        decisions, models = space.plan(options)
    if not as_json:
        show.plan(decisions, models)
        return
    show.print_json(
        {
            "tables": [
                {
                    "table": str(decision.name),
                    "kind": str(decision.kind),
                    "refresh": decision.action,
                    "reason": decision.reason,
                    "files": decision.files,
                    "rows": decision.rows,
                    "inputs": {
                        name: {"from": then, "to": now}
                        for name, (then, now) in decision.inputs.items()
                    },
                    "diff": decision.edit,
                    "notes": decision.notes,
                }
                for decision in decisions
            ],
            "models": [asdict(model) for model in models],
        }
    )
