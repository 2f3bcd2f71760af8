"""What an object store was last asked; asked again in the background when that is a while ago."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

__all__ = ["Looks"]

T = TypeVar("T")


class Looks:
    """Answers of a store that takes its time: the first is waited for, later ones are not.

    Who asks gets the last answer at once. Is it old, then the store is asked again meanwhile, and
    the next who asks gets what it said.

    Args:
        seconds: From when on an answer is old.
    """

    def __init__(self, seconds: float = 5.0) -> None:
        self._seconds = seconds
        self._answers: dict[Hashable, tuple[float, Any]] = {}
        self._asking: set[Hashable] = set()
        self._forgotten = 0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="shoal-look")

    def of(self, key: Hashable, ask: Callable[[], T]) -> T:
        """The last answer to a question.

        Args:
            key: The question.
            ask: Asks the store.
        """
        with self._lock:
            found = self._answers.get(key)
            if found is not None:
                old = time.monotonic() - found[0] >= self._seconds
                if old and key not in self._asking:
                    self._asking.add(key)
                    self._pool.submit(self._again, key, ask)
                answer: T = found[1]
                return answer
        return self._ask(key, ask)

    def _ask(self, key: Hashable, ask: Callable[[], T]) -> T:
        begun = time.monotonic()  # what changes while the store answers is not in the answer
        with self._lock:
            told = self._forgotten
        answer = ask()
        with self._lock:
            before = self._answers.get(key)
            # One that was asked for before something was changed from here, or before another
            # that is here already, comes too late.
            if told == self._forgotten and (before is None or before[0] <= begun):
                self._answers[key] = (begun, answer)
        return answer

    def _again(self, key: Hashable, ask: Callable[[], Any]) -> None:
        try:
            self._ask(key, ask)
        except Exception:  # noqa: BLE001  (whoever asks next sees for themselves)
            with self._lock:
                self._answers.pop(key, None)
        finally:
            with self._lock:
                self._asking.discard(key)

    def forget(self) -> None:
        """Lets the next who asks wait for a new answer: something was changed from here."""
        with self._lock:
            self._forgotten += 1
            self._answers.clear()
