"""``shoal train``, ``shoal search`` and ``shoal score``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shoal.cli import show
from shoal.cli.app import command
from shoal.cli.options import as_json, opened, project_options
from shoal.errors import ProjectError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["score", "search", "train"]


def _told(reports: Sequence[Any], shown: Callable[[Any, Console], None], *, as_json: bool) -> None:
    """Prints what was done to each model, and then what went wrong."""
    if as_json:
        show.print_json([asdict(report) for report in reports])
        return
    out = show.console()
    shown(reports, out)
    for report in reports:
        if report.error:
            error = show.escape(f"{report.model}: {report.error}")
            out.print(f"[bold red]error[/]  {error}", markup=True)


@command("shoal train delay --alias challenger")
@click.argument("models", nargs=-1)
@project_options
@click.option("--all", "everything", is_flag=True, help="Fit all segments, changed or not.")
@click.option("--failed", is_flag=True, help="Also fit the members that failed last time.")
@click.option("--no-batched", "single", is_flag=True, help="Fit segments one after the other.")
@click.option("--drifted", is_flag=True, help="Fit the segments with an open alarm alone.")
@click.option("--segment", "segments", multiple=True, help="Fit this one alone, such as UA,IAH.")
@click.option(
    "--affected", metavar="FILE|TABLE@VERSION", help="Fit what learned from this bad input, alone."
)
@click.option("--trials", type=click.IntRange(min=1), help="Trials of a declared search.")
@click.option("--alias", default="champion", show_default=True, help="Alias of the new version.")
@click.option("--promote", is_flag=True, help="Make it the champion, if its gate lets it.")
@as_json
def train(
    models: tuple[str, ...],
    *,
    folder: Path | None,
    profile: str | None,
    everything: bool,
    failed: bool,
    drifted: bool,
    segments: tuple[str, ...],
    single: bool,
    affected: str | None,
    trials: int | None,
    alias: str,
    promote: bool,
    as_json: bool,
) -> None:
    """Train, track and register MODELS (default: all).

    Only the segments whose rows, definition, code or libraries changed since the last version are
    fitted; the other members are carried over. A declared search is made first, unless it was. A
    model with a gate (promote_if) that has a champion gets a challenger; --promote makes it the
    champion when the gate passes.

    --affected names a bad file or table version, as for shoal impact: the members that learned from
    it, and the fallback groups above them, are fitted on the table as it is now, after it was
    mended. All others stay.
    """
    if drifted and (everything or segments):
        raise click.UsageError("--drifted says which segments: leave out --all and --segment.")
    if affected and (everything or failed or segments or trials or drifted):
        raise click.UsageError("--affected chooses the segments: leave out --all, --segment, ....")
    with show.watching(quiet=as_json) as event, opened(folder, profile, on_event=event) as space:
        if affected:
            reports = space.train_affected(
                affected, models, alias=alias or None, promote=promote, batched=not single
            )
        elif drifted:
            from shoal.workspace.watch import retrain_drifted

            names = [declaration.name for declaration in space.declared(models)]
            again = [retrain_drifted(space, name, promote=promote) for name in names]
            reports = [report for report in again if report is not None]
        else:
            reports = space.train(
                models,
                everything=everything,
                failed=failed,
                segments=segments,
                batched=not single,
                trials=trials,
                alias=alias or None,
                promote=promote,
            )
    _told(reports, show.models, as_json=as_json)
    words = {report.status for report in reports}
    sys.exit(1 if "failed" in words else 75 if "pending" in words else 0)


@command("shoal search delay --trials 50")
@click.argument("models", nargs=-1)
@project_options
@click.option("--trials", type=click.IntRange(min=1), help="How many; default as declared.")
@click.option(
    "--optuna",
    "storage",
    help="Then also put the studies into this storage of Optuna's, such as sqlite:///optuna.db.",
)
@click.option("--scope", help="With --optuna: the segment or group, where each has a search.")
@as_json
def search(
    models: tuple[str, ...],
    *,
    folder: Path | None,
    profile: str | None,
    trials: int | None,
    storage: str | None,
    scope: str | None,
    as_json: bool,
) -> None:
    """Search for the parameters of MODELS (default: all that declare a search), and train nothing.

    A search that was interrupted goes on from its trials, and the next training takes what was
    found. New rows alone start no search at training: this command searches the table as it is
    now. The trials are rows of shoal.trials_MODEL; optuna-dashboard reads the storage that --optuna
    names.
    """
    with show.watching(quiet=as_json) as event, opened(folder, profile, on_event=event) as space:
        reports = space.search(models, trials=trials)
        if storage is not None:
            from shoal.training.search import copy_study

            for report in reports:
                if report.status != "failed":
                    copy_study(space.study(report.model, scope), storage, report.model)
    _told(reports, show.searches, as_json=as_json)
    sys.exit(1 if any(report.status == "failed" for report in reports) else 0)


@command("shoal score delay@challenger")
@click.argument("models", nargs=-1)
@project_options
@click.option("--all", "everything", is_flag=True, help="Score all rows again.")
@click.option("--url", default=None, help="A running server that predicts: shoal serve.")
@click.option("--token", envvar="SHOAL_TOKEN", default=None, help="Its token, or $SHOAL_TOKEN.")
@click.option(
    "--input",
    "source",
    type=click.Path(path_type=Path),
    help="With --url: rows of a .csv, .parquet or .jsonl file; no project is needed.",
)
@click.option("--output", type=click.Path(path_type=Path), help="Where they go, with predictions.")
@as_json
def score(
    models: tuple[str, ...],
    *,
    folder: Path | None,
    profile: str | None,
    everything: bool,
    url: str | None,
    token: str | None,
    source: Path | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Write predictions for rows that have none yet.

    MODELS are names, or versions such as delay@challenger or delay/3 (default: all champions).
    """
    if source is not None or output is not None:
        _score_file(models, url, token, source, output, as_json=as_json)
        return
    with show.watching(quiet=as_json) as event, opened(folder, profile, on_event=event) as space:
        reports = space.score(models, everything=everything, url=url, token=token)
    _told(reports, show.scores, as_json=as_json)
    sys.exit(1 if any(report.status == "failed" for report in reports) else 0)


def _score_file(
    models: tuple[str, ...],
    url: str | None,
    token: str | None,
    source: Path | None,
    output: Path | None,
    *,
    as_json: bool,
) -> None:
    from shoal.workspace.files import score_file

    if url is None or source is None or output is None or len(models) > 1:
        raise ProjectError(
            "A file is scored by a server, with one model.",
            hint="shoal score delay --url http://127.0.0.1:5001 --input a.csv --output b.parquet",
        )
    model = models[0] if models else None
    rows = score_file(url, source, output, model=model, token=token)
    if as_json:
        show.print_json({"rows": rows, "output": str(output)})
    else:
        click.echo(f"{rows:,} rows: {output}")
