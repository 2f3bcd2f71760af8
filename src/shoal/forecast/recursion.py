"""The recursion of exponential smoothing, over many series side by side.

Everything is done on each series by itself, element by element, so a series has the same numbers
alone and among thousands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

__all__ = ["NAMES", "Panel", "Run", "Shape", "begin", "panel_of", "run"]

Array = np.ndarray[Any, Any]

NAMES = ("alpha", "beta", "gamma", "phi")

# From how many first seasons level, trend and season begin.
_FIRST = 5


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Which smoothing.

    Attributes:
        season: Steps of a season; 1 without.
        trend: Whether there is one.
        damped: Whether it fades.
        times: The season multiplies instead of being added.
        seasonal: Whether there is a season.
        given: The smoothing parameters by name; None for those to find.
    """

    season: int
    trend: bool
    damped: bool
    times: bool
    seasonal: bool
    given: Mapping[str, float | None]

    @property
    def sought(self) -> tuple[str, ...]:
        """The parameters to find."""
        used = {"alpha": True, "beta": self.trend, "gamma": self.seasonal, "phi": self.damped}
        return tuple(name for name in NAMES if used[name] and self.given[name] is None)


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Series side by side, the longest first.

    Attributes:
        values: Shape (steps, series); 0 in gaps and after a series' end.
        known: 1 where there is a value, else 0; same shape.
        whole: Whether a step has no gaps, shape (steps,).
        ends: The series' lengths, falling.
        level: Before the first step, shape (series,).
        trend: Likewise.
        season: Likewise, shape (season, series).
    """

    values: Array
    known: Array
    whole: Array
    ends: Array
    level: Array
    trend: Array
    season: Array

    def only(self, at: Array) -> Panel:
        """Some of the series, in their order."""
        steps = int(self.ends[at[0]])
        return replace(
            self,
            values=self.values[:steps, at],
            known=self.known[:steps, at],
            whole=self.whole[:steps],
            ends=self.ends[at],
            level=self.level[at],
            trend=self.trend[at],
            season=self.season[:, at],
        )


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one pass over the series found, for some parameters of each.

    Attributes:
        squares: Sums of squared errors, shape (candidates, series). With ``products``: of the
            errors of the first candidate and the differences of the others' from them, the sums
            of products of so many with all, shape (products, candidates, series).
        level: At the end, shape (candidates, series).
        trend: Likewise.
        season: Likewise, shape (season, candidates, series).
    """

    squares: Array
    level: Array
    trend: Array
    season: Array


def panel_of(series: list[Array], shape: Shape) -> Panel:
    """Series side by side, and how each begins.

    Args:
        series: Values with NaN in the gaps, the longest first.
        shape: Which smoothing.
    """
    ends = np.array([len(values) for values in series])
    values, known = np.zeros((2, int(ends[0]), len(series)))
    level, trend = np.empty((2, len(series)))
    season = np.empty((shape.season, len(series)))
    whole = np.ones(int(ends[0]), dtype=bool)
    for i, each in enumerate(series):
        level[i], trend[i], season[:, i] = begin(each, shape)
        gaps = np.isnan(each)
        values[: len(each), i] = np.where(gaps, 0.0, each)
        known[: len(each), i] = ~gaps
        whole[: len(each)] &= ~gaps
    return Panel(
        values=values, known=known, whole=whole, ends=ends, level=level, trend=trend, season=season
    )


def begin(values: Array, shape: Shape) -> tuple[float, float, Array]:
    """Level, trend and season before the first step, as the first seasons say.

    Args:
        values: One series; NaN in the gaps, the first is known.
        shape: Which smoothing.
    """
    size = shape.season
    seasons = min(_FIRST, len(values) // size)
    first = values[: seasons * size].reshape(seasons, size)
    there = ~np.isnan(first)
    counts = there.sum(axis=1)
    some = np.flatnonzero(counts)
    filled = np.where(there, first, 0.0)
    means = filled.sum(axis=1)[some] / counts[some]
    slope = 0.0
    if shape.trend and len(some) > 1:
        slope = float((means[-1] - means[0]) / ((some[-1] - some[0]) * size))
    # The line through the first season's middle, one step before the first.
    middle = (size - 1) / 2
    level = float(means[0]) - slope * (float(some[0]) * size + middle + 1)
    if not shape.seasonal:
        return level, slope, np.zeros(1)
    line = means[:, None] + slope * (np.arange(size) - middle)
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = first[some] / line if shape.times else first[some] - line
    there = there[some] & np.isfinite(apart)
    counts = there.sum(axis=0)
    usual = np.where(there, apart, 0.0).sum(axis=0) / np.maximum(counts, 1)
    usual = np.where(counts > 0, usual, 1.0 if shape.times else 0.0)
    if shape.times:
        usual = np.maximum(usual, 1e-3)
    return level, slope, usual


def run(panel: Panel, given: Mapping[str, Array], shape: Shape, *, products: int = 0) -> Run:
    """Smooth all series with all candidates.

    Args:
        panel: The series.
        given: Each smoothing parameter, shape (candidates, series).
        shape: Which smoothing.
        products: See `Run`.
    """
    count = given["alpha"].shape[0]
    wide = (count, len(panel.ends))
    smoothing = [np.ascontiguousarray(given[name]) for name in NAMES]
    level = np.broadcast_to(panel.level, wide).copy()
    trend = np.broadcast_to(panel.trend, wide).copy()
    season = np.repeat(panel.season[:, None], count, axis=1)
    squares = np.zeros((products, *wide) if products else wide)
    # Steps in which equally many series go on: views are made once for each.
    for first, end in pairwise([0, *np.unique(panel.ends).tolist()]):
        live = int((panel.ends >= end).sum())
        states = [part[..., :live] for part in (level, trend, season, squares)]
        _steps(panel, first, end, [part[:, :live] for part in smoothing], states, shape)
    return Run(squares=squares, level=level, trend=trend, season=season)


def _steps(
    panel: Panel, begin: int, end: int, smoothing: list[Array], states: list[Array], shape: Shape
) -> None:
    """Smooth the first series from one step to another; ``states`` are changed in place."""
    alpha, beta, gamma, phi = smoothing
    level, trend, season, squares = states
    count, live = level.shape
    line, guess, error, change = np.empty((4, count, live))
    pairs = np.empty(squares.shape)
    values, known = panel.values[:, :live], panel.known[:, :live]
    whole = panel.whole.tolist()
    join = np.multiply if shape.times else np.add
    for t in range(begin, end):
        now = season[t % shape.season]
        if shape.damped:
            np.multiply(trend, phi, out=trend)
        np.add(level, trend, out=line)
        join(line, now, out=guess)
        np.subtract(values[t], guess, out=error)
        if not whole[t]:
            np.multiply(error, known[t], out=error)
        np.multiply(error, alpha, out=change)
        if shape.times:
            np.divide(change, now, out=change)
        np.add(line, change, out=level)
        if shape.trend:
            np.multiply(change, beta, out=change)
            np.add(trend, change, out=trend)
        if shape.seasonal:
            np.multiply(error, gamma, out=change)
            if shape.times:
                np.divide(change, line, out=change)
            np.add(now, change, out=now)
        if squares.ndim == 3:
            np.subtract(error[1:], error[0], out=error[1:])
            np.multiply(error[: len(pairs), None], error, out=pairs)
        else:
            np.multiply(error, error, out=pairs)
        np.add(squares, pairs, out=squares)
