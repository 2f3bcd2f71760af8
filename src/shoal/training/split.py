"""Where a segment's training rows end and its held-out rows begin."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["split_rows", "split_windows"]

Array = np.ndarray[Any, Any]


def split_rows(bounds: Array, moments: Array | None, share: float) -> Array:
    """The row after each segment's last training row.

    Args:
        bounds: Segment i is rows bounds[i] to bounds[i + 1].
        moments: The rows' times, sorted in each segment; None without.
        share: The share of each segment to hold out.
    """
    edges = zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
    cuts = [
        start + _split(end - start, None if moments is None else moments[start:end], share)
        for start, end in edges
    ]
    return np.array(cuts, dtype=np.int64)


def split_windows(bounds: Array, moments: Array | None, share: float, windows: int) -> Array:
    """The edges of the windows that each segment's held-out rows are measured in.

    Args:
        bounds: Segment i is rows bounds[i] to bounds[i + 1].
        moments: The rows' times, sorted in each segment; None without.
        share: The share of each segment to hold out.
        windows: How many windows; some of them are empty in segments with few moments.

    Returns:
        Int64, shape (segments, windows + 1): the first edge is the row after the training rows,
        the last the row after the segment.
    """
    cuts, ends = split_rows(bounds, moments, share), bounds[1:]
    edges = cuts[:, None] + (ends - cuts)[:, None] * np.arange(windows + 1) // windows
    if moments is not None:
        for k in range(1, windows):
            for i, (cut, at, end) in enumerate(zip(cuts, edges[:, k], ends, strict=True)):
                if cut < at < end:
                    edges[i, k] = cut + np.searchsorted(moments[cut:end], moments[at])
    return edges


def _split(rows: int, moments: Array | None, share: float) -> int:
    """How many rows to train on; rows of one moment are never on both sides, but all on this."""
    cut = rows - int(np.ceil(rows * share))
    if moments is None or cut in (0, rows):
        return cut
    return int(np.searchsorted(moments, moments[cut], side="left")) or rows
