"""Scalers and linear regressions of many segments, from their sums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal.training.batched.moments import Moments
from shoal.training.batched.plan import Plan

__all__ = ["Solution", "solve"]

Array = np.ndarray[Any, Any]

# Normal equations lose as many digits as the condition number has; scikit-learn's own solution
# loses them too, so beyond this the two would agree in fewer than the eight promised.
_CONDITION = 1e6

# The same for LinearRegression's singular values, found from their squares.
_SINGULAR = 1e7


@dataclass(frozen=True, kw_only=True)
class Solution:
    """Fitted members.

    Attributes:
        attributes: Values of fitted attributes, by position of the step in the pipeline (None
            without one) and name; the first axis is the segment.
        weights: The prediction as weights of `Sums.work`'s columns, shape (segments, width + 2).
        sound: Which segments are fitted; the others are for scikit-learn.
    """

    attributes: Mapping[tuple[int | None, str], Array]
    weights: Array
    sound: Array


def solve(plan: Plan, moments: Moments, pivot: Array, weighted: Moments | None = None) -> Solution:
    """Fit the plan's scalers and its regression for each segment.

    Args:
        plan: What to fit.
        moments: Of the rows to fit on.
        pivot: What the moments' means are relative to, shape (segments, width + 1).
        weighted: Of the same rows, each by its weight, for the regression; scalers see all rows
            alike. None without weights.
    """
    attributes: dict[tuple[int | None, str], Array] = {}
    # A feature is now slope * (value - pivot) + level, with this mean.
    shift, level = moments.shift[:, :-1], pivot[:, :-1]
    slope = np.ones_like(level)
    for at, scaler in plan.scalers:
        found, slope, level = _SCALERS[type(scaler).__name__](scaler, moments, pivot, slope, level)
        attributes |= {(at, name): values for name, values in found.items()}
    rows, sound = moments.rows, moments.sound
    if weighted is not None:
        # scikit-learn scales a regression's rows by the roots of their weights.
        moments, shift = weighted, weighted.shift[:, :-1]
        sound = sound & weighted.sound
    mean, goal = slope * shift + level, pivot[:, -1] + moments.shift[:, -1]
    gram = moments.spread[:, :-1, :-1] * slope[:, :, None] * slope[:, None, :]
    cross = moments.spread[:, :-1, -1] * slope
    if not plan.linear.fit_intercept:
        gram = gram + moments.rows[:, None, None] * mean[:, :, None] * mean[:, None, :]
        cross = cross + (moments.rows * goal)[:, None] * mean
    coefficients, good = _normal(gram, cross, plan.alpha)
    sound = sound & good
    if type(plan.linear).__name__ == "LinearRegression":
        attributes[plan.last, "rank_"], attributes[plan.last, "singular_"], full = _singular(
            gram, rows
        )
        sound &= full
    intercept = np.zeros(len(goal))
    if plan.linear.fit_intercept:
        intercept = goal - np.einsum("sf,sf->s", mean, coefficients)
    attributes[plan.last, "coef_"] = coefficients
    attributes[plan.last, "intercept_"] = intercept
    # The feature's level is the pivot's image: what is left of the prediction at the pivot.
    constant = intercept + np.einsum("sf,sf->s", level, coefficients)
    weights = np.column_stack([slope * coefficients, np.zeros(len(goal)), constant])
    sound &= np.isfinite(weights).all(axis=1)
    return Solution(attributes=attributes, weights=weights, sound=sound)


def _normal(gram: Array, cross: Array, alpha: float) -> tuple[Array, Array]:
    width = gram.shape[1]
    matrix = gram + alpha * np.eye(width)
    size = np.sqrt(np.einsum("sii->si", matrix))
    free = ~(size > 0)
    # A constant feature without a penalty has the coefficient of least norm: 0.
    size[free] = 1.0
    matrix = matrix / (size[:, :, None] * size[:, None, :])
    at, feature = np.nonzero(free)
    matrix[at, feature, feature] = 1.0
    good = np.isfinite(matrix).all(axis=(1, 2))
    matrix[~good] = np.eye(width)
    right = np.empty((len(matrix), width, width + 1))
    right[:, :, 0], right[:, :, 1:] = cross / size, np.eye(width)
    try:
        found = np.linalg.solve(matrix, right)
    except np.linalg.LinAlgError:  # one singular matrix, and all are refused
        least = np.linalg.eigvalsh(matrix)[:, 0]
        good &= least > 1 / (_CONDITION * width)
        matrix[~good] = np.eye(width)
        found = np.linalg.solve(matrix, right)
    norms = [np.abs(m).sum(axis=1).max(axis=1, initial=0.0) for m in (matrix, found[:, :, 1:])]
    good &= norms[0] * norms[1] < _CONDITION
    return found[:, :, 0] / size, good


def _singular(gram: Array, rows: Array) -> tuple[Array, Array, Array]:
    squares = np.linalg.eigvalsh(np.where(np.isfinite(gram), gram, 0.0))[:, ::-1]
    some = np.einsum("sii->si", gram) > 0
    rank = some.sum(axis=1)
    at = np.arange(gram.shape[1])
    squares = np.where(at < rank[:, None], np.maximum(squares, 0.0), 0.0)
    last = squares[np.arange(len(rank)), np.maximum(rank - 1, 0)]
    full = (rank > 0) & (rows > gram.shape[1]) & (last * _SINGULAR > squares[:, 0])
    return rank, np.sqrt(squares), full


_Scaled = tuple[dict[str, Array], Array, Array]


def _standard(scaler: Any, moments: Moments, _: Array, slope: Array, level: Array) -> _Scaled:
    mean = slope * moments.shift[:, :-1] + level
    variance = np.einsum("sii->si", moments.spread)[:, :-1] / moments.rows[:, None] * slope**2
    scale = np.where(moments.constant, 1.0, np.sqrt(variance)) if scaler.with_std else 1.0
    # What a mean leaves of the level is found without subtracting two large numbers.
    left = -slope * moments.shift[:, :-1] if scaler.with_mean else level
    found = {
        "mean_": mean,
        "var_": variance,
        "scale_": scale * np.ones_like(slope),
        "n_samples_seen_": moments.rows,
    }
    return found, slope / scale, left / scale


def _min_max(scaler: Any, moments: Moments, pivot: Array, slope: Array, level: Array) -> _Scaled:
    least, most = _extremes(moments, pivot, slope, level)
    low, high = scaler.feature_range
    scale = (high - low) / _no_zeros(most - least)
    least_image = low - least * scale
    found = {
        "data_min_": least,
        "data_max_": most,
        "data_range_": most - least,
        "scale_": scale,
        "min_": least_image,
        "n_samples_seen_": moments.rows,
    }
    return found, slope * scale, level * scale + least_image


def _max_abs(_: Any, moments: Moments, pivot: Array, slope: Array, level: Array) -> _Scaled:
    largest = np.maximum(*np.abs(_extremes(moments, pivot, slope, level)))
    scale = _no_zeros(largest)
    found = {"max_abs_": largest, "scale_": scale, "n_samples_seen_": moments.rows}
    return found, slope / scale, level / scale


def _extremes(moments: Moments, pivot: Array, slope: Array, level: Array) -> tuple[Array, Array]:
    assert moments.least is not None
    assert moments.most is not None
    # Untouched values stay as they are, to the bit.
    offset = level - slope * pivot[:, :-1]
    return slope * moments.least + offset, slope * moments.most + offset


def _no_zeros(scale: Array) -> Array:
    return np.where(scale < 10 * np.finfo(np.float64).eps, 1.0, scale)


_SCALERS = {"StandardScaler": _standard, "MinMaxScaler": _min_max, "MaxAbsScaler": _max_abs}
