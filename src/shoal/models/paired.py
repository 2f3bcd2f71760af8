"""Which of two models is better, in each of thousands of segments at once.

Both predict the same rows, so the difference of their losses is tested row by row: by the paired
t-test (Student, 1908), which for one-step forecasts is the test of Diebold and Mariano (1995) with
the correction of Harvey, Leybourne and Newbold (1997); or by Wilcoxon's signed ranks (1945) in the
normal approximation with corrections for zeros and ties (Conover, 1973). Thousands of tests give
false discoveries, whose share Benjamini and Hochberg's procedure (1995) holds below alpha.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Paired", "paired", "q_values"]

Array = np.ndarray[Any, Any]

# Losses whose means differ by less of them than this are the same but for rounding.
_SAME = 1e-9

# With so many segments or more, the segments and not the rows are taken for independent.
_CLUSTERS = 10


@dataclass(frozen=True, kw_only=True)
class Paired:
    """The tests of all segments, and the one of all rows.

    Attributes:
        gain: Mean loss of the first model less that of the second, shape (segments,).
        p: Two-sided p-values, shape (segments,); NaN with fewer than two rows.
        q: Benjamini and Hochberg's adjusted p-values, NaN where ``p`` is.
        verdict: ``won``, ``lost`` or ``tied`` by the second model, shape (segments,), text.
        pooled_gain: The mean over all rows.
        pooled_p: Its two-sided p-value.
        pooled_verdict: ``won``, ``lost`` or ``tied``.
    """

    gain: Array
    p: Array
    q: Array
    verdict: Array
    pooled_gain: float
    pooled_p: float
    pooled_verdict: str


def paired(first: Array, second: Array, starts: Array, *, alpha: float, test: str = "t") -> Paired:
    """Test whether the second model's losses are smaller than the first's.

    Args:
        first: Losses of the first model, shape (rows,), finite, one segment after the other.
        second: Those of the second, of the same rows.
        starts: First row of each segment, strictly rising from 0, shape (segments,).
        alpha: Share of false discoveries among the segments that are won or lost, at most; also
            the level of the pooled test.
        test: ``t`` or ``wilcoxon``.
    """
    difference = first - second
    counts = np.diff(np.append(starts, len(difference)))
    gain = np.add.reduceat(difference, starts) / counts
    size = np.add.reduceat(np.abs(first) + np.abs(second), starts) / counts
    p = (_signed_ranks if test == "wilcoxon" else _t_test)(difference, starts, counts, gain)
    p = np.where(np.abs(gain) <= _SAME * size, 1.0, p)
    p[counts < 2] = np.nan
    q = q_values(p)
    clear = q <= alpha
    verdict = np.where(clear & (gain > 0), "won", np.where(clear & (gain < 0), "lost", "tied"))
    pooled_gain, pooled_p = _pooled(difference, starts)
    if abs(pooled_gain) <= _SAME * float(np.mean(np.abs(first) + np.abs(second))):
        pooled_p = 1.0
    word = "tied" if not pooled_p <= alpha else "won" if pooled_gain > 0 else "lost"
    return Paired(
        gain=gain,
        p=p,
        q=q,
        verdict=verdict,
        pooled_gain=pooled_gain,
        pooled_p=pooled_p,
        pooled_verdict=word,
    )


def q_values(p: Array) -> Array:
    """Adjusted p-values: those at most alpha hold a share of false ones of at most alpha.

    Args:
        p: p-values; NaN is no test and stays NaN.
    """
    q = np.full(len(p), np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    ranks = np.arange(1, len(order) + 1)
    scaled = p[order] * len(order) / ranks
    q[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return q


def _t_test(difference: Array, starts: Array, counts: Array, gain: Array) -> Array:
    from scipy.special import stdtr

    centred = difference - np.repeat(gain, counts)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.add.reduceat(centred * centred, starts) / (counts - 1)
        t = gain / np.sqrt(variance / counts)
        found: Array = 2.0 * stdtr(counts - 1.0, -np.abs(t))
    return found


def _signed_ranks(difference: Array, starts: Array, counts: Array, gain: Array) -> Array:
    from scipy.special import ndtr

    _ = gain
    size, segment = np.abs(difference), np.repeat(np.arange(len(starts)), counts)
    order = np.lexsort((size, segment))
    ordered = size[order]
    # Rows of one segment and size share the mean of their ranks; zeros rank first, but count none.
    new = np.r_[True, (np.diff(ordered) != 0) | (np.diff(segment[order]) != 0)]
    first = np.flatnonzero(new)
    last = np.r_[first[1:], len(ordered)]
    run = np.cumsum(new) - 1
    ranks = np.empty(len(ordered))
    ranks[order] = ((first + last + 1) / 2.0)[run] - starts[segment[order]]
    signed = ranks * np.sign(difference)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.sqrt(np.add.reduceat(signed * signed, starts))
        z = np.add.reduceat(signed, starts) / spread
    found: Array = 2.0 * ndtr(-np.abs(np.where(spread > 0, z, 0.0)))
    return found


def _pooled(difference: Array, starts: Array) -> tuple[float, float]:
    """Mean and p-value over all rows.

    Rows of one segment are not independent: the variance is that of the segments' sums (Liang and
    Zeger, 1986), where there are enough segments.
    """
    from scipy.special import stdtr

    rows = len(difference)
    mean = float(difference.mean())
    if len(starts) >= _CLUSTERS:
        sums = np.add.reduceat(difference - mean, starts)
        degrees = len(starts) - 1
        variance = float((sums * sums).sum()) * len(starts) / degrees / rows**2
    elif rows > 1:
        degrees = rows - 1
        variance = float(((difference - mean) ** 2).sum()) / degrees / rows
    else:
        return mean, float("nan")
    if variance == 0:
        return mean, 1.0 if mean == 0 else 0.0
    return mean, float(2.0 * stdtr(degrees, -abs(mean) / np.sqrt(variance)))
