"""Rows of a series on a grid of equal steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

__all__ = ["CALENDAR", "Grid", "Step", "count_moments", "grid_of"]

Array = np.ndarray[Any, Any]

# A step in the unit of the times, one of the calendar's, or None: what most rows are apart.
Step = float | str | None

# The calendar's steps, in months: their lengths in seconds differ.
CALENDAR = {"month": 1, "quarter": 3, "year": 12}

# A row that lies further from its place on the grid than this, in steps, is off it, and of so many
# rows one may be.
_LOOSE, _SHARE = 0.1, 20

# A grid may have this many places for each row, and so many more.
_SPARSE = (50, 1000)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A series without holes in its times.

    Attributes:
        start: The first moment.
        step: From one place to the next.
        values: One for each place; NaN where there was no row.
    """

    start: float
    step: float
    values: Array


def count_moments(times: Array, step: Step) -> Array:
    """Times as they are; with a step of the calendar, its months, quarters or years since 1970.

    Args:
        times: Float64; for a step of the calendar, seconds since 1970 (UTC).
        step: The declared step.
    """
    if not isinstance(step, str):
        return times
    if step not in CALENDAR:
        known = ", ".join(map(repr, CALENDAR))
        raise ValueError(f"step is {step!r}; expected a number or one of {known}")
    months = times.astype("datetime64[s]").astype("datetime64[M]").astype(np.int64)
    found: Array = (months // CALENDAR[step]).astype(np.float64)
    return found


def grid_of(times: Array, values: Array, step: Step) -> Grid:
    """Put the rows of one series on a grid.

    Without a declared step, the grid's is the median of the differences of successive moments.
    A row goes to the nearest place; rows of the same place are averaged.

    Args:
        times: Float64, shape (rows,), in any order.
        values: The targets, shape (rows,).
        step: The declared step.

    Raises:
        ValueError: There is one moment only, more than one row in 20 lies off the grid (by a
            tenth of a step), or the grid would be nearly empty.
    """
    moments = count_moments(times, step)
    apart = np.diff(moments)
    if len(apart) and (apart < 0).any():
        order = np.argsort(moments, kind="stable")
        moments, values = moments[order], values[order]
        apart = np.diff(moments)
    start = float(moments[0])
    if isinstance(step, str):
        size = 1.0
    elif step is not None:
        size = float(step)
    else:
        forward = apart[apart > 0]
        if not len(forward):
            raise ValueError("all rows have the same moment: nothing tells the step of the series")
        size = float(np.median(forward))
    exact = (moments - start) / size
    places = np.rint(exact)
    _check(times, exact, places, size, step)
    at = places.astype(np.int64)
    count = int(at[-1]) + 1
    if count == len(at) and (count == 1 or (np.diff(at) == 1).all()):
        return Grid(start=start, step=size, values=np.array(values, dtype=np.float64))
    rows = np.bincount(at, minlength=count)
    with np.errstate(invalid="ignore"):
        means = np.bincount(at, weights=values, minlength=count) / rows
    return Grid(start=start, step=size, values=means)


def _check(times: Array, exact: Array, places: Array, size: float, step: Step) -> None:
    off = np.abs(exact - places)
    worst = int(np.argmax(off))
    if off[worst] > _LOOSE and np.count_nonzero(off > _LOOSE) * _SHARE > len(off):
        hint = "give step=, or put the rows on equal steps in the pipeline"
        if not isinstance(step, str) and 27 * 86_400 < size < 367 * 86_400:
            hint = f"give the calendar's: step= one of {', '.join(map(repr, CALENDAR))}"
        raise ValueError(
            f"the times are irregular: {_tell(float(np.sort(times)[worst]))} lies "
            f"{off[worst]:.2f} steps from the grid of steps of {_length(size)}; {hint}"
        )
    most, more = _SPARSE
    if places[-1] > most * len(places) + more:
        raise ValueError(
            f"{len(places)} rows lie on {int(places[-1]) + 1:,} steps of {_length(size)}: too few "
            "to learn from; give a longer step="
        )


def _tell(moment: float) -> str:
    if abs(moment) < 1e8:  # a number such as a day or a year: seconds since 1970 are larger
        return f"{moment:g}"
    said = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=moment)
    return said.isoformat(sep=" ").removesuffix("+00:00")


def _length(size: float) -> str:
    return f"{size:g}" if size < 60 else f"{size:g} ({timedelta(seconds=size)})"


def grids_of(
    times: Sequence[Array], values: Sequence[Array], step: Step
) -> tuple[list[Grid], Array]:
    """The grids of many series, and the numbers of those that have one."""
    found, at = [], []
    for i, (when, what) in enumerate(zip(times, values, strict=True)):
        try:
            found.append(grid_of(when, what, step))
        except ValueError:
            continue
        at.append(i)
    return found, np.array(at, dtype=np.int64)
