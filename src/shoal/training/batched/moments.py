"""The sums of each segment that its linear models are made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

__all__ = ["Moments", "Sums", "sum_segments"]

Array = np.ndarray[Any, Any]

# A feature whose spread is less than this share of its mean is constant or left to scikit-learn:
# its digits would not survive.
_SPREAD = 1e-6


@dataclass(frozen=True, kw_only=True)
class Moments:
    """What one fit of each segment knows of its rows.

    Attributes:
        rows: Rows fitted on, or the sum of their weights; shape (segments,).
        shift: Means of features and target relative to the pivot, shape (segments, width + 1).
        spread: Centred cross products of features and target, shape (segments, width + 1,
            width + 1); 0 for features that are constant.
        constant: Which features have one value only, shape (segments, width).
        least: The least value of each feature, shape (segments, width); None when not asked for.
        most: The greatest.
        sound: Which segments can be fitted from these numbers without loss of digits.
    """

    rows: Array
    shift: Array
    spread: Array
    constant: Array
    least: Array | None
    most: Array | None
    sound: Array


@dataclass(frozen=True, kw_only=True)
class Sums:
    """The segments' rows and sums.

    Attributes:
        work: Features, target and ones; features and target less their segment's pivot. Shape
            (rows, width + 2).
        pivot: The mean of each segment's training rows, shape (segments, width + 1).
        train: Of the training rows.
        whole: Of all rows.
        weighted_train: Of the training rows, each counted by its weight; None without weights.
        weighted_whole: Likewise of all rows.
    """

    work: Array
    pivot: Array
    train: Moments
    whole: Moments
    weighted_train: Moments | None = None
    weighted_whole: Moments | None = None


def sum_segments(
    features: Array,
    target: Array,
    starts: Array,
    cuts: Array,
    ends: Array,
    *,
    extremes: bool,
    weights: Array | None = None,
) -> Sums:
    """Sum each segment's training rows and, from the same pass, all its rows.

    The sums are of differences from the training rows' means, and their means' own rounding is
    corrected: the corrected two-pass algorithm of Chan, Golub and LeVeque (1983), which
    scikit-learn uses as well.

    Args:
        features: Shape (rows, width).
        target: Shape (rows,).
        starts: Each segment's first row.
        cuts: The row after its last training row.
        ends: The row after its last.
        extremes: Whether least and greatest values are wanted.
        weights: Of all rows; None without.
    """
    count, width = len(starts), features.shape[1]
    work = np.empty((len(features), width + 2))
    work[:, :width], work[:, width], work[:, -1] = features, target, 1.0
    pivot = np.empty((count, width + 2))
    past, later = np.zeros((2, count, width + 2, width + 2))
    ones = np.ones(int((cuts - starts).max(initial=0)))
    edges = zip(starts.tolist(), cuts.tolist(), ends.tolist(), strict=True)
    # One small product for each segment: its rows stay in the processor's cache.
    for i, (start, cut, end) in enumerate(edges):
        train, held = work[start:cut], work[cut:end]
        mean = np.matmul(ones[: cut - start], train, out=pivot[i])
        mean /= cut - start
        mean[-1] = 0.0
        work[start:end] -= mean
        np.matmul(train.T, train, out=past[i])
        if cut < end:
            np.matmul(held.T, held, out=later[i])
    pivot = pivot[:, :-1]
    later += past

    def moments(products: Array, until: Array) -> Moments:
        return _moments(features, products, pivot, starts, until, extremes)

    sums = Sums(work=work, pivot=pivot, train=moments(past, cuts), whole=moments(later, ends))
    if weights is None:
        return sums
    heavy, later = _weighted(work, weights, starts, cuts, ends)
    return replace(
        sums, weighted_train=moments(heavy, cuts), weighted_whole=moments(heavy + later, ends)
    )


def _weighted(
    work: Array, weights: Array, starts: Array, cuts: Array, ends: Array
) -> tuple[Array, Array]:
    """The products of each segment's training and later rows, each row by its weight."""
    past, later = np.zeros((2, len(starts), work.shape[1], work.shape[1]))
    edges = zip(starts.tolist(), cuts.tolist(), ends.tolist(), strict=True)
    for i, (start, cut, end) in enumerate(edges):
        for begin, stop, into in ((start, cut, past), (cut, end, later)):
            if begin < stop:
                rows = work[begin:stop]
                np.matmul(rows.T, rows * weights[begin:stop, None], out=into[i])
    return past, later


def _moments(
    features: Array, products: Array, pivot: Array, starts: Array, ends: Array, extremes: bool
) -> Moments:
    rows = products[:, -1, -1].copy()
    shift = products[:, -1, :-1] / rows[:, None]
    spread = products[:, :-1, :-1] - rows[:, None, None] * shift[:, :, None] * shift[:, None, :]
    deviation = np.einsum("sii->si", spread) / rows[:, None]
    narrow = ~(deviation > np.square(_SPREAD * (pivot + shift)))
    sound = np.isfinite(spread).all(axis=(1, 2)) & ~narrow[:, -1]
    constant = narrow[:, :-1]
    for i, feature in np.argwhere(constant):
        values = features[starts[i] : ends[i], feature]
        if (values == values[0]).all():
            spread[i, feature] = spread[i, :, feature] = 0.0
        else:
            sound[i] = False
    least = most = None
    if extremes:
        least, most = np.empty((2, len(starts), features.shape[1]))
        for i, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            np.min(features[start:end], axis=0, out=least[i])
            np.max(features[start:end], axis=0, out=most[i])
    return Moments(
        rows=rows,
        shift=shift,
        spread=spread,
        constant=constant,
        least=least,
        most=most,
        sound=sound,
    )
