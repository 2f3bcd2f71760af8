"""Answers kept as long as what they were made from stands."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["Cache", "stamp_of"]

T = TypeVar("T")

# A file system's clock may stand still for some milliseconds: what changed just now may change
# again without another time.
_FRESH_NS = 50_000_000


def stamp_of(*paths: str | Path) -> Hashable:
    """What changes when an entry is made in one of these folders or files.

    None for what was changed just now, which is not to be kept.
    """
    times: list[int] = []
    for path in paths:
        try:
            times.append(os.stat(path).st_mtime_ns)  # noqa: PTH116  (of hundreds, for each page)
        except OSError:
            times.append(0)
    if times and time.time_ns() - max(times) < _FRESH_NS:
        return None
    return tuple(times)


class Cache:
    """The most recent answers by what was asked.

    Args:
        room: How many.
    """

    def __init__(self, room: int = 2_000) -> None:
        self._room = room
        self._kept: OrderedDict[Hashable, tuple[Hashable, Any]] = OrderedDict()
        self._lock = threading.Lock()
        self._making: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable, stamp: Hashable, make: Callable[[], T]) -> T:
        """The answer to a question.

        Args:
            key: The question.
            stamp: It is made anew when this is another one; None keeps nothing.
            make: Makes it. Of several that ask at once, one makes it and the others wait.
        """
        if stamp is None:
            return make()
        with self._lock:
            found = self._kept.get(key)
            if found is not None and found[0] == stamp:
                self._kept.move_to_end(key)
                value: T = found[1]
                return value
            turn = self._making.setdefault(key, threading.Lock())
        with turn:
            with self._lock:
                found = self._kept.get(key)
            if found is None or found[0] != stamp:
                found = (stamp, make())
                with self._lock:
                    self._kept[key] = found
                    while len(self._kept) > self._room:
                        self._kept.popitem(last=False)
            with self._lock:
                self._making.pop(key, None)
        answer: T = found[1]
        return answer

    def forget(self, *keys: Hashable) -> None:
        """Drops answers, so that the next who asks gets new ones."""
        with self._lock:
            for key in keys:
                self._kept.pop(key, None)
