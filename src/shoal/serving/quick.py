"""Small requests answered at once: without a thread, tables or a router.

A request of a few rows for members that are lines costs less to predict than to hand to another
thread. What is answered here, and to which bits, is what `create_app`'s own way answers; every
request that is unusual in any way, wrong ones among them, goes that way.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shoal.serving.answers import Refused
from shoal.serving.traffic import TAG

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from shoal.serving.metrics import Metrics
    from shoal.serving.models import ServedModels
    from shoal.serving.served import ServedModel
    from shoal.serving.tokens import Tokens

__all__ = ["Quick"]

_MOST_ROWS = 32
_MOST_BYTES = 65_536

Row = tuple[tuple[str, ...], list[float]]


class Quick:
    """Stands before the application.

    Args:
        app: Answers everything else.
        models: What is served.
        default: The model of ``/invocations``.
        metrics: Counts answers.
        tokens: Who may ask; None lets everyone.
        seconds: How long a body may take to arrive.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        models: ServedModels,
        default: str | None,
        metrics: Metrics,
        tokens: Tokens | None,
        seconds: float,
    ) -> None:
        self._app = app
        self._models = models
        self._default = default
        self._metrics = metrics
        self._tokens = tokens
        self._seconds = seconds
        self._readers: dict[int, tuple[ServedModel, _Reader | None]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers, or lets the application answer."""
        found = self._asked(scope)
        if found is None:
            await self._app(scope, receive, send)
            return
        model, reader, ident = found
        messages: list[Message] = []
        try:
            async with asyncio.timeout(self._seconds):
                while not messages or messages[-1].get("more_body"):
                    messages.append(await receive())
        except TimeoutError:
            await self._app(scope, _late, send)
            return
        begun = time.perf_counter()
        content = None
        if messages[-1]["type"] == "http.request":
            content = reader.answer(b"".join([m.get("body", b"") for m in messages]))
        if content is None:
            await self._app(scope, _again(messages, receive), send)
            return
        body, rows = content
        ident = ident or str(uuid.uuid4()).encode()
        headers = [
            (b"content-length", b"%d" % len(body)),
            (b"content-type", b"application/json"),
            (b"shoal-model", reader.name),
            (b"x-request-id", ident),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        self._metrics.quick(model, rows, time.perf_counter() - begun)

    def _asked(self, scope: Scope) -> tuple[ServedModel, _Reader, bytes] | None:
        """The version and reader of a request that may be answered here, and its id."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["query_string"]:
            return None
        path: str = scope["path"]
        if path == "/invocations":
            name = self._default
        elif path.startswith("/models/") and path.endswith("/invocations"):
            name = path[8:-12]
        else:
            return None
        model = None if name is None else self._models.get(name)
        if model is None or TAG in self._models.tags(model.name):
            return None
        fields = dict(scope["headers"])
        if fields.get(b"content-type") != b"application/json":
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
        if ident and not (len(ident) <= 200 and ident.isascii() and ident.decode().isprintable()):
            return None
        reader = self._reader(model)
        return None if reader is None else (model, reader, ident)

    def _reader(self, model: ServedModel) -> _Reader | None:
        known = self._readers.get(id(model))
        # A version that went away may leave its number to another.
        if known is None or known[0] is not model:
            if len(self._readers) > 1_000:
                self._readers = {}
            known = self._readers[id(model)] = (model, _Reader.of(model))
        return known[1]


class _Reader:
    """Reads and predicts requests of one version."""

    def __init__(self, model: ServedModel) -> None:
        header = model.fleet.header
        self.name = f"{model.name}/{model.version}".encode()
        self._predict = model.fleet.predict_few
        self._columns = list(model.inputs)
        self._by = list(header.by)
        self._features = [f.name for f in header.features]
        self._kinds: list[tuple[type, ...]] = [_KINDS[model.inputs[n]] for n in self._features]

    @classmethod
    def of(cls, model: ServedModel) -> _Reader | None:
        """A reader, where the version's columns are of the plain kinds."""
        header, inputs = model.fleet.header, model.inputs
        plain = all(inputs.get(f.name) in _KINDS for f in header.features)
        if header.classes is not None or not plain:
            return None
        if any(inputs.get(name) != "string" for name in header.by):
            return None
        return cls(model)

    def answer(self, body: bytes) -> tuple[bytes, int] | None:
        """The answer's bytes, and how many rows it has; None for the usual way."""
        import orjson

        try:
            request = orjson.loads(body)
        except orjson.JSONDecodeError:
            return None
        if type(request) is not dict or len(request) != 1:
            return None
        rows = self._rows(request)
        if not rows or len(rows) > _MOST_ROWS:
            return None
        keys, features = zip(*rows, strict=True)
        found = self._predict(keys, features)
        if found is None:
            return None
        return orjson.dumps({"predictions": found}), len(rows)

    def _rows(self, request: Mapping[str, Any]) -> list[Row] | None:
        """Keys and features of plain rows; None when anything about them is not plain."""
        ((shape, data),) = request.items()
        try:
            if shape == "dataframe_split":
                if set(data) != {"columns", "data"}:
                    return None
                columns, rows = data["columns"], data["data"]
                at = {name: i for i, name in enumerate(columns)}
                if len(at) != len(columns) or any(len(row) != len(at) for row in rows):
                    return None
                by: list[Any] = [at[n] for n in self._by]
                features: list[Any] = [at[n] for n in self._features]
            elif shape in ("dataframe_records", "instances"):
                rows, by, features = data, self._by, self._features
            else:
                return None
            if type(rows) is not list or len(rows) > _MOST_ROWS:
                return None
            return [self._row(row, by, features) for row in rows]
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):
            return None

    def _row(self, row: Any, by: list[Any], features: list[Any]) -> Row:
        key = tuple([row[i] for i in by])
        for text in key:
            if type(text) is not str:
                raise TypeError
        values = [row[i] for i in features]
        for value, kinds in zip(values, self._kinds, strict=True):
            if type(value) not in kinds:
                raise TypeError
        return key, values


# What a JSON value of each column may be; None is a missing number.
_KINDS: Mapping[str, tuple[type, ...]] = {
    "double": (float, int, type(None)),
    "long": (int,),
    "boolean": (bool,),
}


async def _late() -> Message:
    raise TimeoutError


def _again(messages: list[Message], receive: Receive) -> Receive:
    """What was received is received once more."""
    waiting = messages[::-1]

    async def next_message() -> Message:
        return waiting.pop() if waiting else await receive()

    return next_message
