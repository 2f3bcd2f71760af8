"""``shoal schedule``: files for whoever keeps the time."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from shoal.cli import show
from shoal.cli.app import command
from shoal.cli.options import project_options

__all__ = ["schedule"]

_KINDS = ("cron", "systemd", "kubernetes", "airflow", "dagster")


@command("shoal schedule systemd --at '30 5 * * *' --step tables --step score --step retrain")
@click.argument("kind", type=click.Choice(_KINDS))
@project_options
@click.option("--at", "when", default="@daily", show_default=True, help="As cron has it, in UTC.")
@click.option(
    "--step",
    "steps",
    multiple=True,
    default=("run", "retrain"),
    show_default=True,
    help="What to do, in order: run, tables, train, score, monitor, retrain, vacuum.",
)
@click.option("--image", default="shoal:latest", show_default=True, help="For kubernetes.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Write the files there [default: print them].",
)
def schedule(
    kind: str,
    folder: Path | None,
    profile: str | None,
    when: str,
    steps: tuple[str, ...],
    image: str,
    out: Path | None,
) -> None:
    """Write a schedule for cron, systemd, Kubernetes, Airflow or Dagster.

    Shoal keeps no time itself. A step is started when the one before has ended well; two rounds
    never write at once, for the lake refuses the second.
    """
    from shoal.project import find_project
    from shoal.workspace.schedule import schedule as written

    project = find_project(folder, profile=profile)
    program = "shoal" if kind == "kubernetes" else shutil.which("shoal") or "shoal"
    files = written(
        kind,
        name=project.name,
        folder=project.root,
        when=when,
        steps=steps,
        shoal=program,
        profile=profile,
        image=image,
    )
    for name, text in files.items():
        if out is None:
            click.echo(f"# {name}\n{text}")
        else:
            out.mkdir(parents=True, exist_ok=True)
            (out / name).write_text(text, encoding="utf-8")
            show.console().print(f"[green]written[/]  {out / name}")
