"""Exponential smoothing of many series at once.

Everything is done on each series by itself, element by element, so a series has the same numbers
alone and among thousands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Any

import numpy as np

__all__ = ["Shape", "smooth"]

Array = np.ndarray[Any, Any]

# Series at a time: enough to drown numpy's cost per call, few enough for the processor's cache.
_CHUNK = 512

# From how many first seasons level, trend and season begin.
_FIRST = 5

_NAMES = ("alpha", "beta", "gamma", "phi")
_LIMITS = {"alpha": (1e-4, 0.9999), "beta": (1e-4, 0.9999), "gamma": (1e-4, 0.9999),
           "phi": (0.8, 0.98)}  # fmt: skip
_STARTS = {"alpha": (0.05, 0.4), "beta": (0.02,), "gamma": (0.05, 0.3), "phi": (0.95,)}

# A parameter is the logistic function of a number without limits, up to so far from 0.
_FAR = 9.0
_DIFFERENCE = 1e-4
_ROUNDS = 30
# The search ends when a step lowers, or would lower, the sum of squares by less than this share.
_ENOUGH = 1e-9


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
        return tuple(name for name in _NAMES if used[name] and self.given[name] is None)


@dataclass(frozen=True, kw_only=True)
class _Panel:
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

    def only(self, at: Array) -> _Panel:
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
class _Run:
    """What one pass over the series found, for some parameters of each.

    Attributes:
        squares: Sums of squared errors, shape (candidates, series); with ``products`` the sums of
            products of the errors of the first candidate and the differences of the others' from
            them, shape (candidates, candidates, series).
        level: At the end, shape (candidates, series).
        trend: Likewise.
        season: Likewise, shape (season, candidates, series).
    """

    squares: Array
    level: Array
    trend: Array
    season: Array


def smooth(series: list[Array], shape: Shape) -> dict[str, Array]:
    """Fit each series.

    Args:
        series: Values with NaN in the gaps; the first is known. At least two seasons each.
        shape: Which smoothing.

    Returns:
        ``level_``, ``trend_``, ``alpha_``, ``beta_``, ``gamma_`` and ``phi_``, shape (series,), and
        ``season_``, shape (series, season).
    """
    order = np.argsort([-len(values) for values in series], kind="stable")
    found: dict[str, Array] = {}
    for first in range(0, len(order), _CHUNK):
        at = order[first : first + _CHUNK]
        for name, values in _fit(_panel([series[i] for i in at], shape), shape).items():
            whole = found.setdefault(name, np.empty((len(order), *values.shape[1:])))
            whole[at] = values
    return found


def _panel(series: list[Array], shape: Shape) -> _Panel:
    ends = np.array([len(values) for values in series])
    values, known = np.zeros((2, int(ends[0]), len(series)))
    level, trend = np.empty((2, len(series)))
    season = np.empty((shape.season, len(series)))
    whole = np.ones(int(ends[0]), dtype=bool)
    for i, each in enumerate(series):
        level[i], trend[i], season[:, i] = _begin(each, shape)
        gaps = np.isnan(each)
        values[: len(each), i] = np.where(gaps, 0.0, each)
        known[: len(each), i] = ~gaps
        whole[: len(each)] &= ~gaps
    return _Panel(
        values=values, known=known, whole=whole, ends=ends, level=level, trend=trend, season=season
    )


def _begin(values: Array, shape: Shape) -> tuple[float, float, Array]:
    """Level, trend and season before the first step."""
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


def _fit(panel: _Panel, shape: Shape) -> dict[str, Array]:
    place = _search(panel, shape)
    given = _parameters(place[:, None], shape)
    with np.errstate(all="ignore"):
        last = _run(panel, given, shape)
    return {
        "level_": last.level[0],
        "trend_": last.trend[0],
        "season_": np.ascontiguousarray(last.season[:, 0].T),
        **{f"{name}_": given[name][0] for name in _NAMES},
    }


def _search(panel: _Panel, shape: Shape) -> Array:
    """The unlimited numbers of the sought parameters, shape (sought, series)."""
    count, sought = len(panel.ends), len(shape.sought)
    if not sought:
        return np.empty((0, count))
    grid = list(product(*(_STARTS[name] for name in shape.sought)))
    starts = np.array([[_unlimited(n, v) for n, v in zip(shape.sought, g, strict=True)]
                       for g in grid]).T  # fmt: skip
    with np.errstate(all="ignore"):
        found = _run(panel, _parameters(np.repeat(starts[:, :, None], count, 2), shape), shape)
        squares = np.where(np.isfinite(found.squares), found.squares, np.inf)
        best = starts[:, np.argmin(squares, axis=0)]
        return _descend(panel, best, shape)


def _descend(panel: _Panel, best: Array, shape: Shape) -> Array:
    """Levenberg and Marquardt's method, for each series by itself."""
    best = best.copy()
    sought, count = best.shape
    least = np.full(count, np.inf)
    slope, curve = np.zeros((count, sought)), np.zeros((count, sought, sought))
    damping = np.full(count, 1e-2)
    trial, active = best.copy(), np.arange(count)
    part = panel
    for _ in range(_ROUNDS):
        place = trial[:, active]
        moved = np.repeat(place[:, None], sought + 1, axis=1)
        moved[range(sought), range(1, sought + 1)] += _DIFFERENCE
        sums = _run(part, _parameters(moved, shape), shape, products=True).squares
        now = np.where(np.isfinite(sums).all(axis=(0, 1)), sums[0, 0], np.inf)
        before = least[active]
        better = now < before
        at = active[better]
        best[:, at], least[at] = place[:, better], now[better]
        slope[at] = sums[0, 1:, better] / _DIFFERENCE
        curve[at] = sums[1:, 1:].transpose(2, 0, 1)[better] / _DIFFERENCE**2
        damping[active] = np.where(better, damping[active] / 5, damping[active] * 5)
        step = _step(slope[active], curve[active], damping[active])
        aim = np.clip(best[:, active] + step.T, -_FAR, _FAR)
        # What a plane through the errors promises; nothing is left to gain where it is small.
        taken = (aim - best[:, active]).T
        gain = -2 * (slope[active] * taken).sum(axis=1) - np.einsum(
            "si,sij,sj->s", taken, curve[active], taken
        )
        settled = better & (before - now <= _ENOUGH * now) & np.isfinite(before)
        settled |= ~(gain > _ENOUGH * least[active]) | (damping[active] > 1e6)
        trial[:, active] = aim
        if settled.any():
            left = np.flatnonzero(~settled)
            active = active[left]
            if not len(active):
                break
            part = part.only(left)
    return best


