"""What all segments of one training share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["FitJob"]


@dataclass(frozen=True, kw_only=True)
class FitJob:
    """What all segments of one training share.

    Attributes:
        build: Returns a new unfitted estimator.
        features: How many feature columns the rows have; their names are "0", "1", ....
        classes: Number of classes; 0 for regression.
        timed: Whether the rows have a time column, by which they are sorted in each segment.
        weighted: Whether the rows have a weight each, for the fits.
        nan_ok: Whether the estimator takes NaN in its features.
        metrics: The metrics to measure.
        metric: The declared one, also measured for the baseline.
        baseline: ``mean``, ``last`` or the position of a feature column.
        holdout: The share of each segment to measure on.
        backtest: In how many windows it is measured, each by a model of all rows before it.
        interval: Wanted coverage of prediction intervals; None for none.
        min_rows: A segment with fewer training rows is not fitted.
        centre: A constant near the targets' mean.
        seed: Seeds the samples of fallback groups.
        timeout: Seconds after which a segment's fits end this process; None never ends it.
        fast: Leave out scikit-learn's own checks of parameters and finiteness, which the kernel
            has made for the rows and the caller for the parameters.
        batched: Fit many segments at once where the maths allows.
        trust_pickle: Pickle estimators that cannot be stored otherwise.
        measure_only: Measure on the holdout, and keep no state: a trial of a search.
        memo: What trials of the same rows have in common, filled as they are made; None without.
    """

    build: Callable[[], Any]
    features: int
    classes: int
    timed: bool
    nan_ok: bool
    metrics: tuple[str, ...]
    metric: str
    baseline: str | int
    holdout: float
    min_rows: int
    centre: float = 0.0
    seed: int = 0
    timeout: float | None = None
    fast: bool = True
    batched: bool = True
    backtest: int = 1
    interval: float | None = None
    trust_pickle: bool = False
    measure_only: bool = False
    weighted: bool = False
    memo: dict[Any, Any] | None = None
