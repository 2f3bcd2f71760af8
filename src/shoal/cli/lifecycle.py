"""``shoal show``, ``shoal evaluate``, ``shoal promote`` and ``shoal rollback``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shoal.cli import show
from shoal.cli.app import command
from shoal.cli.options import as_json, opened, project_options

if TYPE_CHECKING:
    from shoal.workspace import Evaluation, Move, Promotion

__all__ = ["evaluate", "moves", "promote", "rollback", "show_"]

_SEEN = {
    "neither": "neither version saw these rows in training",
    "both": "both versions saw rows of these in training: the values flatter both",
    "challenger": "the challenger saw rows of these in training: the values flatter it",
    "champion": "the champion saw rows of these in training: the values flatter it",
    "unknown": "whether a version saw these rows in training is not known",
}
_VERDICTS = {"won": "[green]won[/]", "lost": "[bold red]lost[/]", "tied": "[dim]tied[/]"}


@command("shoal evaluate delay --since 2026-01-01")
@click.argument("model")
@project_options
@click.option("--challenger", default="challenger", show_default=True, help="Alias or version.")
@click.option("--champion", default="champion", show_default=True, help="Alias or version.")
@click.option("--rows", default=None, help="All rows of this table: TABLE or TABLE@VERSION.")
@click.option("--since", default=None, help="Only rows of this time or later.")
@click.option("--alpha", default=0.05, show_default=True, help="Share of false discoveries.")
@click.option(
    "--test",
    type=click.Choice(["t", "wilcoxon"]),
    default="t",
    show_default=True,
    help="Paired test of the rows' losses.",
)
@as_json
def evaluate(
    model: str,
    *,
    folder: Path | None,
    profile: str | None,
    challenger: str,
    champion: str,
    rows: str | None,
    since: str | None,
    alpha: float,
    test: str,
    as_json: bool,
) -> None:
    """Compare two versions of MODEL on the same rows, segment by segment.

    Without --rows and --since the rows are those that came after both trainings, or, when there are
    none, the last of each segment. Segments are won or lost where a paired test says so, with the
    share of false discoveries among them held below alpha. All is kept in
    shoal.evaluations_MODEL.
    """
    with show.watching(quiet=as_json) as event, opened(folder, profile, on_event=event) as space:
        found = space.evaluate(
            model,
            challenger=challenger,
            champion=champion,
            rows=rows,
            since=since,
            alpha=alpha,
            test=test,
        )
    if as_json:
        show.print_json(asdict(found))
    else:
        _evaluation(found)


def _evaluation(found: Evaluation) -> None:
    out = show.console()
    right = ["champion", "challenger", "p", "won", "lost", "tied"]
    grid = show.grid(f"{found.model}: {found.metric}", *right, "over all rows", right=right)
    value = {name: show.figure(each) for name, each in found.values.items()}
    grid.add_row(
        f"{value['champion']} (v{found.champion})",
        f"{value['challenger']} (v{found.challenger})",
        show.figure(found.p),
        *(f"{found.segments[word]:,}" for word in ("won", "lost", "tied")),
        _VERDICTS[found.verdict],
    )
    out.print(grid)
    where = f"{found.table}@{found.table_version}"
    out.print(f"[dim]rows[/]  {found.rows:,} of {where}: {found.which}")
    if found.skipped:
        out.print(f"[dim]left[/]  {found.skipped:,} rows without a prediction or a target")
    out.print(f"[dim]seen[/]  {_SEEN[found.seen]}")
    out.print(
        f"[dim]kept[/]  evaluation {found.id} in shoal.evaluations_{found.model} "
        f"({show.seconds(found.seconds)})"
    )
    if found.segments["won"]:
        out.print(f"[dim]next[/]  shoal promote {found.model} {found.challenger} --segments won")


@command("shoal promote delay --segments won --why 'better on last week'")
@click.argument("model")
@click.argument("version", required=False)
@project_options
@click.option("--to", "alias", default="champion", show_default=True, help="The alias to move.")
@click.option(
    "--segments", "won", type=click.Choice(["won"]), help="Only segments that it won: won."
)
@click.option("--segment", "segments", multiple=True, help="Only this: UA,IAH or carrier=UA.")
@click.option("--why", default="", help="For the audit table.")
@click.option("--force", is_flag=True, help="Also when the gate is closed.")
@as_json
def promote(
    model: str,
    version: str | None,
    *,
    folder: Path | None,
    profile: str | None,
    alias: str,
    won: str | None,
    segments: tuple[str, ...],
    why: str,
    force: bool,
    as_json: bool,
) -> None:
    """Make VERSION of MODEL (default: the challenger) its champion.

    With --segments won or --segment, a new version takes just those segments' members and keeps the
    champion's others. A gate that the model declares (promote_if) must pass. Who, when and why is
    kept in shoal.promotions; servers follow within a second.
    """
    with opened(folder, profile) as space:
        chosen = [*([won] if won else []), *segments]
        if won and segments:
            raise click.UsageError("Give --segments won or --segment, not both.")
        done = space.promote(model, version, to=alias, segments=chosen, why=why, force=force)
    _moved(done, as_json=as_json)


@command("shoal rollback delay --segment UA,IAH")
@click.argument("model")
@project_options
@click.option("--segment", "segments", multiple=True, help="Only this: UA,IAH or carrier=UA.")
@click.option("--to", "version", type=int, default=None, help="Version [default: the one before].")
@click.option("--alias", default="champion", show_default=True, help="The alias to move.")
@click.option("--why", default="", help="For the audit table.")
@as_json
def rollback(
    model: str,
    *,
    folder: Path | None,
    profile: str | None,
    segments: tuple[str, ...],
    version: int | None,
    alias: str,
    why: str,
    as_json: bool,
) -> None:
    """Move MODEL's champion back to the one before.

    With --segment, a new version takes those segments' earlier members and keeps the others.
    """
    with opened(folder, profile) as space:
        done = space.rollback(model, segments=segments, to=version, alias=alias, why=why)
    _moved(done, as_json=as_json)


def _moved(done: Promotion, *, as_json: bool) -> None:
    if as_json:
        show.print_json(asdict(done))
        return
    move, out = done.move, show.console()
    what = f"{len(move.segments):,} segments" if move.segments else "the whole fleet"
    before = "" if move.before is None else f"version {move.before} -> "
    made = ", a new composite" if done.composite else ""
    out.print(
        f"[green]{move.kind}[/]  {move.model}: {move.alias} {before}version {move.version}{made} "
        f"({what}, {show.seconds(done.seconds)})"
    )
    for words in done.gate:
        out.print(f"[dim]gate[/]  {words}")
    for note in done.notes:
        out.print(f"[yellow]note[/]  {note}")


@command("shoal show delay")
@click.argument("model")
@project_options
@as_json
def show_(model: str, folder: Path | None, profile: str | None, as_json: bool) -> None:
    """Show MODEL's card (of its champion, or delay@challenger, delay/3), aliases and last moves."""
    from rich.markdown import Markdown

    with opened(folder, profile) as space:
        version = space.tracker.resolve(model)
        (pointers,) = space.tracker.pointers(version.name)
        card = space.tracker.card(f"{version.name}/{version.version}")
        last = space.audit.moves(version.name)[-10:]
    if as_json:
        show.print_json(
            {
                "model": version.name,
                "version": version.version,
                "aliases": dict(pointers.aliases),
                "tags": dict(version.tags),
                "card": card,
                "moves": [asdict(move) for move in last],
            }
        )
        return
    out = show.console()
    out.print(Markdown(card))
    names = ", ".join(f"{name} -> {number}" for name, number in sorted(pointers.aliases.items()))
    out.print(f"[bold]aliases[/]  {names or 'none'}; newest version {pointers.newest}")
    if last:
        moves(last)


def moves(found: Sequence[Move]) -> None:
    """Shows moves of aliases."""
    right = ["from", "to"]
    grid = show.grid("Moves", "at", "alias", *right, "kind", "who", "segments", "why", right=right)
    for move in found:
        grid.add_row(
            f"{move.at:%Y-%m-%d %H:%M:%S}" if move.at else "",
            move.alias,
            "" if move.before is None else str(move.before),
            str(move.version),
            move.kind,
            move.user,
            _named(move.segments),
            _reason(move),
        )
    show.console().print(grid)


def _named(segments: Sequence[str]) -> str:
    if not segments:
        return "all"
    first = ", ".join(segments[:2])
    return first if len(segments) <= 2 else f"{first} and {len(segments) - 2:,} more"


def _reason(move: Move) -> str:
    from rich.markup import escape

    evidence: Any = move.evidence
    parts = [escape(move.why), *map(escape, evidence.get("gate", []))]
    if move.evaluation:
        parts.append(f"evaluation {move.evaluation}")
    return "; ".join(part for part in parts if part)
