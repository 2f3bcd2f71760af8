"""Plain requests answered at once: without a thread, tables or a router.

A plain request for members that are lines costs less to predict than to hand to another thread.
uvicorn's protocol asks here before it starts the application (`shoal.serving.connection`), and the
application asks again for what came in pieces.
"""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from shoal.serving.answers import Refused
from shoal.serving.plain import PlainReader
from shoal.serving.traffic import TAG

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from shoal.serving.metrics import Metrics
    from shoal.serving.models import ServedModels
    from shoal.serving.served import ServedModel
    from shoal.serving.tokens import Tokens

__all__ = ["USUAL", "Quick"]

USUAL = "shoal.usual"  # of a request that is known to need the usual way

_MOST_BYTES = 256 * 1024


class _Asked(NamedTuple):
    model: ServedModel
    reader: PlainReader
    ident: bytes


class Quick:
    """Answers plain requests.

    Args:
        models: What is served.
        default: The model of ``/invocations``.
        metrics: Counts answers.
        tokens: Who may ask; None lets everyone.
        seconds: How long a body may take to arrive.
    """

    def __init__(
        self,
        *,
        models: ServedModels,
        default: str | None,
        metrics: Metrics,
        tokens: Tokens | None,
        seconds: float,
    ) -> None:
        self._models = models
        self._default = default
        self._metrics = metrics
        self._tokens = tokens
        self._seconds = seconds
        self._state: Mapping[str, Any] = {}
        self._paths: dict[str, tuple[ServedModel, PlainReader] | None] = {}
        self._readers: dict[int, tuple[ServedModel, PlainReader | None]] = {}
        self._prefix, self._count = uuid.uuid4().hex.encode(), itertools.count()

    def before(self, app: ASGIApp) -> ASGIApp:
        """The application, with this before it."""

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await self._answer(app, scope, receive, send)

        return answer

    async def _answer(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        found = self.asked(scope)
        if found is None:
            await app(scope, receive, send)
            return
        messages: list[Message] = []
        try:
            async with asyncio.timeout(self._seconds):
                while not messages or messages[-1].get("more_body"):
                    messages.append(await receive())
        except TimeoutError:
            await app(scope, _late, send)
            return
        reply = None
        if messages[-1]["type"] == "http.request":
            reply = self.reply(found, b"".join([m.get("body", b"") for m in messages]))
        if reply is None:
            await app(scope, _again(messages, receive), send)
            return
        headers, body = reply
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def asked(self, scope: Mapping[str, Any]) -> _Asked | None:
        """What a request asks, where it may be answered here."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["query_string"]:
            return None
        if USUAL in scope:
            return None
        found = self._path(scope["path"])
        if found is None:
            return None
        fields = dict(scope["headers"])
        if fields.get(b"content-type") != b"application/json" or b"content-encoding" in fields:
            return None
        size = fields.get(b"content-length", b"")
        if not size.isdigit() or int(size) > _MOST_BYTES:
            return None
        if self._tokens is not None:
            try:
                self._tokens.check(fields.get(b"authorization", b"").decode("latin-1"), "score")
            except Refused:
                return None
        ident = fields.get(b"x-request-id", b"")
        if not ident:
            ident = b"%b-%x" % (self._prefix, next(self._count))
        elif not (len(ident) <= 200 and ident.isascii() and ident.decode().isprintable()):
            return None
        return _Asked(*found, ident)

    def reply(
        self, asked: _Asked, body: bytes | bytearray
    ) -> tuple[list[tuple[bytes, bytes]], bytes] | None:
        """Headers and body of the answer; None for the usual way.

        Args:
            asked: What `asked` gave.
            body: The whole body.
        """
        begun = time.perf_counter()
        found = asked.reader.answer(body)
        if found is None:
            return None
        content, rows = found
        self._metrics.quick(asked.model, rows, time.perf_counter() - begun)
        headers = [
            (b"content-length", b"%d" % len(content)),
            (b"content-type", b"application/json"),
            (b"shoal-model", asked.reader.name),
            (b"x-request-id", asked.ident),
        ]
        return headers, content

    def _path(self, path: str) -> tuple[ServedModel, PlainReader] | None:
        """Who answers a path, found once for each state of the registry."""
        state = self._models.state
        if state is not self._state or len(self._paths) > 1_000:
            self._state, self._paths = state, {}
        try:
            return self._paths[path]
        except KeyError:
            found = self._paths[path] = self._find(path)
            return found

    def _find(self, path: str) -> tuple[ServedModel, PlainReader] | None:
        name = None
        if path == "/invocations":
            name = self._default
        elif path.startswith("/models/") and path.endswith("/invocations"):
            name = path[8:-12]
        if name is None:
            return None
        name, slash, number = name.partition("/")
        name, _, alias = name.partition("@")
        if slash and (alias or not (number.isascii() and number.isdigit())):
            return None
        version = int(number) if slash else None
        model = self._models.get(name, alias=alias or None, version=version)
        free = not alias and not slash
        if model is None or (free and TAG in self._models.tags(model.name)):
            return None
        known = self._readers.get(id(model))
        # A version that went away may leave its number to another.
        if known is None or known[0] is not model:
            if len(self._readers) > 1_000:
                self._readers = {}
            known = self._readers[id(model)] = (model, PlainReader.of(model))
        return None if known[1] is None else (model, known[1])


async def _late() -> Message:
    raise TimeoutError


def _again(messages: list[Message], receive: Receive) -> Receive:
    """What was received is received once more."""
    waiting = messages[::-1]

    async def next_message() -> Message:
        return waiting.pop() if waiting else await receive()

    return next_message
