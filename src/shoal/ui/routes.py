"""Handlers become routes: pages that look, actions that change, and errors as pages."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from shoal.errors import (
    ModelError,
    ProjectError,
    RetryableError,
    ShoalError,
    TableNotFound,
    TrackingError,
)
from shoal.ui.page import render

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    from shoal.ui.desk import Desk

__all__ = ["Form", "Missing", "Router", "whole"]

_LONGEST = 16 << 20  # a form may name 100,000 segments


class Missing(ShoalError):
    """What an address names does not exist."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a form sent.

    Args:
        one: The last value of each field.
        many: All values of each field.
    """

    one: Mapping[str, str]
    many: Mapping[str, list[str]]


Page: TypeAlias = "Callable[[Desk, Request], Response]"
Action: TypeAlias = "Callable[[Desk, Request, Form], Response]"


class Router:
    """Collects routes of one desk.

    Args:
        desk: What handlers read.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.routes: list[Route] = []

    def page(self, path: str, handler: Page) -> None:
        """A page, or a part of one: it changes nothing."""
        from starlette.concurrency import run_in_threadpool
        from starlette.routing import Route

        async def answer(request: Request) -> Response:
            return await run_in_threadpool(self._guarded, handler, request)

        self.routes.append(Route(path, answer, methods=["GET"], name=path))

    def action(self, path: str, handler: Action, *, role: str = "editor") -> None:
        """A change: asks for the role, and for the token of the page that it was made on."""
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import PlainTextResponse
        from starlette.routing import Route

        async def answer(request: Request) -> Response:
            visitor = request.state.visitor
            if visitor is None:
                return PlainTextResponse("This workspace wants a token.", 401)
            length = request.headers.get("content-length", "")
            if not length.isdigit() or int(length) > _LONGEST:
                return PlainTextResponse("The form is too long, or does not say how long.", 413)
            async with request.form(max_fields=200_000) as sent:
                many: dict[str, list[str]] = {}
                for name, value in sent.multi_items():
                    many.setdefault(name, []).append(str(value))
            form = Form(one={name: values[-1] for name, values in many.items()}, many=many)
            given = request.headers.get("x-csrf-token") or form.one.get("csrf", "")
            # A bearer of a token is no browser that another site could make ask.
            if visitor.session and not hmac.compare_digest(given.encode(), visitor.csrf.encode()):
                return PlainTextResponse("The page is too old; load it again.", 403)
            if role == "editor" and not visitor.edits:
                return PlainTextResponse("A viewer may not change anything.", 403)
            try:
                return await run_in_threadpool(self._guarded, handler, request, form)
            finally:
                self.desk.changed()

        self.routes.append(Route(path, answer, methods=["POST"], name=path))

    def _guarded(self, handler: Callable[..., Response], request: Request, *more: Any) -> Response:
        try:
            if self.desk.waiting and "text/html" in request.headers.get("accept", ""):
                return render(request, self.desk, "waiting.html", status=202, title="Starting")
            return handler(self.desk, request, *more)
        except ShoalError as error:
            return failed(self.desk, request, error)


def failed(desk: Desk, request: Request, error: ShoalError) -> Response:
    """An error as a page, or as a part where only a part was asked for."""
    from starlette.responses import JSONResponse

    missing = isinstance(error, TableNotFound | Missing | TrackingError)
    status = 404 if missing else 503 if isinstance(error, RetryableError) else 400
    if request.url.path.startswith("/api/"):
        return JSONResponse({"error": error.message, "hint": error.hint}, status)
    template = "part_error.html" if request.url.path.startswith("/part/") else "error.html"
    return render(
        request,
        desk,
        template,
        status=status,
        title="Not found" if missing else "That did not work",
        error=error,
        mendable=isinstance(error, ProjectError | ModelError),
    )


def whole(text: str | None, fallback: int, *, low: int = 0, high: int = 2**53) -> int:
    """A whole number of a query, within bounds; the fallback for anything else."""
    try:
        return min(max(int(text or ""), low), high)
    except ValueError:
        return fallback
