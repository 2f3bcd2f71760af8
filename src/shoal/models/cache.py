"""Decoded members, as many as a budget of bytes allows; those not used for longest go first."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import Generic, TypeVar

__all__ = ["DecodedCache"]

T = TypeVar("T")

# Measured on pipelines, trees and boosters of scikit-learn and XGBoost: the objects around a
# member's arrays take some kilobytes, and libraries keep what they decode about twice more.
_OBJECTS = 4_096
_COPIES = 3


class DecodedCache(Generic[T]):
    """Keeps values by number. Safe to use from many threads.

    Args:
        budget: About how many bytes the values may take together; one value is always kept.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._kept: OrderedDict[int, tuple[T, int]] = OrderedDict()
        self._lock = Lock()
        self.size = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, number: int) -> T | None:
        """The value, or None where it is not kept."""
        with self._lock:
            found = self._kept.get(number)
            if found is None:
                return None
            self._kept.move_to_end(number)
            return found[0]

    def keep(self, number: int, value: T, stored: int) -> None:
        """Keeps a value, and lets go of others where they are too many.

        Args:
            number: Its number.
            value: The value.
            stored: How many bytes it was decoded from.
        """
        size = _OBJECTS + _COPIES * stored
        with self._lock:
            before = self._kept.pop(number, None)
            self.size += size - (before[1] if before else 0)
            self._kept[number] = (value, size)
            while self.size > self._budget and len(self._kept) > 1:
                _, (_, gone) = self._kept.popitem(last=False)
                self.size -= gone
