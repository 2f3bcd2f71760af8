"""Admission: so many requests at work, so many waiting, and no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from shoal.serving.answers import Refused

__all__ = ["Gate"]

T = TypeVar("T")


class Gate:
    """Runs work in threads, a few at a time; what would have to wait too long is refused.

    A server that takes everything in answers nothing in time, and grows until it dies.

    Args:
        concurrency: How many requests are predicted at the same time.
        queue: How many more may wait.
        seconds: How long one may wait.
    """

    def __init__(self, *, concurrency: int, queue: int, seconds: float = 30.0) -> None:
        import anyio

        self._limiter = anyio.CapacityLimiter(concurrency)
        self._turns = anyio.Semaphore(concurrency)
        self._seconds = seconds
        self._room = concurrency + queue
        self.inside = 0

    def check(self) -> None:
        """Asks whether there is room.

        Raises:
            Refused: 503, with Retry-After.
        """
        if self.inside >= self._room:
            raise Refused(
                503,
                f"The server is busy: {self.inside} requests are waiting. Try again.",
                {"retry-after": "1"},
            )

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """Runs ``work`` in a thread.

        Raises:
            Refused: 503, with Retry-After.
        """
        import anyio

        self.check()
        self.inside += 1
        try:
            with anyio.fail_after(self._seconds):
                await self._turns.acquire()
            try:
                return await anyio.to_thread.run_sync(work, *args, limiter=self._limiter)
            finally:
                self._turns.release()
        except TimeoutError:
            raise Refused(
                503,
                f"The server is busy: the request waited for {self._seconds:g} seconds. Try again.",
                {"retry-after": "2"},
            ) from None
        finally:
            self.inside -= 1
