"""A connection that waits for a request's head only so long, and answers plain requests itself.

uvicorn closes connections that are idle after an answer, but waits for ever for the head of a
request: a client that sends a byte now and then would hold a connection as long as it likes.

uvicorn starts a task for each request before it has read the body. Most requests arrive whole, so
the task is put off until what was received is parsed: a plain request is answered then and there,
with one write, and for any other the task is started as ever.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from shoal.serving.quick import USUAL

if TYPE_CHECKING:
    from shoal.serving.quick import Quick

__all__ = ["patient_protocol"]

_LARGEST_HEAD = 64 * 1024
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


def patient_protocol(seconds: float, quick: Quick | None = None) -> type[asyncio.Protocol]:
    """Gives uvicorn's protocol class, with a limit on the time that a request's head may take.

    Args:
        seconds: The limit.
        quick: Answers plain requests.
    """
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    base: Any = AutoHTTPProtocol
    return type("Patient", (_Patient, base), {"head_seconds": seconds, "quick": quick})


class _Patient:
    """Stands before uvicorn's class, which does the protocol."""

    head_seconds: float
    quick: Quick | None
    late: asyncio.TimerHandle | None = None
    reading = False
    held: tuple[Any, Any] | None = None
    answered = False
    head_bytes = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)  # type: ignore[misc]
        self._wait()

    def data_received(self, data: bytes) -> None:
        self.reading, self.answered = True, False
        try:
            super().data_received(data)  # type: ignore[misc]
        finally:
            self.reading = False
            self._let_go()
        if self.answered or self._answering():
            self.head_bytes = 0
            self._stop()
            return
        self.head_bytes += len(data)
        if self.head_bytes > _LARGEST_HEAD:
            self._refuse()
        self._wait()

    def connection_lost(self, error: Exception | None) -> None:
        self._stop()
        super().connection_lost(error)  # type: ignore[misc]

    def on_message_complete(self) -> None:
        super().on_message_complete()  # type: ignore[misc]
        if self.held is not None and not self._answered(self.held[0]):
            self._let_go()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if self.reading and self.quick is not None and not cycle.waiting_for_100_continue:
            self.held = cycle, app
        else:
            super()._start_asgi_task(cycle, app)  # type: ignore[misc]

    def _let_go(self) -> None:
        if self.held is not None:
            held, self.held = self.held, None
            super()._start_asgi_task(*held)  # type: ignore[misc]

    def _answered(self, cycle: Any) -> bool:
        """Answers a plain request whose body is there."""
        assert self.quick is not None
        asked = self.quick.asked(cycle.scope)
        if asked is None or cycle.flow.write_paused:
            return False
        reply = self.quick.reply(asked, cycle.body)
        if reply is None:
            cycle.scope[USUAL] = True
            return False
        headers, body = reply
        parts = [b"HTTP/1.1 200 OK\r\n"]
        for name, value in [*cycle.default_headers, *headers]:
            parts += (name, b": ", value, b"\r\n")
        parts += (b"\r\n", body) if cycle.keep_alive else (b"connection: close\r\n\r\n", body)
        cycle.transport.write(b"".join(parts))
        self.held, self.answered = None, True
        cycle.body = bytearray()
        cycle.response_started = cycle.response_complete = True
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()
        cycle.on_response = _nothing  # it refers to this connection, which refers to it
        return True

    def _answering(self) -> bool:
        cycle = self.cycle  # type: ignore[attr-defined]
        return cycle is not None and not cycle.response_complete

    def _wait(self) -> None:
        if self.late is None:
            loop = self.loop  # type: ignore[attr-defined]
            self.late = loop.call_later(self.head_seconds, self._cut)

    def _stop(self) -> None:
        if self.late is not None:
            self.late.cancel()
            self.late = None

    def _refuse(self) -> None:
        """A head without end would fill the memory."""
        transport = self.transport  # type: ignore[attr-defined]
        if not transport.is_closing():
            transport.write(_TOO_LARGE)
            transport.close()

    def _cut(self) -> None:
        self.late = None
        if not self._answering():
            self.transport.close()  # type: ignore[attr-defined]


def _nothing() -> None:
    """Instead of a callback that has done its work."""
