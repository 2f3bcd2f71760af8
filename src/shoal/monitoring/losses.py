"""How wrong predictions were, once the truth is known, against what a model's holdout promised."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from shoal.models.segments import segment_key

__all__ = ["COMPARABLE", "losses"]

Array = np.ndarray[Any, Any]

# Metrics that are the mean of a loss of each row.
COMPARABLE = ("mae", "rmse", "mape", "smape", "accuracy")

_FEWEST = 5


def losses(
    metric: str,
    truth: Array,
    guess: Array,
    codes: Array,
    keys: list[tuple[str | None, ...]],
    promised: dict[str, tuple[float, int]],
    blocks: Array | None = None,
) -> pa.Table:
    """Tests whether each segment's mean loss is above the promised one.

    A one-sided t-test (Welch, 1947) over blocks of rows, such as days, whose sums are taken for
    independent as rows are not: a day has its own shape, which all days share. What lingers all the
    same makes of n blocks n (1 - r) / (1 + r), r their correlation with the block before (Wilks,
    1995). What is promised is itself a mean, of so many rows, whose losses are taken to spread as
    much for their size as those of now. Fewer than five blocks are not tested.

    Args:
        metric: One of `COMPARABLE`.
        truth: Targets, shape (rows,), in the order of time; class numbers for ``accuracy``.
        guess: Predictions of them, same shape.
        codes: Segment of each row, as positions in ``keys``.
        keys: The segments' key texts.
        promised: The metric on each segment's holdout and its rows, by canonical key.
        blocks: Block of each row, rising with time; None makes each row one.

    Returns:
        ``segment``, ``rows``, ``value`` and ``reference`` (the metric now and on the holdout),
        ``ratio`` of their errors and ``p``; rows without a finite truth and guess are left out.
    """
    good = np.isfinite(truth) & np.isfinite(guess)
    order = np.flatnonzero(good)[np.argsort(codes[good], kind="stable")]
    blocks = np.arange(len(codes)) if blocks is None else blocks
    codes, blocks, loss = codes[order], blocks[order], _loss(metric, truth[order], guess[order])
    good = np.isfinite(loss)
    codes, blocks, loss = codes[good], blocks[good], loss[good]
    held, starts = np.unique(codes, return_index=True)
    names = [segment_key(keys[code]) for code in held.tolist()]
    if not names:
        return pa.table({name: pa.nulls(0, kind) for name, kind in _COLUMNS.items()})
    count = np.diff(np.append(starts, len(loss))).astype(np.float64)
    mean = np.add.reduceat(loss, starts) / count
    told = [promised.get(name, (np.nan, 0)) for name in names]
    reference = np.array([value for value, _ in told])
    held_out = np.array([rows for _, rows in told], dtype=np.float64)
    level = _level(metric, reference)
    centred = loss - np.repeat(mean, count.astype(np.int64))
    p = _above(centred, starts, blocks, mean, level, held_out)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = mean / level
    if metric == "rmse":
        ratio = np.sqrt(ratio)
    columns = {
        "segment": names,
        "rows": count.astype(np.int64),
        "value": _as_metric(metric, mean),
        "reference": reference,
        "ratio": np.where(np.isfinite(ratio), ratio, np.nan),
        "p": p,
    }
    return pa.table(
        {name: pa.array(columns[name], kind, from_pandas=True) for name, kind in _COLUMNS.items()}
    )


_COLUMNS = {
    "segment": pa.string(),
    "rows": pa.int64(),
    "value": pa.float64(),
    "reference": pa.float64(),
    "ratio": pa.float64(),
    "p": pa.float64(),
}


def _loss(metric: str, truth: Array, guess: Array) -> Array:
    error: Array = np.abs(truth - guess)
    if metric == "mae":
        return error
    if metric == "rmse":
        return np.square(error)
    if metric == "accuracy":
        return np.asarray(truth != guess, dtype=np.float64)
    size = np.abs(truth) if metric == "mape" else (np.abs(truth) + np.abs(guess)) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(size > 0, error / size, np.nan if metric == "mape" else 0.0)


def _level(metric: str, value: Array) -> Array:
    """The metric as the mean of the losses."""
    if metric == "rmse":
        return value * value
    return 1.0 - value if metric == "accuracy" else value


def _as_metric(metric: str, mean: Array) -> Array:
    """The mean of the losses as the metric."""
    if metric == "rmse":
        return np.sqrt(mean)
    return 1.0 - mean if metric == "accuracy" else mean


def _above(
    centred: Array,
    starts: Array,
    blocks: Array,
    mean: Array,
    level: Array,
    held_out: Array,
) -> Array:
    from scipy.special import stdtr

    count = np.diff(np.append(starts, len(centred))).astype(np.float64)
    owner = np.repeat(np.arange(len(starts)), count.astype(np.int64))
    new = np.r_[True, (owner[1:] != owner[:-1]) | (blocks[1:] != blocks[:-1])]
    total = np.add.reduceat(centred, np.flatnonzero(new))
    owner = owner[new]
    first = np.searchsorted(owner, np.arange(len(starts)))
    many = np.diff(np.append(first, len(owner))).astype(np.float64)
    square = np.add.reduceat(total * total, first)
    follow = np.append(total[:-1] * total[1:], 0.0)
    follow[np.append(first[1:], len(owner)) - 1] = 0.0  # a segment's last block has no next
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.clip(np.add.reduceat(follow, first) / square, 0.0, 0.99)
        effective = np.maximum(many * (1 - r) / (1 + r), 2.0)
        # The variance of one block's share in the mean, times the number of blocks.
        variance = square / (many - 1) * (many / count) ** 2
        promised = np.maximum(held_out / count * effective, 2.0)
        now, then = variance / effective, variance * (level / mean) ** 2 / promised
        error = np.sqrt(now + then)
        freedom = (now + then) ** 2 / (now**2 / (effective - 1) + then**2 / (promised - 1))
        p: Array = stdtr(freedom, (level - mean) / error)
    p = np.where(error > 0, p, np.where(mean > level, 0.0, 1.0))
    return np.where((many < _FEWEST) | (held_out < 2) | np.isnan(level), np.nan, p)
