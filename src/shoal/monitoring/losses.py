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
# From so many segments on, they tell of each other; and as so many days, at most.
_MANY, _MOST = 20, 1e6


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
    independent as rows are not: a day has its own shape, which all days share. What lingers all
    the same makes of n blocks about n (1 - r) / (1 + r), r their correlation with the block before
    (Wilks, 1995). Of twenty segments and more, each one's variance leans on those of all, as far as
    these are alike (Smyth, 2004): a week of one segment says little of it. What is promised is
    itself a mean, of so many rows, whose losses are taken to spread as much for their size as those
    of now. Fewer than five blocks are not tested.

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


def _independent(many: Array, r: Array) -> Array:
    """As many independent blocks as so many that linger; at least two."""
    far = 2 * r * (1 - r**many) / (many * (1 - r) ** 2)
    found: Array = np.maximum(many / ((1 + r) / (1 - r) - far), 2.0)
    return found


def _moderated(variance: Array, freedom: Array) -> tuple[Array, Array]:
    """Variances that lean on those of all segments, as far as these are alike (Smyth, 2004).

    A week has seven days, too few to know a segment's own spread by; a thousand segments' weeks
    tell how spreads are spread, an inverse chi-square, and it counts as so many more days.

    Args:
        variance: Each segment's, on one scale.
        freedom: Its degrees of freedom.

    Returns:
        The variances, and the degrees of freedom that they gained.
    """
    from scipy.special import digamma, polygamma

    good = np.isfinite(variance) & (variance > 0) & (freedom > 0)
    if good.sum() < _MANY:
        return variance, np.zeros(len(variance))
    half = freedom[good] / 2
    found = np.log(variance[good]) - digamma(half) + np.log(half)
    beyond = found.var(ddof=1) - polygamma(1, half).mean()
    if beyond <= 0:  # they differ by chance alone
        gained, centre = _MOST, np.exp(found.mean())
    else:
        gained = min(2 * _trigamma_inverse(beyond), _MOST)
        centre = np.exp(found.mean() + digamma(gained / 2) - np.log(gained / 2))
    together = (gained * centre + freedom * variance) / (gained + freedom)
    return np.where(good, together, variance), np.where(good, gained, 0.0)


def _trigamma_inverse(value: float) -> float:
    """Where the trigamma function has a value, by Newton's steps on its reciprocal."""
    from scipy.special import polygamma

    at = 0.5 + 1.0 / value
    for _ in range(50):
        three = float(polygamma(1, at))
        step = three * (1 - three / value) / float(polygamma(2, at))
        at += step
        if abs(step) < 1e-10 * at:
            break
    return at


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
        effective = _independent(many, r)
        # The variance of one block's share in the mean, times the number of blocks.
        # Days that linger lie closer to their own mean than to the true one.
        variance = square / (many - many / effective) * (many / count) ** 2
        lasting = (1 - r * r) / (1 + r * r)
        own = np.maximum(many * lasting - 1, 1.0)
        relative, known = _moderated(variance / mean**2, own)
        variance = relative * mean**2
        days = np.maximum(held_out / count * many, 2.0)
        promised = _independent(days, r)
        now, then = variance / effective, variance * (level / mean) ** 2 / promised
        error = np.sqrt(now + then)
        freedom = (now + then) ** 2 / (
            now**2 / (own + known) + then**2 / (np.maximum(days * lasting - 1, 1.0) + known)
        )
        p: Array = stdtr(freedom, (level - mean) / error)
    p = np.where(error > 0, p, np.where(mean > level, 0.0, 1.0))
    return np.where((many < _FEWEST) | (held_out < 2) | np.isnan(level), np.nan, p)