def _step(slope: Array, curve: Array, damping: Array) -> Array:
    diagonal = np.einsum("sii->si", curve)
    most = diagonal.max(axis=1, keepdims=True)
    floor = np.where(most > 0, most * 1e-12, 1.0)
    system = curve.copy()
    np.einsum("sii->si", system)[:] += damping[:, None] * diagonal + floor
    step = -np.linalg.solve(system, slope[:, :, None])[:, :, 0]
    return np.clip(np.where(np.isfinite(step), step, 0.0), -3.0, 3.0)


def _unlimited(name: str, value: float) -> float:
    low, high = _LIMITS[name]
    share = (value - low) / (high - low)
    return float(np.log(share / (1 - share)))


def _parameters(place: Array, shape: Shape) -> dict[str, Array]:
    """The smoothing parameters, each of shape (candidates, series)."""
    used = {"alpha": True, "beta": shape.trend, "gamma": shape.seasonal, "phi": shape.damped}
    found: dict[str, Array] = {}
    numbers = iter(place)
    for name in _NAMES:
        given = shape.given[name]
        if not used[name]:
            found[name] = np.full(place.shape[1:], 1.0 if name == "phi" else 0.0)
        elif given is not None:
            found[name] = np.full(place.shape[1:], float(given))
        else:
            low, high = _LIMITS[name]
            found[name] = low + (high - low) / (1 + np.exp(-next(numbers)))
            if name == "gamma":
                found[name] = found[name] * (1 - found["alpha"])
    return found


def _run(
    panel: _Panel, given: Mapping[str, Array], shape: Shape, *, products: bool = False
) -> _Run:
    """Smooth all series with all candidates."""
    count = given["alpha"].shape[0]
    wide = (count, len(panel.ends))
    smoothing = [np.ascontiguousarray(given[name]) for name in _NAMES]
    level = np.broadcast_to(panel.level, wide).copy()
    trend = np.broadcast_to(panel.trend, wide).copy()
    season = np.repeat(panel.season[:, None], count, axis=1)
    squares = np.zeros((count, *wide) if products else wide)
    # Steps in which equally many series go on: views are made once for each.
    for begin, end in pairwise([0, *np.unique(panel.ends).tolist()]):
        live = int((panel.ends >= end).sum())
        states = [part[..., :live] for part in (level, trend, season, squares)]
        _steps(panel, begin, end, [part[:, :live] for part in smoothing], states, shape)
    return _Run(squares=squares, level=level, trend=trend, season=season)


def _steps(
    panel: _Panel, begin: int, end: int, smoothing: list[Array], states: list[Array], shape: Shape
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
            np.multiply(error[:, None], error, out=pairs)
        else:
            np.multiply(error, error, out=pairs)
        np.add(squares, pairs, out=squares)
