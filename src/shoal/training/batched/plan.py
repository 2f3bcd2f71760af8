"""Which estimators can be fitted for many segments at once, read from an unfitted one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Plan", "plan_of"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A supported estimator: row-wise steps, then scalers, then a linear regression.

    Attributes:
        expand: Unfitted steps that learn nothing from values, by position in the pipeline.
        scalers: Unfitted scalers by position.
        linear: The unfitted ``Ridge`` or ``LinearRegression``.
        last: Its position; None when there is no pipeline around it.
    """

    expand: tuple[tuple[int, Any], ...]
    scalers: tuple[tuple[int, Any], ...]
    linear: Any
    last: int | None

    @property
    def alpha(self) -> float:
        """The L2 penalty; 0 for ordinary least squares."""
        return float(getattr(self.linear, "alpha", 0.0))

    @property
    def extremes(self) -> bool:
        """Whether a scaler needs the least and the greatest value of each feature."""
        return any(type(s).__name__ in ("MinMaxScaler", "MaxAbsScaler") for _, s in self.scalers)


def plan_of(estimator: Any) -> Plan | None:
    """The plan to fit an estimator in batches; None when it must be fitted segment by segment.

    Supported are scikit-learn's ``LinearRegression`` and ``Ridge`` (solvers ``auto``,
    ``cholesky`` and ``svd``), alone or last in a ``Pipeline`` whose other steps are first any
    ``PolynomialFeatures``, `Fourier` or ``FunctionTransformer`` of a numpy function, then any
    ``StandardScaler``, ``MinMaxScaler`` or ``MaxAbsScaler``. Subclasses are not: they may do
    anything else.
    """
    from sklearn.pipeline import Pipeline

    if type(estimator) is not Pipeline:
        linear = _linear(estimator)
        return Plan(expand=(), scalers=(), linear=estimator, last=None) if linear else None
    if estimator.memory is not None or estimator.verbose or estimator.transform_input is not None:
        return None
    *steps, (_, linear) = estimator.steps
    if not _linear(linear):
        return None
    expand, scalers = [], []
    for at, (_, step) in enumerate(steps):
        if step is None or (isinstance(step, str) and step == "passthrough"):
            continue
        if _scaler(step):
            scalers.append((at, step))
        elif _row_wise(step) and not scalers:
            expand.append((at, step))
        else:
            return None
    return Plan(expand=tuple(expand), scalers=tuple(scalers), linear=linear, last=len(steps))


def _plain(step: Any) -> bool:
    return not hasattr(step, "_skl_callbacks") and not hasattr(step, "_sklearn_output_config")


def _linear(step: Any) -> bool:
    from sklearn.linear_model import LinearRegression, Ridge

    if type(step) not in (Ridge, LinearRegression) or step.positive or not _plain(step):
        return False
    if type(step) is LinearRegression:
        return True
    alpha = step.alpha
    if isinstance(alpha, bool) or not isinstance(alpha, int | float | np.number):
        return False
    return bool(alpha >= 0 and np.isfinite(alpha)) and step.solver in ("auto", "cholesky", "svd")


def _scaler(step: Any) -> bool:
    from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, StandardScaler

    if type(step) not in (StandardScaler, MinMaxScaler, MaxAbsScaler) or not _plain(step):
        return False
    # Clipping is no linear map.
    return type(step) is StandardScaler or not step.clip


def _row_wise(step: Any) -> bool:
    from sklearn.preprocessing import FunctionTransformer, PolynomialFeatures

    from shoal.forecast import Fourier

    if not _plain(step):
        return False
    if type(step) in (PolynomialFeatures, Fourier):
        return True
    if type(step) is not FunctionTransformer or (step.check_inverse and step.inverse_func):
        return False
    function = step.func
    named = isinstance(function, np.ufunc) and function.nin == 1 and function.nout == 1
    return (function is None or named) and not step.kw_args
