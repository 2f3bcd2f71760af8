"""The web workspace as an application."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from shoal.ui.access import Access, Guard
from shoal.ui.catalog import add_catalog
from shoal.ui.endpoints import add_endpoints
from shoal.ui.fleets import add_fleets
from shoal.ui.home import add_home
from shoal.ui.lineage import add_lineage
from shoal.ui.page import STATIC, render
from shoal.ui.plan import add_plan
from shoal.ui.profile import add_profile
from shoal.ui.routes import Missing, Router, failed
from shoal.ui.runs import add_runs
from shoal.ui.segment import add_segment
from shoal.ui.serverdata import Servers
from shoal.ui.sql import add_sql

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from shoal.ui.desk import Desk

__all__ = ["create_ui"]


def create_ui(
    desk: Desk, access: Access, *, servers: Sequence[str] = ("http://127.0.0.1:5001",)
) -> Starlette:
    """Makes the application; `shoal.serving.serve` runs it.

    Args:
        desk: What its pages read.
        access: Who may look, and who may change.
        servers: Scoring servers whose figures are shown.

    Raises:
        RequestError: One of these is no server's address.
    """
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    router = Router(desk)
    for add in (add_home, add_catalog, add_profile, add_fleets, add_segment, add_plan, add_runs):
        add(router)
    add_lineage(router)
    add_sql(router)
    add_endpoints(router, Servers(tuple(servers)))

    async def login(request: Request) -> Response:
        return await _login(desk, request)

    async def health(_: Request) -> Response:
        return PlainTextResponse("ok")

    async def missing(request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 500)
        if request.method != "GET" or request.state.visitor is None or status != 404:
            return PlainTextResponse(str(getattr(error, "detail", error)), status)
        return failed(desk, request, Missing("There is no such page.", hint="Home shows the way."))

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/login", login, methods=["GET", "POST"]),
            Mount("/static", StaticFiles(directory=STATIC), name="static"),
            *router.routes,
        ],
        middleware=[Middleware(Guard, access=access)],
        exception_handlers={HTTPException: missing},
    )


async def _login(desk: Desk, request: Request) -> Response:
    """The door: a token becomes a cookie."""
    from starlette.responses import RedirectResponse

    access: Access = request.state.access
    given, wrong, back = request.query_params.get("token", ""), False, "/"
    back = request.query_params.get("next", "/")
    if request.method == "POST":
        async with request.form(max_fields=10) as sent:
            given, back = str(sent.get("token", "")), str(sent.get("next", "/"))
    if given:
        known = access.known(given.strip())
        if known is not None:
            here = back.startswith("/") and not back.startswith(("//", "/\\"))
            answer = RedirectResponse(back if here else "/", 303)
            answer.set_cookie(
                access.cookie,
                access.cookie_of(*known),
                httponly=True,
                samesite="strict",
                secure=request.url.scheme == "https",
                max_age=12 * 3600,
            )
            return answer
        wrong = True
    status = 401 if wrong else 200
    return render(
        request, desk, "login.html", status=status, title="Your token", wrong=wrong, next=back
    )
