"""What people see: tables, summaries and live progress."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import Console
    from rich.progress import TaskID
    from rich.table import Table

    from shoal.pipeline import Decision
    from shoal.workspace import (
        ModelPlan,
        ModelReport,
        RunReport,
        ScoreReport,
        SearchReport,
        TableReport,
    )

__all__ = [
    "Watch",
    "arrow",
    "console",
    "grid",
    "plan",
    "print_json",
    "run",
    "size",
    "value",
    "watching",
]

_COLOURS = {
    "refreshed": "green",
    "trained": "green",
    "pending": "yellow",
    "scored": "green",
    "searched": "green",
    "unchanged": "dim",
    "current": "dim",
    "failed": "bold red",
    "skipped": "yellow",
    "full": "green",
    "incremental": "cyan",
    "none": "dim",
}


def console(*, stderr: bool = False) -> Console:
    """A console; narrow pipes get a width that keeps lines whole."""
    from rich.console import Console

    plain = Console(stderr=stderr, highlight=False)
    return plain if plain.is_terminal else Console(stderr=stderr, highlight=False, width=140)


def print_json(value: Any) -> None:
    """Prints plain values as JSON on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def grid(title: str | None, *columns: str, right: Sequence[str] = ()) -> Table:
    """An empty table with the house's look."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(
            column,
            justify="right" if column in right else "left",
            overflow="fold",
            no_wrap=column in right,
        )
    if title:
        table.min_width = len(title) + 2
    return table


def coloured(word: str) -> str:
    """A status word in its colour."""
    colour = _COLOURS.get(word)
    return f"[{colour}]{word}[/]" if colour else word


def seconds(value: float) -> str:
    """Seconds, short."""
    return f"{value:.2f} s" if value < 100 else f"{value:.0f} s"


def number(value: float | None) -> str:
    """A whole number with separators, or nothing."""
    return f"{value:,.0f}" if value else ""


def size(count: float) -> str:
    """A number of bytes, short."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def figure(value: float | None) -> str:
    """A measured value with enough digits to compare, or nothing."""
    if value is None:
        return ""
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.3g}"


def plan(decisions: Sequence[Decision], models: Sequence[ModelPlan]) -> None:
    """Shows what a run would do."""
    out = console()
    right = ["rows", "files"]
    table = grid("Tables", "table", "kind", "refresh", "why", *right, right=right)
    for decision in decisions:
        table.add_row(
            str(decision.name),
            str(decision.kind),
            coloured(decision.action),
            decision.reason,
            "" if decision.action == "none" else number(decision.rows),
            number(decision.files),
        )
    out.print(table)
    for decision in decisions:
        if decision.edit:
            out.print(f"[bold]changed[/]  {decision.name}")
            out.print(*map(_edited, decision.edit.splitlines()), sep="\n")
        for note in decision.notes:
            out.print(f"[yellow]note[/]  {note}")
    if models:
        table = grid("Models", "model", "learns from", "train", "why")
        for model in models:
            word = "[green]yes[/]" if model.stale else "[dim]no[/]"
            table.add_row(model.model, model.table, word, model.reason)
        out.print(table)


def _edited(line: str) -> str:
    """One line of a unified diff, in its colour."""
    from rich.markup import escape

    colour = {"+": "green", "-": "red", "@": "dim"}.get(line[:1], "")
    return f"  [{colour}]{escape(line)}[/]" if colour else f"  {escape(line)}"


def run(report: RunReport) -> None:
    """Shows what a run did."""
    out = console()
    if report.tables:
        tables(report.tables, out)
    if report.models:
        models(report.models, out)
    if report.scores:
        scores(report.scores, out)
    for error in errors(report):
        out.print(error)
    word = "[bold red]failed in part[/]" if report.failed else "[bold green]done[/]"
    out.print(f"{word} in {seconds(report.seconds)}")


def errors(report: RunReport) -> list[str]:
    """The errors of a run, each with the part that failed."""
    from rich.markup import escape

    parts = [
        *((table.table, table.error) for table in report.tables),
        *((model.model, model.error) for model in report.models),
        *((score.model, score.error) for score in report.scores),
    ]
    return [f"[bold red]error[/]  {name}: {escape(error)}" for name, error in parts if error]


def tables(reports: Sequence[TableReport], out: Console) -> None:
    """Shows refreshed tables."""
    right = ["version", "rows", "dropped", "rescued", "time"]
    table = grid("Tables", "table", "status", "refresh", "why", *right, right=right)
    for report in reports:
        table.add_row(
            report.table,
            coloured(report.status),
            coloured(report.refresh),
            report.reason if report.status != "failed" else "see below",
            "" if report.version is None else str(report.version),
            number(report.rows),
            number(report.dropped),
            number(report.rescued),
            seconds(report.seconds),
        )
    out.print(table)
    for report in reports:
        for name, count in report.expectations.items():
            if count["failed"]:
                did = {"drop": "dropped", "warn": "kept", "fail": "stopped the update"}
                out.print(
                    f"[dim]expectation[/]  {report.table}.{name}: {count['failed']:,} of "
                    f"{count['failed'] + count['passed']:,} rows broke it ({did[count['action']]})"
                )
        for note in report.notes:
            out.print(f"[yellow]note[/]  {note}")


