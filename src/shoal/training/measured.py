"""What held-out rows tell of each segment, as columns: sums of metrics, widths of intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from shoal.models.metrics import Held, metric_sums
from shoal.training.intervals import conformal_widths

if TYPE_CHECKING:
    from shoal.training.job import FitJob

__all__ = ["Window", "held_columns", "sum_columns"]

Array = np.ndarray[Any, Any]


class Window(NamedTuple):
    """Held-out rows of one segment, predicted by a model of the rows before them.

    Attributes:
        truth: Targets, or codes of classes.
        guess: The model's predictions.
        scores: Its probabilities of the classes, shape (rows, classes); None without.
        base: The baseline's predictions.
        base_scores: Its probabilities.
        scale: What mase divides the errors by.
    """

    truth: Array
    guess: Array
    scores: Array | None
    base: Array
    base_scores: Array | None
    scale: Array


def held_columns(
    job: FitJob, count: int, held: list[tuple[int, list[Window]]]
) -> dict[str, pa.Array]:
    """The columns of `sum_columns`, from the windows of some segments.

    Args:
        job: Names the metrics.
        count: How many segments there are.
        held: Positions of those with held-out rows, rising, with their windows.
    """
    if not held:
        return sum_columns(job, count, np.array([], dtype=np.int64), None, None)
    windows = [window for _, each in held for window in each]
    sizes = [sum(len(window.truth) for window in each) for _, each in held]
    starts = np.cumsum([0, *sizes[:-1]])
    truth, guess, scores, base, base_scores, scale = zip(*windows, strict=True)
    ours, theirs = (
        Held(
            truth=np.concatenate(truth),
            guess=np.concatenate(said),
            scores=_stack(shares),
            starts=starts,
            classes=job.classes,
            centre=job.centre,
            scale=np.concatenate(scale),
        )
        for said, shares in ((guess, scores), (base, base_scores))
    )
    return sum_columns(job, count, np.array([at for at, _ in held]), ours, theirs)


def sum_columns(
    job: FitJob, count: int, at: np.ndarray[Any, Any], held: Held | None, base: Held | None
) -> dict[str, pa.Array]:
    """For each metric ``sums_<metric>``, ``sums_baseline`` for the declared one, ``interval``.

    Args:
        job: Names the metrics.
        count: How many segments there are.
        at: The positions of those with held-out rows, rising.
        held: Their held-out rows with the members' predictions; None when there are none.
        base: The same rows with the baseline's predictions.
    """
    names = {f"sums_{m}": m for m in job.metrics} | {"sums_baseline": job.metric}
    if held is None or base is None or not len(at):
        nothing = {name: pa.nulls(count, pa.list_(pa.float64())) for name in names}
        return {"interval": pa.nulls(count, pa.float64()), **nothing}
    measured = np.zeros(count, dtype=bool)
    measured[at] = True
    widths = np.full(count, np.nan)
    if job.interval:
        widths[at] = conformal_widths(held.guess - held.truth, held.starts, job.interval)
    columns = {"interval": pa.array(widths, mask=np.isnan(widths))}
    for name, metric in names.items():
        sums = metric_sums(metric, base if name == "sums_baseline" else held)
        ends = np.concatenate([[0], np.cumsum(measured)]) * sums.shape[1]
        columns[name] = pa.ListArray.from_arrays(
            pa.array(ends, pa.int32()),
            pa.array(np.ascontiguousarray(sums).reshape(-1), pa.float64()),
            mask=pa.array(~measured),
        )
    return columns


def _stack(scores: tuple[Array | None, ...]) -> Array | None:
    return None if any(s is None for s in scores) else np.concatenate(scores)  # type: ignore[arg-type]
