"""Metrics as values that a search minimises or maximises."""

from __future__ import annotations

from typing import Any

import numpy as np

from shoal.models.metrics import metric_error, metric_values

__all__ = ["is_greater_better", "score"]


def is_greater_better(metric: str) -> bool:
    """Whether a greater value of the metric is better."""
    return metric_error(metric, 1.0) < metric_error(metric, 0.0)


def score(metric: str, sums: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The metric of each row of sums; that of a signed metric without its sign.

    Args:
        metric: Its name.
        sums: Shape (n, sums); see `metric_sums`.

    Returns:
        Float64, shape (n,); NaN where nothing was measured.
    """
    found = np.full(len(sums), np.nan)
    fine = np.asarray(np.isfinite(sums).all(axis=1))
    if fine.any():
        values = metric_values(metric, sums[fine])
        found[fine] = values if is_greater_better(metric) else np.abs(values)
    return found
