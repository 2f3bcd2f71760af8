"""Rounds of a continuous run: one every so often, until somebody stops."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator

from shoal.errors import PipelineError

__all__ = ["rounds", "trigger_seconds"]

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_WRITTEN = re.compile(
    r"(\d+(?:\.\d+)?)\s*"
    r"(?:(ms|millis(?:econds?)?)|(s|secs?|seconds?)?|(m|mins?|minutes?)|(h|hours?))"
)


def trigger_seconds(text: str) -> float:
    """Seconds of a trigger interval, as ``10s``, ``500ms``, ``2 minutes`` or ``1h``.

    A number without a unit is seconds.

    Raises:
        PipelineError: It is no length of time.
    """
    found = _WRITTEN.fullmatch(text.strip().lower())
    if found is None:
        raise PipelineError(
            f"The trigger '{text}' is no length of time.", hint="Write it as 10s, 500ms or 2m."
        )
    number, *units = found.groups()
    unit = next((name for name, word in zip(_UNITS, units, strict=True) if word), "s")
    return float(number) * _UNITS[unit]


def rounds(trigger: float) -> Iterator[int]:
    """Counts rounds for ever, each at its time.

    Args:
        trigger: Seconds from the start of one round to the start of the next; a round that took
            longer is followed at once.
    """
    number, idle = 0, threading.Event()
    while True:
        begun = time.monotonic()
        yield number
        number += 1
        idle.wait(max(0.0, begun + trigger - time.monotonic()))