def models(reports: Sequence[ModelReport], out: Console) -> None:
    """Shows trainings."""
    right = ["version", "segments", "ok", "fallback", "error", "baseline", "time"]
    table = grid("Models", "model", "status", "why", "metric", *right, right=right)
    for report in reports:
        metric = report.metric
        found = report.metrics
        table.add_row(
            report.model,
            coloured(report.status),
            report.reason,
            metric,
            "" if report.version is None else str(report.version),
            number(found.get("segments")),
            number(found.get("segments_ok")),
            number(found.get("segments_fallback")),
            figure(found.get(metric)),
            figure(found.get(f"baseline_{metric}")),
            seconds(report.seconds),
        )
    out.print(table)
    for report in reports:
        if report.search:
            out.print(f"[dim]search[/]  {report.model}: {escape(report.search)}")
        for cause, count in report.failures.items():
            out.print(f"[dim]fallback[/]  {report.model}: {count:,} segments: {cause}")
        if failed := int(report.metrics.get("segments_failed", 0)):
            ok = int(report.metrics.get("segments_ok", 0))
            out.print(
                f"[yellow]failed[/]  {report.model}: {ok:,} ok, {failed:,} failed; "
                f"try these again: shoal train {report.model} --failed"
            )


def escape(text: str) -> str:
    """Text without its square brackets' meaning as markup."""
    from rich.markup import escape as escaped

    return escaped(text)


def searches(reports: Sequence[SearchReport], out: Console) -> None:
    """Shows searches."""
    right = ["searches", "complete", "pruned", "failed", "best", "time"]
    table = grid("Searches", "model", "status", "parameters", "metric", *right, right=right)
    for report in reports:
        trials = report.trials
        table.add_row(
            report.model,
            coloured(report.status),
            escape(report.chosen),
            report.metric,
            number(report.scopes),
            *(number(trials.get(state)) for state in ("complete", "pruned", "failed")),
            figure(report.value),
            seconds(report.seconds),
        )
    out.print(table)
    for report in reports:
        if not report.error:
            out.print(f"[dim]trials[/]  {report.model}: {report.table}, study {report.study}")


def scores(reports: Sequence[ScoreReport], out: Console) -> None:
    """Shows scorings."""
    right = ["version", "rows", "fallback", "time"]
    table = grid("Predictions", "model", "status", "into", "why", *right, right=right)
    for report in reports:
        table.add_row(
            report.model,
            coloured(report.status),
            report.table,
            report.reason,
            "" if report.version is None else str(report.version),
            number(report.rows),
            number(report.fallbacks),
            seconds(report.seconds),
        )
    out.print(table)


def arrow(rows: pa.Table, *, title: str | None = None, limit: int = 50) -> None:
    """Shows rows as a table; values are not interpreted."""
    from rich.text import Text

    out = console()
    table = grid(title, *rows.column_names)
    for row in rows.slice(0, limit).to_pylist():
        table.add_row(*(Text(value(item)) for item in row.values()))
    out.print(table)
    shown = min(limit, rows.num_rows)
    out.print(
        f"[dim]{shown:,} of {rows.num_rows:,} rows[/]"
        if shown < rows.num_rows
        else f"[dim]{rows.num_rows:,} rows[/]"
    )


def value(item: object) -> str:
    """One value of a row, as text."""
    if item is None:
        return "NULL"
    return f"{item:.6g}" if isinstance(item, float) else str(item)


class Watch:
    """Live progress of a workspace's events on standard error."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._shown = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            console=console(stderr=True),
            transient=True,
        )

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        """Shows the progress until the block ends; nothing when it is no terminal."""
        if not self._shown.console.is_terminal:
            yield
            return
        with self._shown:
            yield

    def event(self, stage: str, name: str, value: Any) -> None:
        """Takes one event; see `Workspace`."""
        verbs = {"table": "refresh", "search": "search", "train": "train", "score": "score"}
        key = (stage, name)
        if key not in self._tasks:
            title = f"{verbs[stage]} {name}"
            self._tasks[key] = self._shown.add_task(title, total=None, count="")
        task = self._tasks[key]
        if isinstance(value, tuple):
            done, total = value
            self._shown.update(
                task, completed=done, total=total or None, count=f"{done:,}/{total:,}"
            )
        elif isinstance(value, int):
            self._shown.update(task, count=f"{value:,} rows")
        elif not isinstance(value, str):
            self._shown.remove_task(self._tasks.pop(key))


@contextlib.contextmanager
def watching(*, quiet: bool) -> Iterator[Any]:
    """An event function with live progress behind it, or one that shows nothing."""
    if quiet:
        yield lambda *_: None
        return
    watch = Watch()
    with watch.live():
        yield watch.event
