"""The sums of the metrics of held-out rows, as columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from shoal.models.metrics import Held, metric_sums

if TYPE_CHECKING:
    from shoal.training.kernel import FitJob

__all__ = ["sum_columns"]


def sum_columns(
    job: FitJob, count: int, at: np.ndarray[Any, Any], held: Held | None, base: Held | None
) -> dict[str, pa.Array]:
    """For each metric ``sums_<metric>``, and ``sums_baseline`` for the declared one.

    Args:
        job: Names the metrics.
        count: How many segments there are.
        at: The positions of those with held-out rows, rising.
        held: Their held-out rows with the members' predictions; None when there are none.
        base: The same rows with the baseline's predictions.
    """
    names = {f"sums_{m}": m for m in job.metrics} | {"sums_baseline": job.metric}
    if held is None or base is None or not len(at):
        return {name: pa.nulls(count, pa.list_(pa.float64())) for name in names}
    measured = np.zeros(count, dtype=bool)
    measured[at] = True
    columns = {}
    for name, metric in names.items():
        sums = metric_sums(metric, base if name == "sums_baseline" else held)
        ends = np.concatenate([[0], np.cumsum(measured)]) * sums.shape[1]
        columns[name] = pa.ListArray.from_arrays(
            pa.array(ends, pa.int32()),
            pa.array(np.ascontiguousarray(sums).reshape(-1), pa.float64()),
            mask=pa.array(~measured),
        )
    return columns
