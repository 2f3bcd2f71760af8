"""Home: what ran, what is stale, what is failing, and what to do next."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from shoal.ui.drift import drift_of
from shoal.ui.fleetdata import FleetInfo, all_fleets, segments
from shoal.ui.page import number, render
from shoal.ui.routes import Missing, Router
from shoal.ui.rundata import past_runs
from shoal.ui.tabledata import all_quality

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from shoal.ui.desk import Desk

__all__ = ["Step", "add_home"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """Something to do.

    Args:
        title: What.
        why: Because of what.
        state: ``bad``, ``warn`` or ``info``.
        command: The command that does it.
        href: Where to look.
        look: What the link says.
        start: Fields of a form that starts it here.
    """

    title: str
    why: str
    state: str = "info"
    command: str = ""
    href: str = ""
    look: str = ""
    start: tuple[tuple[str, str], ...] = ()


def add_home(router: Router) -> None:
    """Adds the routes of the first page."""
    router.page("/", _home)
    router.page("/find", _find)
    router.page("/api/names", _names)


def _home(desk: Desk, request: Request) -> Response:
    tables, runs, fleets = desk.summaries(), past_runs(desk), all_fleets(desk)
    today = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    recent = [run for run in runs if run.started >= today]
    own = [table for table in tables if not table.name.startswith("shoal.")]
    healths = [(info, _counts(desk, info)) for info in fleets]
    numbers = {
        "tables": len(own),
        "rows": sum(table.rows for table in own),
        "bytes": sum(table.bytes for table in own),
        "fleets": len(fleets),
        "segments": sum(sum(counts.values()) for _, counts in healths),
        "runs": len(recent),
        "broken": sum(1 for run in recent if run.state != "good"),
    }
    broken = [one for one in all_quality(desk) if one["last"]["failed"]]
    steps = [
        *_run_steps(runs),
        *_first_training(desk, runs),
        *_fleet_steps(desk, healths),
        *_table_steps(desk, [table.name for table in own]),
        *_quality_steps(broken),
    ]
    return render(
        request, desk, "home.html", page="home", title="Home", numbers=numbers, runs=runs[:6],
        steps=steps, broken=broken[:6], healths=healths,
        failing=[(run, runs[0]) for run in runs[:1] if run.errors],
    )  # fmt: skip


def _counts(desk: Desk, info: FleetInfo) -> dict[str, int]:
    if info.champion is None:
        return {}
    try:
        measure = info.metric if info.metric in info.measures else next(iter(info.measures))
        found = segments(desk, info, measure, info.champion, None)
    except Missing:
        return {}
    return dict(found.frame.group_by("status").len().iter_rows())


def _run_steps(runs: list[Any]) -> list[Step]:
    run = (("kind", "run"),)
    if not runs:
        return [
            Step(
                title="Run the project for the first time",
                why="No run has left an event yet.",
                command="shoal run",
                start=run,
            )
        ]
    last = runs[0]
    if last.errors:
        names = ", ".join(sorted({name for name, _ in last.errors if name})) or "the run"
        return [
            Step(
                title=f"Mend {names}",
                why=last.errors[0][1].splitlines()[0],
                state="bad",
                command="shoal events --run last --level ERROR",
                href=f"/runs/{last.id}",
                look="The run",
                start=run,
            )
        ]
    if last.status in {"killed", "interrupted"}:
        return [
            Step(
                title="Go on with the last run",
                why=f"It was {last.status}; every table is at a whole version.",
                state="warn",
                command="shoal run",
                start=run,
            )
        ]
    return []


def _first_training(desk: Desk, runs: list[Any]) -> list[Step]:
    """Where tables are there, and models are declared of which none was ever trained."""
    files = desk.space.project.models()
    if not runs or not files or desk.pointers():
        return []
    names = ", ".join(file.path.name for file in files[:3])
    return [
        Step(
            title="Train the models for the first time",
            why=f"Models are declared in {names}, and none is registered.",
            command="shoal train",
            start=(("kind", "train"),),
        )
    ]


def _table_steps(desk: Desk, names: list[str]) -> list[Step]:
    """Tables with an open alarm."""
    from shoal.workspace.watch import table_key

    steps, there = [], set(desk.names())
    for name in names:
        key = table_key(name)
        drift = drift_of(desk, key) if f"shoal.drift_{key}" in there else None
        if drift is not None and drift.alarms:
            columns = sorted({str(one["column"]) for one in drift.worst if one["alarm"]})
            steps.append(
                Step(
                    title=f"{name} drifts",
                    why=f"{drift.alarms:,} alarms are open: {', '.join(columns[:5])}.",
                    state="warn",
                    command=f"shoal monitor {name}",
                    href=f"/catalog/{quote(name)}?tab=profile",
                    look="Its columns",
                )
            )
    return steps


def _fleet_steps(desk: Desk, healths: list[tuple[FleetInfo, dict[str, int]]]) -> list[Step]:
    steps = []
    for info, counts in healths:
        page = f"/fleets/{quote(info.name)}"
        if failed := counts.get("failed", 0):
            steps.append(
                Step(
                    title=f"Look at {failed:,} failed segments of {info.name}",
                    why="They have no model, and no fallback stands in for them.",
                    state="bad",
                    command=f"shoal train {info.name} --failed",
                    href=f"{page}?status=failed",
                    look="The segments",
                    start=(("kind", "train"), ("model", info.name), ("failed", "1")),
                )
            )
        drift = drift_of(desk, info.name)
        if drift is not None and drift.alarms:
            steps.append(
                Step(
                    title=f"{drift.alarms:,} alarms are open in {info.name}",
                    why=f"{drift.segments:,} segments drift or predict worse than promised.",
                    state="bad",
                    command=f"shoal monitor {info.name} --retrain",
                    href=page,
                    look="The segments",
                    start=(("kind", "monitor"), ("model", info.name), ("retrain", "1")),
                )
            )
        if info.challenger and info.champion:
            steps.append(_challenge(desk, info, page))
    return steps


def _challenge(desk: Desk, info: FleetInfo, page: str) -> Step:
    """What to do with a challenger: compare it, or promote what it won."""
    assert info.challenger is not None
    assert info.champion is not None
    found = segments(desk, info, info.metric, info.challenger, info.champion)
    verdicts = dict(found.frame.group_by("verdict").len().iter_rows())
    told = sum(count for verdict, count in verdicts.items() if verdict)
    if not told:
        return Step(
            title=f"Compare the challenger of {info.name} with its champion",
            why=f"Version {info.challenger} was trained, and no evaluation compares it with "
            f"version {info.champion}.",
            command=f"shoal evaluate {info.name}",
            href=page,
            look="The fleet",
            start=(("kind", "evaluate"), ("model", info.name)),
        )
    won, lost = verdicts.get("won", 0), verdicts.get("lost", 0)
    return Step(
        title=f"Decide on the challenger of {info.name}",
        why=f"Version {info.challenger} won {number(won)} of {number(told)} segments and lost "
        f"{number(lost)} against version {info.champion}.",
        command=f"shoal promote {info.name} --segments won",
        href=f"{page}?verdict=won&sort=change",
        look="The evidence",
    )


def _quality_steps(broken: list[dict[str, Any]]) -> list[Step]:
    return [
        Step(
            title=f"Look at {one['table']}: {one['name']}",
            why=f"{one['last']['failed']:,} of {one['last']['failed'] + one['last']['passed']:,} "
            f"rows broke it in the last run ({one['condition']}).",
            state="bad" if one["action"] == "fail" else "warn",
            command=f"shoal quality {one['table']}",
            href=f"/catalog/{quote(one['table'])}?tab=quality",
            look="Its quality",
        )
        for one in broken[:4]
    ]


def _known(desk: Desk) -> dict[str, str]:
    """What can be found by name, and where it is."""
    found = {name: f"/catalog/{quote(name)}" for name in desk.names()}
    return found | {name: f"/fleets/{quote(name)}" for name in desk.pointers()}


def _names(desk: Desk, request: Request) -> Response:
    from starlette.responses import JSONResponse

    _ = request
    return JSONResponse(sorted(_known(desk)))


def _find(desk: Desk, request: Request) -> Response:
    from starlette.responses import RedirectResponse

    from shoal.errors import nearest

    wanted, known = request.query_params.get("q", "").strip(), _known(desk)
    if wanted in known:
        return RedirectResponse(known[wanted], 303)
    near = [name for name in known if wanted.lower() in name.lower()]
    if len(near) == 1:
        return RedirectResponse(known[near[0]], 303)
    if not near and (close := nearest(wanted, known)):
        near = [close]
    segments_of = [f"/fleets/{quote(info.name)}?q={quote(wanted)}" for info in all_fleets(desk)]
    found = [(name, known[name]) for name in sorted(near)]
    found += [(f"segments of {href.split('/')[2].split('?')[0]}", href) for href in segments_of]
    return render(request, desk, "find.html", title="Found", wanted=wanted, found=found)
