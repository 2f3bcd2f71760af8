"""Runs: what works now, what worked, and starting it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from shoal.ui.chart import waterfall
from shoal.ui.jobs import KINDS, Jobs
from shoal.ui.mlflow import TrackingPages
from shoal.ui.page import render
from shoal.ui.progress import spans, stages
from shoal.ui.routes import Form, Missing, Router
from shoal.ui.rundata import past_runs, usual_seconds
from shoal.workspace.feeds import feeds, read_feed

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from shoal.ui.desk import Desk

__all__ = ["add_runs"]

_LOOK = 0.4  # seconds between two looks at a feed


def add_runs(router: Router) -> None:
    """Adds the routes of runs."""
    from starlette.routing import Route

    jobs, pages = Jobs(router.desk.space), TrackingPages(router.desk.space)
    made = _Runs(jobs, pages)
    router.page("/runs", made.index)
    router.page("/runs/live/{id}", made.live)
    router.page("/runs/mlflow", made.mlflow)
    router.page("/runs/{id}", made.past)
    router.action("/runs/start", made.start)
    router.action("/runs/mlflow", made.start_mlflow)
    router.action("/runs/live/{id}/stop", made.stop)

    async def follow(request: Request) -> Response:
        return await made.follow(router.desk, request)

    router.routes.append(Route("/api/runs/{id}/events", follow, methods=["GET"]))


class _Runs:
    def __init__(self, jobs: Jobs, pages: TrackingPages) -> None:
        self._jobs, self._pages = jobs, pages

    def index(self, desk: Desk, request: Request) -> Response:
        """All runs."""
        runs = past_runs(desk)
        lately = feeds(desk.space.project.here)[:20]
        trainings: list[Any] = []
        if desk.tracked():
            stamp = desk.tracking_stamp()
            trainings = desk.cache.get("trainings", stamp, lambda: desk.space.tracker.runs(30))
        return render(
            request, desk, "runs.html", page="runs", title="Runs", runs=runs[:60], lately=lately,
            trainings=trainings, models=sorted(desk.pointers()),
            declared=bool(desk.space.project.models()),
            tables=[name for name in desk.names() if not name.startswith("shoal.")],
            usual=_usual(runs), tracking=self._pages.where(),
        )  # fmt: skip

    def past(self, desk: Desk, request: Request) -> Response:
        """One run that ended."""
        wanted = request.path_params["id"]
        found = [run for run in past_runs(desk) if run.id.startswith(wanted)]
        if not found or len(wanted) < 4:
            raise Missing(f"No run has the id {wanted}.", hint="shoal events lists them.")
        run = found[0]
        chart = waterfall(run.spans, label=f"When each table of run {run.id[:8]} was refreshed")
        return render(
            request, desk, "run.html", page="runs", title=f"Run {run.id[:8]}", run=run, chart=chart
        )

    def live(self, desk: Desk, request: Request) -> Response:
        """One command, while it works and after."""
        name = request.path_params["id"]
        if read_feed(desk.space.project.here, name) is None and not self._jobs.known(name):
            raise Missing(f"There is no command {name}.")
        return render(
            request, desk, "live.html", page="runs", title=f"Run {name}", id=name,
            part=self._state(desk, request, name),
        )  # fmt: skip

    def _state(self, desk: Desk, request: Request, name: str) -> Any:
        """The part of a live page that changes."""
        from markupsafe import Markup

        feed = read_feed(desk.space.project.here, name)
        found = [] if feed is None else stages(feed, usual_seconds(desk))
        code = self._jobs.code(name)
        died = feed is None and code is not None
        whole = _usual(past_runs(desk)) if feed is not None and feed.command == "run" else None
        answer = render(
            request, desk, "part_live.html", feed=feed, stages=found, log=self._jobs.log(name),
            id=name, ours=self._jobs.ours(name), died=died, usual=whole,
            chart=waterfall(spans(found), label="When each part began") if found else "",
        )  # fmt: skip
        return Markup(bytes(answer.body).decode())  # noqa: S704  (a template's own output)

    async def follow(self, desk: Desk, request: Request) -> Response:
        """Server-sent events: the changing part of a live page, whenever it changes."""
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import StreamingResponse

        name = request.path_params["id"]

        async def events() -> AsyncIterator[str]:
            before = None
            while not await request.is_disconnected():
                part = await run_in_threadpool(self._state, desk, request, name)
                over = await run_in_threadpool(self._over, desk, name)
                if part != before or over:
                    yield f"event: part\ndata: {json.dumps(part)}\n\n"
                    before = part
                if over:
                    desk.changed()
                    yield "event: end\ndata: {}\n\n"
                    return
                await asyncio.sleep(_LOOK)

        return StreamingResponse(events(), media_type="text/event-stream")

    def _over(self, desk: Desk, name: str) -> bool:
        feed = read_feed(desk.space.project.here, name)
        return not self._jobs.ours(name) and (feed is None or not feed.running)

    def start(self, desk: Desk, request: Request, form: Form) -> Response:
        """Starts a command."""
        from starlette.responses import RedirectResponse

        _ = request
        kind = form.one.get("kind", "")
        if kind not in KINDS:
            raise Missing(f"There is no command '{kind}' to start.")
        names: list[str] = []
        if kind == "run":
            names = [desk.table(name).name for name in form.many.get("table", []) if name]
        elif kind == "monitor" and (table := form.one.get("table", "")):
            names = [desk.table(table).name]
        elif model := form.one.get("model", ""):
            if model not in desk.pointers() and model not in desk.models():
                raise Missing(f"There is no model '{model}'.")
            names = [model]
        flags = _flags(kind, form.one, names)
        name = self._jobs.start(kind, names, flags)
        return RedirectResponse(f"/runs/live/{name}", 303)

    def stop(self, desk: Desk, request: Request, form: Form) -> Response:
        """Ends a command between two commits."""
        from starlette.responses import RedirectResponse

        _ = desk, form
        name = request.path_params["id"]
        self._jobs.stop(name)
        return RedirectResponse(f"/runs/live/{name}", 303)

    def mlflow(self, desk: Desk, request: Request) -> Response:
        """MLflow's own pages."""
        return render(
            request, desk, "mlflow.html", page="runs", title="MLflow", tracking=self._pages.where()
        )

    def start_mlflow(self, desk: Desk, request: Request, form: Form) -> Response:
        """Starts MLflow's own pages beside this one."""
        from starlette.responses import RedirectResponse

        _ = desk, request, form
        self._pages.start()
        return RedirectResponse("/runs/mlflow", 303)


# What a page's box adds to a command.
_BOXES = {
    ("train", "failed"): "--failed",
    ("train", "all"): "--all",
    ("monitor", "retrain"): "--retrain",
    ("run", "continuous"): "--continuous",
}


def _flags(kind: str, given: Mapping[str, str], tables: list[str]) -> list[str]:
    """The flags of a command; none of a request's own words is among them."""
    flags = [flag for (of, box), flag in _BOXES.items() if of == kind and given.get(box) == "1"]
    if kind == "run" and given.get("full") == "1":
        flags += [f"--full-refresh={name}" for name in tables] or ["--full-refresh-all"]
    return flags


def _usual(runs: list[Any]) -> float | None:
    """How long a whole run took, the middle of the last five that were well."""
    took = sorted(run.seconds for run in runs[:20] if run.status == "completed")[:5]
    return took[len(took) // 2] if took else None
