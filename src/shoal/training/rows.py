"""Sorted rows as arrays: read, put into their own order, and cleaned of what cannot be fitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from shoal.training.hashing import own_order, row_marks
from shoal.training.job import FitJob

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["TARGET", "TIME", "WEIGHT", "SortedRows", "clean_rows", "own_rows", "read_rows"]

Array = np.ndarray[Any, Any]

# Names of the columns beside the features "0", "1", ... in the sorted rows.
TARGET = "target"
TIME = "time"
WEIGHT = "weight"


@dataclass(frozen=True, kw_only=True)
class SortedRows:
    """Rows of segments, one segment after the other.

    Attributes:
        features: Float64, shape (rows, features).
        target: Float64, shape (rows,).
        moments: Int64, shape (rows,); None without times.
        weights: Float64, shape (rows,); None when all rows count alike.
    """

    features: Array
    target: Array
    moments: Array | None = None
    weights: Array | None = None

    def take(self, at: Array | slice) -> SortedRows:
        """Some of the rows, by position or mask."""
        return SortedRows(
            features=self.features[at],
            target=self.target[at],
            moments=None if self.moments is None else self.moments[at],
            weights=None if self.weights is None else self.weights[at],
        )

    def columns(self) -> list[Array]:
        """What tells rows apart, column by column."""
        others = (self.moments, self.weights)
        return [*self.features.T, self.target, *(each for each in others if each is not None)]


def read_rows(rows: pa.Table) -> SortedRows:
    """Sorted rows as arrays; see `fit_segments`."""
    count = sum(name.isdigit() for name in rows.column_names)
    features = np.empty((rows.num_rows, count))
    for i in range(count):
        features[:, i] = rows.column(str(i)).to_numpy()

    def other(name: str) -> Array | None:
        return rows.column(name).to_numpy() if name in rows.column_names else None

    target = rows.column(TARGET).to_numpy()
    return SortedRows(features=features, target=target, moments=other(TIME), weights=other(WEIGHT))


def own_rows(rows: pa.Table, offsets: Array, job: FitJob) -> tuple[SortedRows, Array]:
    """The rows in their own order, and the marks of the rows as they came.

    Args:
        rows: See `fit_segments`.
        offsets: As there.
        job: What the segments share.
    """
    found = read_rows(rows)
    marks = row_marks(found.columns())
    # A plain order of marks would hold out the rows with the largest, whatever the seed.
    order = own_order(found.moments, marks if job.timed else row_marks([marks], job.seed), offsets)
    return (found if order is None else found.take(order)), marks


def clean_rows(rows: SortedRows, offsets: Array, job: FitJob) -> tuple[SortedRows, Array]:
    """The rows that the job can take, and their offsets.

    Left out are rows with a missing or infinite target, with features that the estimator does not
    take, or with a weight that is missing, infinite or negative.
    """
    bounds = np.asarray(offsets, dtype=np.int64)
    features, target, weights = rows.features, rows.target, rows.weights
    # One sum tells whether there is anything to look for: NaN and infinity survive addition.
    with np.errstate(invalid="ignore", over="ignore"):
        sound = np.isfinite(features.sum()) and np.isfinite(target.sum())
        if weights is not None:
            sound = sound and np.isfinite(weights.sum()) and weights.min(initial=0.0) >= 0
        if sound:
            return rows, bounds
    bad = np.isinf(features) if job.nan_ok else ~np.isfinite(features)
    keep = np.isfinite(target) & ~bad.any(axis=1)
    if weights is not None:
        keep &= np.isfinite(weights) & (weights >= 0)
    before = np.concatenate([[0], np.cumsum(keep)])
    return rows.take(keep), before[bounds]
