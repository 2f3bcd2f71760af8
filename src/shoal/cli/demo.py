"""``shoal demo``: the whole way from raw files to a REST answer, on real flights."""

from __future__ import annotations

import contextlib
import json
import math
import re
import runpy
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.cli import show
from shoal.cli.project import write_template
from shoal.errors import ShoalError

if TYPE_CHECKING:
    from shoal.workspace import RunReport, Workspace

__all__ = ["run_demo"]

_FIRST, _NEXT = list(range(1, 12)), [12]


class _Steps:
    """What was done and how long it took."""

    def __init__(self, *, quiet: bool) -> None:
        self.rows: list[tuple[str, str, float]] = []
        self.quiet = quiet

    def say(self, text: str) -> None:
        if not self.quiet:
            show.console().print(f"\n[bold cyan]▸[/] [bold]{text}[/]")

    def add(self, what: str, result: str, seconds: float) -> None:
        self.rows.append((what, result, seconds))


def run_demo(folder: Path, *, storage: str | None = None, as_json: bool) -> None:
    """Writes the flights project into a new folder and works with it as a user would.

    Args:
        folder: The new folder.
        storage: Root of the lake, a folder or the URL of an object store; None means ``lake``.
        as_json: Print the results as JSON instead of tables.

    Raises:
        ProjectError: The folder is not empty.
    """
    from shoal.workspace import Workspace

    steps = _Steps(quiet=as_json)
    begun = time.perf_counter()
    write_template("flights", folder, "flights", storage)
    land = runpy.run_path(str(folder / "land.py"))["land"]

    steps.say("Raw files land: eleven months of flights, one JSON-lines file a day")
    took, count = _timed(lambda: land(folder / "landing", _FIRST))
    steps.add("land raw files", f"{count:,} flights in {_files(folder):,} files", took)

    with show.watching(quiet=as_json) as event, Workspace.open(folder, on_event=event) as space:
        steps.say("shoal run: bronze → silver → gold, train, track, register, score")
        took, first = _timed(lambda: space.run(space.options()))
        _report(first, steps, "first run", took, as_json=as_json)

        steps.say("Another month lands, and shoal run takes only what is new")
        before = _files(folder)
        took, count = _timed(lambda: land(folder / "landing", _NEXT))
        steps.add("land December", f"{count:,} flights in {_files(folder) - before} files", took)
        took, second = _timed(lambda: space.run(space.options()))
        _report(second, steps, "second run", took, as_json=as_json)

        took, third = _timed(lambda: space.run(space.options()))
        idle = all(table.status == "unchanged" for table in third.tables)
        steps.add("run again", "nothing new, nothing written" if idle else "changed!", took)
        failed = first.failed or second.failed or third.failed

        asked = None
        if not failed:
            steps.say("shoal serve: the same prediction over REST as in the table")
            took, asked = _timed(lambda: _ask(space, folder))
            steps.add(
                "serve and ask", "REST and table agree" if asked["agree"] else "differ!", took
            )
    total = time.perf_counter() - begun
    if as_json:
        value = {
            "folder": str(folder),
            "steps": [
                dict(zip(("step", "result", "seconds"), row, strict=True)) for row in steps.rows
            ],
            "first": first.as_json(),
            "second": second.as_json(),
            "rest": asked,
            "seconds": total,
        }
        show.print_json(value)
    else:
        _summary(folder, steps, second, asked, total)
    if failed or (asked is not None and not asked["agree"]):
        raise ShoalError("The demo did not end as it should; see above.")


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def _files(folder: Path) -> int:
    return sum(1 for path in (folder / "landing").rglob("*") if path.is_file())


def _report(report: RunReport, steps: _Steps, title: str, took: float, *, as_json: bool) -> None:
    if not as_json:
        show.run(report)
    read = sum(table.files for table in report.tables if table.table.startswith("bronze."))
    dropped = sum(table.dropped for table in report.tables)
    tables = sum(table.status == "refreshed" for table in report.tables)
    seconds = sum(model.seconds for model in report.models)
    fitted = sum(int(model.metrics.get("segments_ok", 0)) for model in report.models)
    others = sum(int(model.metrics.get("segments_fallback", 0)) for model in report.models)
    scored = sum(score.rows for score in report.scores)
    scoring = sum(score.seconds for score in report.scores)
    steps.add(
        f"{title}: tables",
        f"{tables} refreshed from {read:,} new files; expectations dropped {dropped:,} rows",
        took - seconds - scoring,
    )
    models = f"{fitted:,} models fitted, tracked and registered; {others:,} segments fall back"
    steps.add(f"{title}: train", models, seconds)
    steps.add(f"{title}: score", f"{scored:,} predictions", scoring)


