"""From many tests to few alarms: false ones are held down, and one stays until it is over.

A finding counts when its effect is large *and* it is not likely chance among all the tests of its
window: Benjamini and Hochberg's q-value is at most alpha. An alarm opens after so many windows in
a row that count, and closes after so many in a row whose effect is below half of what opens it, or
likely chance in a test of its own: it was found among all, and is no longer one of many.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal.models.paired import q_values

__all__ = ["Judged", "judge"]

Array = np.ndarray[Any, Any]

# The share of the opening effect below which a window is quiet.
_QUIET = 0.5


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What became of each finding, in their order.

    Attributes:
        q: Adjusted p-values.
        over: The finding counts.
        streak: Windows in a row that count (above 0) or are quiet (below 0).
        alarm: An alarm is open.
        changed: ``opened``, ``closed`` or the empty text.
    """

    q: Array
    over: Array
    streak: Array
    alarm: Array
    changed: Array


def judge(
    names: list[tuple[str, str, str]],
    p: Array,
    effect: Array,
    before: Mapping[tuple[str, str, str], tuple[int, bool]],
    *,
    alpha: float,
    raise_after: int = 1,
    clear_after: int = 1,
) -> Judged:
    """Judges the findings of one window.

    Args:
        names: Check, segment and column of each finding.
        p: Its p-value, NaN where nothing was tested.
        effect: How large it is; 1 is just large enough.
        before: Streak and alarm of each as the last window left them.
        alpha: Share of false alarms among the findings that count, at most.
        raise_after: Windows in a row that open an alarm.
        clear_after: Windows in a row that close one.
    """
    q = q_values(p)
    over = (q <= alpha) & (effect >= 1.0)
    quiet = ~over & ~((p <= alpha) & (effect >= _QUIET))
    past = [before.get(name, (0, False)) for name in names]
    streak = np.array([number for number, _ in past], dtype=np.int64)
    alarm = np.array([was for _, was in past], dtype=bool)
    streak = np.where(
        over, np.maximum(streak, 0) + 1, np.where(quiet, np.minimum(streak, 0) - 1, 0)
    )
    opened = ~alarm & (streak >= raise_after)
    closed = alarm & (streak <= -clear_after)
    return Judged(
        q=q,
        over=over,
        streak=streak,
        alarm=(alarm | opened) & ~closed,
        changed=np.where(opened, "opened", np.where(closed, "closed", "")),
    )
