"""Exponential smoothing of many series at once: the parameters that fit each best."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from shoal.forecast.recursion import NAMES, Panel, Shape, panel_of, run

__all__ = ["smooth"]

Array = np.ndarray[Any, Any]

# Series at a time: enough to drown numpy's cost per call, few enough for the processor's cache.
_CHUNK = 512

_LIMITS = {"alpha": (1e-4, 0.9999), "beta": (1e-4, 0.9999), "gamma": (1e-4, 0.9999),
           "phi": (0.8, 0.98)}  # fmt: skip
_STARTS = {"alpha": (0.05, 0.4), "beta": (0.02,), "gamma": (0.05, 0.3), "phi": (0.95,)}

# A parameter is the logistic function of a number without limits, up to so far from 0.
_FAR = 9.0
_DIFFERENCE = 1e-4
_ROUNDS = 30
# The search ends when a step would lower the sum of squares by less than this share.
_ENOUGH = 1e-9


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
        for name, values in _fit(panel_of([series[i] for i in at], shape), shape).items():
            whole = found.setdefault(name, np.empty((len(order), *values.shape[1:])))
            whole[at] = values
    return found


def _fit(panel: Panel, shape: Shape) -> dict[str, Array]:
    place = _search(panel, shape)
    given = _parameters(place[:, None], shape)
    with np.errstate(all="ignore"):
        last = run(panel, given, shape)
    return {
        "level_": last.level[0],
        "trend_": last.trend[0],
        "season_": np.ascontiguousarray(last.season[:, 0].T),
        **{f"{name}_": given[name][0] for name in NAMES},
    }


def _search(panel: Panel, shape: Shape) -> Array:
    """The unlimited numbers of the sought parameters, shape (sought, series)."""
    count, sought = len(panel.ends), len(shape.sought)
    if not sought:
        return np.empty((0, count))
    grid = list(product(*(_STARTS[name] for name in shape.sought)))
    starts = np.array([[_unlimited(n, v) for n, v in zip(shape.sought, g, strict=True)]
                       for g in grid]).T  # fmt: skip
    with np.errstate(all="ignore"):
        found = run(panel, _parameters(np.repeat(starts[:, :, None], count, 2), shape), shape)
        squares = np.where(np.isfinite(found.squares), found.squares, np.inf)
        best = starts[:, np.argmin(squares, axis=0)]
        return _descend(panel, best, shape)


def _descend(panel: Panel, best: Array, shape: Shape) -> Array:
    """A quasi-Newton method with damped steps, for each series by itself.

    The first curvature is Gauss and Newton's; then the slopes of all points tried correct it, as
    Broyden, Fletcher, Goldfarb and Shanno do.
    """
    best = best.T.copy()
    count, sought = best.shape
    least, damping = np.full(count, np.inf), np.full(count, 1e-3)
    slope, curve = np.zeros((count, sought)), np.zeros((count, sought, sought))
    trial, active, part = best.copy(), np.arange(count), panel
    for number in range(_ROUNDS):
        place = trial[active]
        moved = np.repeat(place.T[:, None], sought + 1, axis=1)
        moved[range(sought), range(1, sought + 1)] += _DIFFERENCE
        rows = sought + 1 if number == 0 else 1
        found = run(part, _parameters(moved, shape), shape, products=rows).squares
        now = np.where(np.isfinite(found).all(axis=(0, 1)), found[0, 0], np.inf)
        tilt = np.ascontiguousarray(found[0, 1:].T) / _DIFFERENCE
        before, bend = least[active], curve[active]
        if number == 0:
            bend = np.ascontiguousarray(found[1:, 1:].transpose(2, 0, 1)) / _DIFFERENCE**2
        else:
            bend = _bent(bend, place - best[active], tilt - slope[active])
        better = now < before
        at = active[better]
        best[at], least[at], slope[at] = place[better], now[better], tilt[better]
        curve[active] = bend
        damping[active] *= np.where(better, 0.1, 10.0)
        step = _step(slope[active], bend, damping[active])
        aim = np.clip(best[active] + step, -_FAR, _FAR)
        taken = aim - best[active]
        # What the slope and the curvature promise: little is left to gain where it is small.
        gain = -(taken * (2 * slope[active] + (bend @ taken[:, :, None])[:, :, 0])).sum(axis=1)
        settled = ~(gain > _ENOUGH * least[active]) | (damping[active] > 1e9)
        trial[active] = aim
        if settled.any():
            left = np.flatnonzero(~settled)
            active = active[left]
            if not len(active):
                break
            part = part.only(left)
    return best.T


def _bent(curve: Array, moved: Array, change: Array) -> Array:
    """The curvature, corrected by how the slope changed on the way from the best point."""
    along = (moved * change).sum(axis=1)
    old = (curve @ moved[:, :, None])[:, :, 0]
    size = (moved * old).sum(axis=1)
    known = np.isfinite(change).all(axis=1) & (along > 1e-3 * size) & (size > 0)
    new = (
        curve
        + change[:, :, None] * change[:, None, :] / along[:, None, None]
        - old[:, :, None] * old[:, None, :] / size[:, None, None]
    )
    found: Array = np.where((known & np.isfinite(new).all(axis=(1, 2)))[:, None, None], new, curve)
    return found


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
    for name in NAMES:
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
