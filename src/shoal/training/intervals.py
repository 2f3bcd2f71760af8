"""Widths of prediction intervals, and the scale of mase: what held-out rows are compared with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["conformal_widths", "naive_scale"]

Array = np.ndarray[Any, Any]


def conformal_widths(errors: Array, starts: Array, coverage: float) -> Array:
    """Half the width of each segment's prediction interval, by split conformal prediction.

    The k-th smallest absolute error of n held-out rows, k = ceil((n + 1) coverage), covers the
    next target with at least the wanted probability when rows are exchangeable (Lei et al.,
    "Distribution-Free Predictive Inference for Regression", 2018). The interval is put around the
    model that is fitted on all rows, which the theorem does not speak of; as that model has seen
    more, it is not expected to be worse.

    Args:
        errors: Of all held-out rows, one segment after the other.
        starts: First row of each segment, strictly rising from 0.
        coverage: The wanted share, between 0 and 1.

    Returns:
        Shape (segments,); NaN for segments with fewer than coverage / (1 - coverage) rows, which
        no finite width can be given for.
    """
    sizes = np.diff(np.append(starts, len(errors)))
    # A coverage of 0.9 of 9 rows is their largest error, not more for rounding's sake.
    ranks = np.ceil((sizes + 1) * coverage - 1e-9).astype(np.int64)
    found = np.full(len(starts), math.nan)
    absolute = np.abs(errors)
    for i in np.flatnonzero(ranks <= sizes).tolist():
        part = absolute[starts[i] : starts[i] + sizes[i]]
        found[i] = np.partition(part, ranks[i] - 1)[ranks[i] - 1]
    return found


def naive_scale(target: Array, forecast: Array | None, starts: Array, ends: Array) -> Array:
    """The mean absolute error of the naive forecast on training rows: what mase divides by.

    Source: Hyndman and Koehler, "Another look at measures of forecast accuracy" (2006).

    Args:
        target: Shape (rows,), in the order of time.
        forecast: The seasonal naive forecast of each row; None means the target of the row before.
        starts: Each segment's first row.
        ends: The row after its last training row.

    Returns:
        Shape (segments,); 0 where there is nothing to compare.
    """
    found = np.zeros(len(starts))
    for i, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        if forecast is not None and start < end:
            found[i] = np.abs(target[start:end] - forecast[start:end]).mean()
        elif end - start > 1:
            found[i] = np.abs(np.diff(target[start:end])).mean()
    return np.where(np.isfinite(found), found, 0.0)