@contextlib.contextmanager
def _served(folder: Path) -> Iterator[str]:
    """``shoal serve delay`` in a process of its own, on a free port; gives its URL."""
    command = [sys.executable, "-m", "shoal.cli", "serve", "delay"]
    process = subprocess.Popen(  # noqa: S603  (our own command, no shell)
        [*command, "--project", str(folder), "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if found := re.search(r"Serving at (\S+)", line):
                yield found[1]
                return
        raise ShoalError("The server ended before it was ready.", hint=" ".join(command))
    finally:
        process.terminate()
        process.wait(30)


def _ask(space: Workspace, folder: Path) -> dict[str, Any]:
    """One flight of December: what REST answers, and what the predictions table says."""
    predictions = space.sql(
        "SELECT f.*, p.prediction, p.model_version FROM gold.delay_predictions AS p "
        "JOIN gold.delay_features AS f ON f.flight_id = p.flight_id "
        "WHERE f.date = DATE '2013-12-20' AND f.carrier = 'UA' AND f.dest = 'ORD' "
        "ORDER BY f.flight_id LIMIT 1"
    ).to_pylist()[0]
    stored, version = predictions.pop("prediction"), predictions.pop("model_version")
    flight = {name: _plain(value) for name, value in predictions.items() if name != "arr_delay"}
    body = json.dumps({"dataframe_records": [flight]}).encode()
    with _served(folder) as url:
        request = urllib.request.Request(  # noqa: S310  (our own server, just started)
            f"{url}/invocations", data=body, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            text, model = json.load(answer), answer.headers["shoal-model"]
    value = text["predictions"][0]
    return {
        "url": f"{url}/invocations",
        "flight": flight,
        "answer": text,
        "model": model,
        "table": stored,
        # The same model on one row and on a batch of rows: BLAS may add in another order.
        "agree": model == f"delay/{version}" and math.isclose(value, stored, rel_tol=1e-9),
        "actual": predictions["arr_delay"],
    }


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | None) else str(value)


def _summary(
    folder: Path, steps: _Steps, report: RunReport, asked: dict[str, Any] | None, total: float
) -> None:
    out = show.console()
    table = show.grid("\nWhat was done", "step", "result", "time", right=["time"])
    for what, result, took in steps.rows:
        table.add_row(what, result, show.seconds(took))
    table.add_section()
    table.add_row("[bold]all[/]", "", f"[bold]{show.seconds(total)}[/]")
    out.print(table)

    right = ["error", "baseline", "better by"]
    table = show.grid(
        "Mean absolute error, minutes (held-out flights)", "model", *right, right=right
    )
    for model in report.models:
        error, baseline = model.metrics["mae"], model.metrics["baseline_mae"]
        share = f"{1 - error / baseline:.0%}"
        table.add_row(model.model, show.figure(error), show.figure(baseline), share)
    out.print(table)

    if asked is not None:
        flight = asked["flight"]
        out.print(f"\n[bold]Ask over REST[/]   POST {asked['url']}")
        out.print(
            f"  flight {flight['flight_id']} {flight['origin']} → {flight['dest']} on "
            f"{flight['date']}",
            highlight=False,
        )
        answer = json.dumps(asked["answer"])
        out.print(f"  answer             {answer}   [dim](model {asked['model']})[/]")
        out.print(
            f"  predictions table  {asked['table']!r}   [dim](it really came "
            f"{asked['actual']:+.0f} min)[/]\n"
        )
    out.print("[bold]Next[/]")
    out.print(f"  cd {folder}")
    out.print(
        '  shoal sql "SELECT status, count(*) AS members FROM shoal.fleet_delay GROUP BY status"'
    )
    out.print("  shoal serve delay")
