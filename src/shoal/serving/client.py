"""A client of the scoring server."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias
from urllib.parse import quote, urlencode, urlsplit

from shoal.errors import RequestError, Unavailable

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa


__all__ = ["Client"]

_LONGEST = 30.0

Rows: TypeAlias = "pd.DataFrame | pl.DataFrame | pa.Table | Sequence[Mapping[str, Any]]"


class Client:
    """Asks a scoring server, over one open connection a thread.

    Example::

        with shoal.Client("http://127.0.0.1:5001", model="delay@champion") as client:
            client.predict([{"carrier": "UA", "dest": "IAH", "dep_delay": 3.0}])

    Args:
        url: Where the server is.
        model: ``delay``, ``delay@challenger`` or ``delay/3``; None means the server's default.
        token: An API token.
        timeout: Seconds to wait for an answer.
        retries: How often a request is sent again to a server that does not answer or says that
            it is too busy, each time after the pause that it asks for, or a longer one.
        context: TLS settings; the system's by default.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        token: str | None = None,
        timeout: float = 60.0,
        retries: int = 0,
        context: ssl.SSLContext | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise RequestError(f"'{url}' is no server.", hint="Write it like http://127.0.0.1:5001")
        self._parts, self._model, self._timeout, self._context = parts, model, timeout, context
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        self._retries = retries
        self._local = threading.local()
        self._open: list[http.client.HTTPConnection] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections of all threads."""
        while self._open:
            self._open.pop().close()

    def _drop(self) -> None:
        """Closes this thread's connection."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None
            with contextlib.suppress(ValueError):
                self._open.remove(connection)

    def predict(self, rows: Rows, *, interval: bool = False) -> list[Any]:
        """Predictions in the order of the rows; None where there is none.

        Args:
            rows: A data frame of pandas or Polars, an Arrow table, or a list of mappings.
            interval: Also ask for prediction intervals: each prediction is then a mapping with
                ``prediction``, ``prediction_lower`` and ``prediction_upper``.

        Raises:
            RequestError: The server refused the request; the message is the server's.
            Unavailable: The server does not answer, or is too busy.
        """
        answer: list[Any] = self._ask("POST", self._path(), _split(rows, interval=interval))[
            "predictions"
        ]
        return answer

    def explain(self, rows: Rows, *, interval: bool = False) -> list[dict[str, Any]]:
        """For each row its ``prediction``, ``segment``, ``model_used`` and ``fallback``."""
        body = _split(rows, interval=interval)
        found = self._ask("POST", self._path(explain="true"), body)
        names = {"predictions": "prediction"}
        return [
            dict(zip([names.get(name, name) for name in found], values, strict=True))
            for values in zip(*found.values(), strict=True)
        ]

    def models(self) -> list[dict[str, Any]]:
        """What the server serves."""
        found: list[dict[str, Any]] = self._ask("GET", "/models")
        return found

    def _path(self, **query: str) -> str:
        where = ""
        if self._model is not None:
            name, slash, version = self._model.partition("/")
            where = f"/models/{quote(name, safe='@')}{slash}{quote(version, safe='')}"
        return f"{where}/invocations" + (f"?{urlencode(query)}" if query else "")

    def _ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        for attempt in range(self._retries):
            try:
                return self._ask_once(method, path, body)
            except Unavailable:
                time.sleep(min(_LONGEST, max(0.1 * 2**attempt, self._local.pause)))
        return self._ask_once(method, path, body)

    def _ask_once(self, method: str, path: str, body: bytes | None) -> Any:
        self._local.pause = 0.0
        headers = {**self._headers, "content-type": "application/json"}
        try:
            status, content = self._send(method, path, body, headers)
        except (OSError, http.client.HTTPException) as error:
            self._drop()
            raise Unavailable(
                f"{self._parts.netloc} does not answer: {error or type(error).__name__}."
            ) from error
        try:
            found = json.loads(content)
        except ValueError as error:
            raise Unavailable(f"{self._parts.netloc} is no scoring server.") from error
        if status in (429, 503):
            raise Unavailable(f"{self._parts.netloc}: {found.get('message', status)}")
        if status != 200:
            raise RequestError(f"{self._parts.netloc}: {found.get('message', status)}")
        return found

    def _send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes]:
        connection = getattr(self._local, "connection", None)
        fresh = connection is None
        if connection is None:
            connection = self._local.connection = self._connect()
            self._open.append(connection)
        try:
            connection.request(method, self._parts.path.rstrip("/") + path, body, dict(headers))
            answer = connection.getresponse()
            wait = answer.getheader("retry-after", "")
            self._local.pause = float(wait) if wait.isdigit() else 0.0
            return answer.status, answer.read()
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            if fresh:
                raise
            self._drop()  # an idle connection that the server closed meanwhile
            return self._send(method, path, body, headers)

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "https":
            return http.client.HTTPSConnection(
                host, port, timeout=self._timeout, context=self._context
            )
        return http.client.HTTPConnection(host, port, timeout=self._timeout)


def _split(rows: Rows, *, interval: bool = False) -> bytes:
    """A body of ``dataframe_split``."""
    import orjson

    columns, data = _columns(rows)
    content: dict[str, Any] = {"dataframe_split": {"columns": columns, "data": data}}
    if interval:
        content["params"] = {"interval": True}
    return orjson.dumps(content, default=str, option=orjson.OPT_SERIALIZE_NUMPY)


def _columns(rows: Any) -> tuple[list[str], list[list[Any]]]:
    if hasattr(rows, "column_names"):  # Arrow
        columns = [column.to_pylist() for column in rows.columns]
        return list(rows.column_names), [list(row) for row in zip(*columns, strict=True)]
    if hasattr(rows, "rows"):  # Polars
        return list(rows.columns), [list(row) for row in rows.rows()]
    if hasattr(rows, "columns"):  # pandas
        clean = rows.astype(object).where(rows.notna(), None)
        return [str(name) for name in rows.columns], clean.to_numpy().tolist()
    names = list(dict.fromkeys(name for row in rows for name in row))
    return names, [[row.get(name) for name in names] for row in rows]
