"""The command group, its exit codes, and how errors are shown.

Exit codes: 0 done; 1 a part failed; 2 the command line or the project is wrong; 75 try again
(nothing was lost); 130 interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn, TextIO

import click

from shoal.errors import ShoalError

__all__ = ["cli", "command", "main"]


_ORDER = ["demo", "init", "plan", "run", "train", "search", "show", "evaluate", "promote"]
_ORDER += [
    "rollback",
    "reproduce",
    "score",
    "serve",
    "canary",
    "token",
    "ui",
    "tables",
    "history",
    "events",
]
_ORDER += [
    "monitor",
    "schedule",
    "quality",
    "describe",
    "sql",
    "lineage",
    "impact",
    "diff",
    "restore",
    "clone",
    "track",
    "export",
    "import",
    "gc",
    "snapshot",
    "optimize",
    "vacuum",
    "checks",
]
_ORDER += ["bundle", "rehearse", "deploy", "spark", "version"]


class _Ordered(click.Group):
    """Lists commands in the order in which a newcomer needs them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        _ = ctx
        return sorted(self.commands, key=_ORDER.index)


@click.group(cls=_Ordered, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Shoal: an open lakehouse for machine learning.

    Raw files become Delta tables, tables become thousands of models, models answer over REST.

    \b
    Start here:   shoal demo
    Then:         shoal init my_project && cd my_project && shoal run
    """


def command(
    example: str, *, group: click.Group | None = None
) -> Callable[[Callable[..., Any]], click.Command]:
    """Registers a function as a command, with an example below its help.

    Args:
        example: One command line.
        group: The group that it belongs to; None is `cli`.
    """

    def register(function: Callable[..., Any]) -> click.Command:
        @wraps(function)
        def guarded(*args: Any, **values: Any) -> Any:
            try:
                return function(*args, **values)
            except ShoalError as error:
                _fail(error)

        name = function.__name__.removesuffix("_").replace("_", "-")
        return (group or cli).command(name=name, epilog=f"Example:  {example}")(guarded)

    return register


def _fail(error: ShoalError) -> NoReturn:
    if os.environ.get("SHOAL_TRACEBACK"):
        raise error
    click.echo(f"{click.style('Error:', fg='red', bold=True)} {error.message}", err=True)
    if error.hint:
        click.echo(f"{click.style('Hint:', fg='yellow')}  {error.hint}", err=True)
    sys.exit(error.exit_code)


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Shows a warning; one of Shoal's own without the line of code that it came from."""
    text = warnings.formatwarning(message, category, filename, lineno, line).rstrip()
    if Path(__file__).parents[1] in Path(filename).parents:
        text = f"{click.style('Warning:', fg='yellow')} {message}"
    click.echo(text, file=file, err=True)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; an interrupt ends it with 130."""
    # A supervisor's SIGTERM ends a run as Ctrl-C does: between commits.
    signal.signal(signal.SIGTERM, _interrupt)
    warnings.showwarning = _warn
    try:
        cli.main(args=None if arguments is None else list(arguments), standalone_mode=False)
    except click.exceptions.Abort:
        click.echo(
            "\nInterrupted. Every table is at a whole version; run again to go on.", err=True
        )
        sys.exit(130)
    except KeyboardInterrupt:
        click.echo(
            "\nInterrupted. Every table is at a whole version; run again to go on.", err=True
        )
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader (head, less) went away: nothing is wrong, and nothing can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


from shoal.cli import (  # noqa: E402  (they register commands)
    bundle,  # noqa: F401
    deploy,  # noqa: F401
    describe,  # noqa: F401
    engines,  # noqa: F401
    events,  # noqa: F401
    lake,  # noqa: F401
    lifecycle,  # noqa: F401
    lineage,  # noqa: F401
    maintain,  # noqa: F401
    models,  # noqa: F401
    monitor,  # noqa: F401
    pipeline,  # noqa: F401
    project,  # noqa: F401
    rehearse,  # noqa: F401
    reproduce,  # noqa: F401
    schedule,  # noqa: F401
    serving,  # noqa: F401
    snapshot,  # noqa: F401
    track,  # noqa: F401
    transfer,  # noqa: F401
    ui,  # noqa: F401
)
