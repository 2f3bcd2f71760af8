"""Who may look and who may change, and what a browser may do with a page.

Without tokens the workspace is for whoever sits at this machine: it answers loopback names only, so
that no other site's name can be pointed at it. With tokens, one is given once and becomes a signed
cookie. Each change needs the token of the page that it was made on (CSRF) and a request from this
very site.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from shoal.serving import Tokens

__all__ = ["HEADERS", "LOOPBACK", "Access", "Guard", "Role", "Visitor", "fresh_token"]

Role = Literal["viewer", "editor"]
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

_HOURS = 12 * 3600
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


def fresh_token() -> str:
    """A token that no one can guess."""
    return "shoal_" + secrets.token_urlsafe(32)


@dataclass(frozen=True, kw_only=True)
class Visitor:
    """Who asks.

    Args:
        role: ``viewer`` or ``editor``.
        name: For the person.
        session: Of one browser.
        csrf: What its forms carry.
    """

    role: Role
    name: str
    session: str
    csrf: str

    @property
    def edits(self) -> bool:
        """Whether the visitor may change anything."""
        return self.role == "editor"


@dataclass(frozen=True, kw_only=True)
class Access:
    """The rules of one server.

    Args:
        role: Role of a visitor without a token; None asks for one.
        tokens: Token to role, for this start of the server only.
        file: A file of tokens as ``shoal token`` writes it: ``read`` views, ``admin`` edits.
        hosts: Names that the server answers to; empty answers to all.
        cookie: Name of the cookie.
    """

    role: Role | None = "editor"
    tokens: Mapping[str, Role] = field(default_factory=dict)
    file: Tokens | None = None
    hosts: frozenset[str] = LOOPBACK
    cookie: str = "shoal"
    key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def sign(self, text: str) -> str:
        """An unforgeable mark of a text."""
        return hmac.new(self.key, text.encode(), hashlib.sha256).hexdigest()

    def known(self, token: str) -> tuple[Role, str] | None:
        """Role and name of a token; None for an unknown one."""
        from shoal.serving.answers import Refused

        given = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        found: Role | None = None
        for known, role in self.tokens.items():  # all are compared: how long it takes tells nothing
            if hmac.compare_digest(hashlib.sha256(known.encode()).digest(), given):
                found = role
        if found is not None:
            return found, found
        if self.file is not None:
            roles: tuple[tuple[str, Role], ...] = (("admin", "editor"), ("read", "viewer"))
            for scope, role in roles:
                try:
                    return role, self.file.check(f"Bearer {token}", scope)
                except Refused:
                    continue
        return None

    def cookie_of(self, role: Role, name: str) -> str:
        """A new session's cookie."""
        until = int(time.time()) + _HOURS
        shown = base64.urlsafe_b64encode(name.encode()).decode()
        text = f"{role}.{shown}.{secrets.token_urlsafe(18)}.{until}"
        return f"{text}.{self.sign(text)}"

    def visitor(self, cookie: str) -> Visitor | None:
        """Whose cookie it is; None for a forged or old one."""
        text, _, mark = cookie.rpartition(".")
        parts = text.split(".")
        if len(parts) != 4 or not hmac.compare_digest(mark.encode(), self.sign(text).encode()):
            return None
        if int(parts[3]) < time.time():
            return None
        return self._visitor("editor" if parts[0] == "editor" else "viewer", parts[1], text)

    def _visitor(self, role: Role, shown: str, text: str) -> Visitor:
        name = base64.urlsafe_b64decode(shown).decode()
        return Visitor(role=role, name=name, session=text, csrf=self.sign(f"csrf:{text}")[:40])

    def bearer(self, header: str) -> Visitor | None:
        """Whose token an ``Authorization`` header brings."""
        kind, _, token = header.partition(" ")
        found = self.known(token.strip()) if kind.lower() == "bearer" else None
        if found is None:
            return None
        role, name = found
        return Visitor(role=role, name=name, session="", csrf="")


class Guard:
    """Lets requests pass to the application, or sends them to the door.

    Args:
        app: The application.
        access: The rules.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Takes one request."""
        if scope["type"] != "http":
            return
        from starlette.requests import Request

        request = Request(scope, receive)
        fresh: str | None = None
        refused = self._misdirected(request)
        visitor: Visitor | None = None
        if refused is None:
            visitor, fresh = self._visitor(request)
            if visitor is None and not _public(request):
                refused = _door(request)
        scope.setdefault("state", {})["visitor"] = visitor
        scope["state"]["access"] = self._access

        async def headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(k.encode(), v.encode()) for k, v in HEADERS.items()]
                if not request.url.path.startswith("/static/"):
                    headers.append((b"cache-control", b"no-store"))
                if fresh is not None:
                    headers.append((b"set-cookie", self._set(fresh, request).encode()))
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        await (refused or self._app)(scope, receive, headed)

    def _visitor(self, request: Request) -> tuple[Visitor | None, str | None]:
        access = self._access
        if header := request.headers.get("authorization"):
            return access.bearer(header), None
        known = access.visitor(request.cookies.get(access.cookie, ""))
        if known is not None:
            return known, None
        if access.role is not None:
            made = access.cookie_of(access.role, access.role)
            return access.visitor(made), made
        return None, None

    def _set(self, value: str, request: Request) -> str:
        secure = "; Secure" if request.url.scheme == "https" else ""
        name = self._access.cookie
        return f"{name}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={_HOURS}{secure}"

    def _misdirected(self, request: Request) -> ASGIApp | None:
        """A request for another name, or from another site."""
        from starlette.responses import PlainTextResponse

        host = request.headers.get("host", "")
        name = (urlsplit(f"//{host}").hostname or "") if _plain(host) else ""
        if self._access.hosts and name not in self._access.hosts:
            return PlainTextResponse("This workspace does not answer to that name.", 421)
        if request.method in {"GET", "HEAD"}:
            return None
        origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
        foreign = origin is not None and urlsplit(origin).netloc != host
        if foreign or site not in {None, "same-origin", "none"}:
            return PlainTextResponse("This request comes from another site.", 403)
        return None


def _plain(host: str) -> bool:
    return all(c.isalnum() or c in ".-:[]" for c in host)


def _public(request: Request) -> bool:
    return request.url.path in {"/login", "/health"} or request.url.path.startswith("/static/")


def _door(request: Request) -> ASGIApp:
    """Where one without a session is sent."""
    from urllib.parse import quote

    from starlette.responses import PlainTextResponse, RedirectResponse

    page = request.method == "GET" and "text/html" in request.headers.get("accept", "")
    if not page or "authorization" in request.headers:
        return PlainTextResponse("This workspace wants a token.", 401)
    back = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(f"/login?next={quote(back, safe='')}", 303)
