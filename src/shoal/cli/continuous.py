"""What ``shoal run --continuous`` shows: one line for each round in which anything happened."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from shoal.cli import show

if TYPE_CHECKING:
    from shoal.workspace import RunReport

__all__ = ["keep_going", "told_to_stop"]


@contextlib.contextmanager
def told_to_stop() -> Iterator[threading.Event]:
    """Remembers that a signal came, besides raising KeyboardInterrupt.

    Python drops what is raised while it runs a callback or a finalizer, and nobody would then know
    of the signal: the next round asks.
    """
    told = threading.Event()

    def interrupt(*_: object) -> None:
        told.set()
        raise KeyboardInterrupt

    def dropped(what: sys.UnraisableHookArgs) -> None:
        if not issubclass(what.exc_type, KeyboardInterrupt):
            hook(what)

    hook = sys.unraisablehook
    sys.unraisablehook = dropped
    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield told
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def keep_going(reports: Iterable[RunReport], *, as_json: bool) -> int:
    """Shows reports as they come; gives the last one's exit code.

    Args:
        reports: The rounds.
        as_json: One JSON object per line instead.
    """
    from rich.markup import escape

    code = 0
    out = show.console()
    for report in reports:
        code = report.exit_code
        if as_json:
            sys.stdout.write(json.dumps(report.as_json(), default=str) + "\n")
            sys.stdout.flush()
            continue
        now = dt.datetime.now().astimezone().strftime("%H:%M:%S")
        took = show.seconds(report.seconds)
        out.print(f"[dim]{now}[/]  {', '.join(_parts(report)) or 'nothing'}  [dim]{took}[/]")
        for error in show.errors(report):
            out.print(error)
        if report.error:
            out.print(f"[bold red]error[/]  {escape(report.error)}")
    return code


def _parts(report: RunReport) -> list[str]:
    parts = [
        f"{table.table} +{table.rows:,} (version {table.version})"
        if table.status == "refreshed"
        else f"{table.table} {show.coloured(table.status)}"
        for table in report.tables
        if table.status != "unchanged"
    ]
    parts += [
        f"{m.model} {show.coloured(m.status)}" for m in report.models if m.status != "current"
    ]
    scored = [score for score in report.scores if score.status != "current"]
    return [*parts, *(f"{s.table} {show.coloured(s.status)} +{s.rows:,}" for s in scored)]
