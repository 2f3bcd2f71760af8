"""Distances between two windows of the same columns, for all segments at once.

- ``ks``: Kolmogorov and Smirnov's largest distance of two distribution functions, with the
  asymptotic p-value of Stephens (1970);
- ``psi``: the population stability index over tenths of the baseline, less what two samples of
  one distribution are expected to have: (bins - 1) x (1/n + 1/m) (Yurdakul, 2018);
- ``js``: Jensen and Shannon's distance (base 2, 0 to 1) over the same bins;
- ``chi2``: Pearson's statistic of the two samples of a category column.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from shoal.monitoring.sketch import OTHER, POINTS

__all__ = ["drift"]

Array = np.ndarray[Any, Any]

_BINS = 10

# Pairs of sketches that are compared at once: some hundred MB.
_PAIRS = 20_000


def drift(baseline: pa.Table, current: pa.Table) -> pa.Table:
    """Compares sketches of the same columns.

    Args:
        baseline: Sketches of the window to compare with, of schema `PROFILE`.
        current: Those of the window that is judged.

    Returns:
        A row for each segment and column that both have values of: ``segment``, ``column``,
        ``rows``, ``baseline_rows``, ``ks``, ``psi``, ``js``, ``chi2``, ``missing``,
        ``baseline_missing`` (shares of the rows), ``outside`` (share of the values outside of the
        baseline's range) and ``p``: the smaller of the p-values of the distribution and of the
        missing share (two proportions), times two. Rows of one segment are taken for independent:
        what lingers in time makes ``p`` smaller than it is.
    """
    keys = ["segment", "column", "kind"]
    sides = [
        table.select(keys).append_column(name, pa.array(np.arange(len(table))))
        for name, table in (("before", baseline), ("now", current))
    ]
    both = sides[0].join(sides[1], keys, join_type="inner").sort_by([("now", "ascending")])
    left = baseline.take(both.column("before"))
    right = current.take(both.column("now"))
    rows = [np.asarray(t.column("rows"), dtype=np.float64) for t in (left, right)]
    gone = [np.asarray(t.column("missing"), dtype=np.float64) for t in (left, right)]
    known = [whole - lost for whole, lost in zip(rows, gone, strict=True)]
    found = {name: np.full(len(both), np.nan) for name in ("ks", "psi", "js", "chi2", "outside")}
    p = np.full(len(both), np.nan)
    kind = np.array(both.column("kind").to_pylist(), dtype=object)
    usable = (known[0] > 0) & (known[1] > 0)
    for name, compare in (("number", _numbers), ("category", _categories)):
        rest = np.flatnonzero((kind == name) & usable)
        for first in range(0, len(rest), _PAIRS):
            at = rest[first : first + _PAIRS]
            told = compare(left.take(at), right.take(at), known[0][at], known[1][at])
            p[at] = told.pop("p")
            for measure, values in told.items():
                found[measure][at] = values
    p = np.fmin(p, _proportions(gone, rows))
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = [lost / whole for lost, whole in zip(gone, rows, strict=True)]
    return pa.table(
        {
            "segment": right.column("segment"),
            "column": right.column("column"),
            "rows": right.column("rows"),
            "baseline_rows": left.column("rows"),
            **{name: _floats(values) for name, values in found.items()},
            "missing": _floats(shares[1]),
            "baseline_missing": _floats(shares[0]),
            "p": _floats(np.minimum(2 * p, 1.0)),
        }
    )


def _numbers(left: pa.Table, right: pa.Table, n: Array, m: Array) -> dict[str, Array]:
    from scipy.special import kolmogorov

    sides = [_points(table) for table in (left, right)]
    counts = [np.maximum(count, 1) for _, count in sides]
    owner = np.concatenate([np.repeat(np.arange(len(left)), count) for _, count in sides])
    values = np.concatenate([points for points, _ in sides])
    second = np.repeat([False, True], [len(points) for points, _ in sides])
    order = np.lexsort((values, owner))
    owner, values, second = owner[order], values[order], second[order]
    weight = np.where(second, -1.0 / counts[1][owner], 1.0 / counts[0][owner])
    new = np.r_[True, (owner[1:] != owner[:-1]) | (values[1:] != values[:-1])]
    last = np.r_[new[1:], True]
    # A segment's weights add up to nothing: the running sum begins anew with each segment.
    distance = np.where(last, np.abs(np.cumsum(weight)), 0.0)
    starts = np.searchsorted(owner, np.arange(len(left)))
    ks = np.maximum.reduceat(distance, starts)
    blur = 0.5 * sum(np.where(size > POINTS, 1.0 / POINTS, 0.0) for size in (n, m))
    root = np.sqrt(n * m / (n + m))
    p = kolmogorov((root + 0.12 + 0.11 / root) * np.maximum(ks - blur, 0.0))
    # The tenth of the baseline that a value falls in: how much of the baseline lies below it.
    below = np.cumsum(~second) - ~second
    below = below[np.maximum.accumulate(np.where(new, np.arange(len(new)), 0))]
    below = below - below[starts][owner]
    place = np.minimum(below * _BINS // counts[0][owner], _BINS - 1).astype(np.int64)
    cells = [_tally(owner, place, side, len(left)) for side in (~second, second)]
    psi, js = _divergences(cells[0], cells[1], n, m)
    low, high = (np.asarray(left.column(name)) for name in ("low", "high"))
    out = (values < low[owner]) | (values > high[owner])
    outside = np.bincount(owner[second], weights=out[second], minlength=len(left)) / counts[1]
    return {"ks": ks, "psi": psi, "js": js, "outside": outside, "p": p}


def _points(table: pa.Table) -> tuple[Array, Array]:
    lists = table.column("points").combine_chunks()
    return np.asarray(lists.flatten()), np.asarray(lists.value_lengths(), dtype=np.int64)


def _tally(owner: Array, place: Array, side: Array, segments: int) -> Array:
    cells = np.bincount(owner[side] * _BINS + place[side], minlength=segments * _BINS)
    return cells.reshape(segments, _BINS)


def _divergences(before: Array, now: Array, n: Array, m: Array) -> tuple[Array, Array]:
    """PSI without its bias, and Jensen-Shannon distance, of counts of shape (segments, bins)."""
    used = np.maximum((before + now > 0).sum(axis=1), 2)
    shares = []
    for cells, size in ((before, n), (now, m)):
        part = cells / np.maximum(cells.sum(axis=1, keepdims=True), 1)
        # Half a row in each bin: a bin that is empty on one side is far, not infinitely far.
        shares.append((part * size[:, None] + 0.5) / (size[:, None] + 0.5 * part.shape[1]))
    p, q = shares
    psi = ((q - p) * np.log(q / p)).sum(axis=1) - (used - 1) * (1 / n + 1 / m)
    middle = (p + q) / 2
    js = sum((side * np.log2(side / middle)).sum(axis=1) for side in (p, q)) / 2
    return np.maximum(psi, 0.0), np.sqrt(np.maximum(js, 0.0))


def _categories(left: pa.Table, right: pa.Table, n: Array, m: Array) -> dict[str, Array]:
    from scipy.special import gammaincc

    found: dict[str, list[float]] = {name: [] for name in ("psi", "js", "chi2", "outside", "p")}
    sides = [
        zip(table.column("labels").to_pylist(), table.column("counts").to_pylist(), strict=True)
        for table in (left, right)
    ]
    for number, (before, now) in enumerate(zip(*sides, strict=True)):
        cells = _aligned(dict(zip(*before, strict=True)), dict(zip(*now, strict=True)))
        whole = cells.sum(axis=1, keepdims=True)
        expected = whole * cells.sum(axis=0) / cells.sum()
        statistic = float(((cells - expected) ** 2 / expected).sum())
        freedom = cells.shape[1] - 1
        p = float(gammaincc(freedom / 2, statistic / 2)) if freedom else 1.0
        size = n[[number]], m[[number]]
        psi, js = _divergences(cells[[0]], cells[[1]], *size)
        new = cells[1][cells[0] == 0].sum() / whole[1, 0]
        for name, value in zip(found, (psi[0], js[0], statistic, new, p), strict=True):
            found[name].append(float(value))
    return {name: np.array(values) for name, values in found.items()}


def _aligned(before: dict[str, int], now: dict[str, int]) -> Array:
    """Counts of shape (2, labels); labels that one side does not name are among its others."""
    named = dict.fromkeys([*before, *now])
    for one, other in ((before, now), (now, before)):
        if OTHER in one:
            for label in [name for name in other if name not in one]:
                named.pop(label, None)
    rows = []
    for side in (before, now):
        kept = [side.get(label, 0) for label in named]
        rest = sum(count for label, count in side.items() if label not in named)
        if OTHER in named:
            kept[list(named).index(OTHER)] += rest
        rows.append(kept)
    return np.array(rows, dtype=np.float64)


def _proportions(gone: list[Array], rows: list[Array]) -> Array:
    """Two-sided p-values of two proportions' difference (pooled z-test)."""
    from scipy.special import ndtr

    with np.errstate(invalid="ignore", divide="ignore"):
        pooled = (gone[0] + gone[1]) / (rows[0] + rows[1])
        error = np.sqrt(pooled * (1 - pooled) * (1 / rows[0] + 1 / rows[1]))
        z = (gone[1] / rows[1] - gone[0] / rows[0]) / error
    p: Array = 2 * ndtr(-np.abs(z))
    return np.where(error > 0, p, 1.0)


def _floats(values: Array) -> pa.Array:
    return pa.array(values, pa.float64(), from_pandas=True)
