"""What a run would do now and why, as a part that pages load."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from shoal.ui.page import render
from shoal.ui.routes import Router

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from shoal.ui.desk import Desk

__all__ = ["add_plan"]

_SECONDS = 5


def add_plan(router: Router) -> None:
    """Adds the plan's route."""
    router.page("/part/plan", _part)


def _part(desk: Desk, request: Request) -> Response:
    moment = int(time.monotonic() / _SECONDS)
    decisions, models, seconds = desk.cache.get("plan", moment, lambda: _plan(desk))
    due = [one for one in decisions if one.action != "none"]
    stale = [model for model in models if model.stale]
    return render(
        request, desk, "part_plan.html", decisions=decisions, models=models, due=due, stale=stale,
        short="short" in request.query_params, seconds=seconds,
    )  # fmt: skip


def _plan(desk: Desk) -> tuple[list[Any], list[Any], float]:
    begun = time.perf_counter()
    space = desk.graph_space()
    decisions, models = space.plan(space.options())
    return decisions, models, time.perf_counter() - begun
