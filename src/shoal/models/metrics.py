"""Metrics as sums, so that segments' metrics and the metric of all rows come from one pass.

Each metric is a few sums over rows and a formula over those sums: sums per segment give the
segment's value, and the sums of all segments give the pooled one. numpy is imported when it is
needed, so that declaring a model stays light.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

__all__ = ["Held", "metric_error", "metric_names", "metric_sums", "metric_task", "metric_values"]

_TASKS = {
    "mae": "regression",
    "rmse": "regression",
    "mape": "regression",
    "smape": "regression",
    "wape": "regression",
    "mase": "regression",
    "pinball": "regression",
    "r2": "regression",
    "bias": "regression",
    "accuracy": "classification",
    "log_loss": "classification",
    "roc_auc": "classification",
    "f1": "classification",
}
# pinball_90 is the loss of a forecast of the 90% quantile; pinball that of the median.
_PINBALL = re.compile(r"pinball(?:_([1-9]\d?))?")
_GREATER_IS_BETTER = frozenset({"r2", "accuracy", "roc_auc", "f1"})


def metric_names(task: str | None = None) -> list[str]:
    """The known metrics; ``pinball_<percent>`` measures a quantile other than the median.

    Args:
        task: ``regression`` or ``classification``; None for both.
    """
    return [name for name, of in _TASKS.items() if task in (None, of)]


def metric_task(name: str) -> str | None:
    """``regression`` or ``classification``; None for an unknown metric."""
    return _TASKS.get("pinball" if _PINBALL.fullmatch(name) else name)


def metric_error(name: str, value: float) -> float:
    """The metric as an error: 0 is perfect, larger is worse. Skill is 1 - error / baseline's."""
    return 1.0 - value if name in _GREATER_IS_BETTER else abs(value)


@dataclass(frozen=True, kw_only=True)
class Held:
    """Held-out rows of some segments, one segment after the other.

    Attributes:
        truth: Targets; class codes for classification. Shape (rows,).
        guess: Predictions, same shape and meaning.
        scores: Class probabilities, shape (rows, classes); None for regression or when the
            estimator has none.
        starts: First row of each segment, shape (segments,), strictly rising from 0.
        classes: Number of classes; 0 for regression.
        centre: A constant near the targets' mean; keeps r2's sums accurate.
        scale: What mase divides each row's error by, shape (rows,); 0 leaves the row out.
    """

    truth: Any
    guess: Any
    scores: Any
    starts: Any
    classes: int = 0
    centre: float = 0.0
    scale: Any = None


def metric_sums(name: str, held: Held) -> Any:
    """The metric's sums, one row per segment.

    Args:
        name: One of `metric_names`.
        held: The held-out rows.

    Returns:
        A float64 array of shape (segments, sums); rows may be added.
    """
    import numpy as np

    if name == "roc_auc":
        return _auc_sums(held)
    columns = _regression(name, held) if metric_task(name) == "regression" else _classes(name, held)
    stacked = np.array(np.broadcast_arrays(*columns), dtype=np.float64)
    return np.add.reduceat(stacked, held.starts, axis=1).T


def metric_values(name: str, sums: Any) -> Any:
    """The metric of each row of sums; NaN where it is undefined.

    Args:
        name: One of `metric_names`.
        sums: What `metric_sums` gave, or sums of it, shape (n, sums).

    Returns:
        A float64 array of shape (n,).
    """
    import numpy as np

    with np.errstate(divide="ignore", invalid="ignore"):
        if name == "r2":
            squared, rows, total, total_squared = sums.T
            spread = total_squared - total * total / rows
            return np.where(spread > 0, 1.0 - squared / np.where(spread > 0, spread, 1.0), np.nan)
        if name == "f1":
            hits, false, missed = sums.reshape(len(sums), -1, 3).transpose(2, 0, 1)
            each = 2 * hits / (2 * hits + false + missed)
            if each.shape[1] == 2:
                return np.where(np.isnan(each[:, 1]), 0.0, each[:, 1])
            # Macro: the mean over the classes that occur.
            occurs = ~np.isnan(each)
            return np.where(occurs, each, 0.0).sum(axis=1) / occurs.sum(axis=1)
        ratio = sums[:, 0] / sums[:, 1]
        return np.sqrt(ratio) if name == "rmse" else ratio


def _regression(name: str, held: Held) -> list[Any]:
    import numpy as np

    truth = held.truth
    error = held.guess - truth
    one = np.ones(1)
    if name == "bias":
        return [error, one]
    if name == "mae":
        return [np.abs(error), one]
    if name == "rmse":
        return [error * error, one]
    if name == "wape":
        return [np.abs(error), np.abs(truth)]
    if name == "r2":
        centred = truth - held.centre
        return [error * error, one, centred, centred * centred]
    if quantile := _PINBALL.fullmatch(name):
        share = int(quantile[1] or 50) / 100
        return [np.maximum(-share * error, (1 - share) * error), one]
    if name == "mase":
        scale = np.zeros(1) if held.scale is None else held.scale
        return [
            np.where(scale > 0, np.abs(error) / np.where(scale > 0, scale, 1.0), 0.0),
            scale > 0,
        ]
    size = np.abs(truth) if name == "mape" else (np.abs(truth) + np.abs(held.guess)) / 2
    counts = size > 0
    share = np.abs(error) / np.where(counts, size, 1.0)
    # mape leaves out rows whose truth is 0; smape of 0 against 0 is a perfect 0.
    return [np.where(counts, share, 0.0), counts if name == "mape" else one]


def _classes(name: str, held: Held) -> list[Any]:
    import numpy as np

    if name == "accuracy":
        return [held.truth == held.guess, np.ones(1)]
    if name == "log_loss":
        if held.scores is None:
            return [np.full(len(held.truth), np.nan), np.ones(1)]
        chosen = held.scores[np.arange(len(held.truth)), held.truth]
        return [-np.log(np.clip(chosen, np.finfo(np.float64).eps, 1.0)), np.ones(1)]
    columns = []
    for code in range(held.classes):
        true, said = held.truth == code, held.guess == code
        columns += [true & said, ~true & said, true & ~said]
    return columns


def _auc_sums(held: Held) -> Any:
    # A rank statistic is no sum over rows: a segment's area counts with its rows, so the pooled
    # value is the row-weighted mean over the segments that hold both classes.
    import numpy as np
    from scipy.stats import rankdata

    sums = np.zeros((len(held.starts), 2))
    ends = [*held.starts[1:].tolist(), len(held.truth)]
    for i, (start, end) in enumerate(zip(held.starts.tolist(), ends, strict=True)):
        positive = held.truth[start:end] == 1
        n, p = end - start, int(positive.sum())
        if held.scores is None or p in (0, n):
            continue
        ranks = rankdata(held.scores[start:end, 1])
        area = (ranks[positive].sum() - p * (p + 1) / 2) / (p * (n - p))
        sums[i] = area * n, n
    return sums
