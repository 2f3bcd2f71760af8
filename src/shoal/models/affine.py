"""Members that are straight lines, predicted all at once: one gather, one product, one sum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np

__all__ = ["Affine", "Lines", "affine", "is_known"]

Array = np.ndarray[Any, Any]

# Rows at a time: what is gathered for them stays in the processor's cache.
_CHUNK = 16_384

# scikit-learn's regressors that predict ``X @ coef_ + intercept_`` and nothing else.
# fmt: off
_REGRESSORS = frozenset({
    "ARDRegression", "BayesianRidge", "ElasticNet", "ElasticNetCV", "HuberRegressor", "Lars",
    "LarsCV", "Lasso", "LassoCV", "LassoLars", "LassoLarsCV", "LassoLarsIC", "LinearRegression",
    "LinearSVR", "OrthogonalMatchingPursuit", "OrthogonalMatchingPursuitCV",
    "QuantileRegressor", "Ridge", "RidgeCV", "SGDRegressor", "TheilSenRegressor",
})
# fmt: on

# What may come before them, by module. Classes are known by their names, so that a member's
# description (`shoal.models.straight`) does for the member.
_STEPS = {
    "Pipeline": "sklearn.pipeline",
    "SimpleImputer": "sklearn.impute._base",
    "MaxAbsScaler": "sklearn.preprocessing._data",
    "MinMaxScaler": "sklearn.preprocessing._data",
    "RobustScaler": "sklearn.preprocessing._data",
    "StandardScaler": "sklearn.preprocessing._data",
}


@dataclass(frozen=True, kw_only=True)
class Affine:
    """``intercept + sum((x - center) * weight)``; every array has one value per feature.

    Attributes:
        center: What is taken from each feature first, so that no digits cancel later.
        weight: The coefficients, divided by the scales.
        intercept: The constant.
        gap: What stands for a missing value; NaN where the model takes none.
    """

    center: Array
    weight: Array
    intercept: float
    gap: Array


def affine(estimator: Any, features: int) -> Affine | None:
    """The line that a fitted scikit-learn regressor is, or None where it is none.

    Linear regressors, alone or in a pipeline after a ``SimpleImputer`` and scalers. Its values
    and the estimator's own differ by rounding: by at most ``64 * 2**-53`` times the sum of
    the sizes of the terms that either adds, for up to some ten features.

    Args:
        estimator: The fitted estimator.
        features: How many features it takes.
    """
    steps = [s for _, s in estimator.steps] if _is(estimator, "Pipeline") else [estimator]
    *before, last = [s for s in steps if s is not None and s != "passthrough"] or [None]
    found = _coefficients(last, features)
    if found is None:
        return None
    weight, intercept = found
    gap = np.full(features, np.nan)
    if before and _fills(before[0], features):
        gap = np.asarray(before.pop(0).statistics_, dtype=np.float64)
    # After the scalers so far, a feature is (x - center) * factor + offset.
    center, factor, offset = np.zeros(features), np.ones(features), np.zeros(features)
    for number, step in enumerate(before):
        scaled = _scaler(step, features)
        if scaled is None:
            return None
        minus, divide, plus = scaled
        if number == 0:
            center = minus
        else:
            offset = (offset - minus) / divide
        factor, offset = factor / divide, offset + plus
    line = Affine(
        center=center,
        weight=weight * factor,
        intercept=float(intercept + (weight * offset).sum()),
        gap=gap,
    )
    whole = np.isfinite(line.center).all() and np.isfinite(line.weight).all()
    return line if whole and np.isfinite(line.intercept) else None


def is_known(path: str) -> bool:
    """Whether `affine` knows a class, by its full name."""
    module, _, name = path.rpartition(".")
    if name in _REGRESSORS:
        return module.startswith(("sklearn.linear_model.", "sklearn.svm."))
    return _STEPS.get(name) == module


def _is(step: Any, name: str) -> bool:
    cls = type(step)
    return cls.__name__ == name and cls.__module__ == _STEPS[name]


def _coefficients(estimator: Any, features: int) -> tuple[Array, float] | None:
    cls = type(estimator)
    if cls.__name__ not in _REGRESSORS or not is_known(f"{cls.__module__}.{cls.__name__}"):
        return None
    weight = np.asarray(estimator.coef_)
    intercept = np.asarray(estimator.intercept_)
    if weight.size != features or intercept.size != 1 or weight.dtype != np.float64:
        return None
    return weight.reshape(-1), float(intercept.reshape(-1)[0])


def _fills(step: Any, features: int) -> bool:
    return (
        _is(step, "SimpleImputer")
        and isinstance(step.missing_values, float)
        and bool(np.isnan(step.missing_values))
        and not step.add_indicator
        and step.statistics_.shape == (features,)
        and step.statistics_.dtype == np.float64
        and bool(np.isfinite(step.statistics_).all())
    )


def _scaler(step: Any, features: int) -> tuple[Array, Array, Array] | None:
    """Minus, divide and plus: the scaler gives ``(x - minus) / divide + plus``."""
    none, one = np.zeros(features), np.ones(features)
    if _is(step, "StandardScaler"):
        minus = step.mean_ if step.with_mean else none
        return minus, step.scale_ if step.with_std else one, none
    if _is(step, "RobustScaler"):
        minus = step.center_ if step.with_centering else none
        return minus, step.scale_ if step.with_scaling else one, none
    if _is(step, "MaxAbsScaler") and not getattr(step, "clip", False):
        return none, step.scale_, none
    if _is(step, "MinMaxScaler") and not step.clip:
        return step.data_min_, 1 / step.scale_, np.full(features, float(step.feature_range[0]))
    return None


@dataclass
class Lines:
    """The lines of a fleet's members, in arrays by member. Safe to use from many threads.

    A row's prediction has the same bits alone and among millions: every step is done on each
    element by itself, in the order of the features.

    Args:
        members: How many members there are.
        features: How many features.
    """

    members: int
    features: int
    _lock: Lock = field(default_factory=Lock, repr=False)

    def __post_init__(self) -> None:
        # Zeros, and one row per feature: pages that no member uses are never touched.
        shape = (self.features, self.members)
        self._center, self._weight, self._gap = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        self._intercept = np.zeros(self.members)
        self._kind = np.zeros(self.members, dtype=np.int8)

    @property
    def size(self) -> int:
        """How many bytes the lines of all members take."""
        return 8 * (3 * self.features + 1) * self.members + self.members

    def kinds(self, members: Array) -> Array:
        """0 for a member that was not added yet, 1 for a line, 2 for anything else.

        Args:
            members: Members by number.
        """
        found: Array = self._kind[members]
        return found

    def is_line(self, member: int) -> bool:
        """Whether a member, by number, was added as a line."""
        return member >= 0 and bool(self._kind[member] == 1)

    def predict_one(self, values: Sequence[float | None], member: int) -> float | None:
        """Predict one row, to the bits that `predict` gives; None where that gives NaN.

        Args:
            values: The features; None for a missing one.
            member: Its member, a line.
        """
        total = float(self._intercept[member])
        center, weight = self._center[:, member].tolist(), self._weight[:, member].tolist()
        for i, value in enumerate(values):
            x = math.nan if value is None else float(value)
            if math.isnan(x):
                x = float(self._gap[i, member])
            total += (x - center[i]) * weight[i]
        if math.isfinite(total):
            return total
        infinite = any(value is not None and math.isinf(value) for value in values)
        return None if infinite or math.isnan(total) else total

    def add(self, member: int, line: Affine | None) -> None:
        """Tell what a member is.

        Args:
            member: Its number.
            line: Its line; None when it is none.
        """
        with self._lock:
            if line is not None:
                self._center[:, member], self._weight[:, member] = line.center, line.weight
                self._intercept[member], self._gap[:, member] = line.intercept, line.gap
            # Last: readers take no lock.
            self._kind[member] = 2 if line is None else 1

    def predict(self, columns: Sequence[Array], members: Array) -> Array:
        """Predict each row with its member's line; NaN where a feature is infinite or missing.

        Args:
            columns: The features, float64, one array of shape (rows,) each.
            members: The member of each row, int64; all of them are lines.
        """
        found = np.empty(len(members))
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, len(members), _CHUNK):
                chunk = slice(start, start + _CHUNK)
                found[chunk] = self._chunk([column[chunk] for column in columns], members[chunk])
        return found

    def _chunk(self, columns: list[Array], members: Array) -> Array:
        total: Array = self._intercept.take(members)
        for i, column in enumerate(columns):
            part = column - self._center[i].take(members)
            part *= self._weight[i].take(members)
            missing = np.isnan(column)
            if missing.any():
                who = members[missing]
                filled = self._gap[i].take(who) - self._center[i].take(who)
                part[missing] = filled * self._weight[i].take(who)
            total += part
        # Only a total that is not finite can come from a feature that is not.
        for row in np.flatnonzero(~np.isfinite(total)):
            if any(np.isinf(column[row]) for column in columns):
                total[row] = np.nan
        return total
