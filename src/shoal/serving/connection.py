"""A connection that waits for a request's head only so long.

uvicorn closes connections that are idle after an answer, but waits for ever for the head of a
request: a client that sends a byte now and then would hold a connection as long as it likes.
"""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["patient_protocol"]


def patient_protocol(seconds: float) -> type[asyncio.Protocol]:
    """Gives uvicorn's protocol class, with a limit on the time that a request's head may take.

    Args:
        seconds: The limit.
    """
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    base: Any = AutoHTTPProtocol
    return type("Patient", (_Patient, base), {"head_seconds": seconds})


class _Patient:
    """Stands before uvicorn's class, which does the protocol."""

    head_seconds: float
    late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)  # type: ignore[misc]
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)  # type: ignore[misc]
        if self._answering():
            self._stop()
        else:
            self._wait()

    def connection_lost(self, error: Exception | None) -> None:
        self._stop()
        super().connection_lost(error)  # type: ignore[misc]

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

    def _cut(self) -> None:
        self.late = None
        if not self._answering():
            self.transport.close()  # type: ignore[attr-defined]
