"""Fallback groups: the rows of several segments fitted as one; and the row of a lost segment."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from shoal.training.hashing import row_marks
from shoal.training.kernel import FitJob, fit_segments
from shoal.training.rows import TIME

__all__ = ["SAMPLE", "fit_group", "fit_sample", "lost_segment", "sample_rows"]

Array = np.ndarray[Any, Any]

# A group is fitted on at most this many of its rows.
SAMPLE = 200_000


def fit_group(rows: pa.Table, start: int, end: int, job: FitJob) -> pa.RecordBatch:
    """Fit one fallback group: the rows of several segments as one, a seeded sample of them.

    Args:
        rows: All sorted rows; see `fit_segments`.
        start: The group's first row.
        end: The row after its last.
        job: What the segments share.

    Returns:
        One row, as `fit_segments` gives; its ``reason`` tells of the sample.
    """
    part = rows.slice(start, end - start)
    return fit_sample(sample_rows(part, job.seed)[0], end - start, job)


def sample_rows(rows: pa.Table, seed: int) -> tuple[pa.Table, Array]:
    """At most `SAMPLE` rows: nothing but the seed and the rows' values decide which.

    Args:
        rows: Rows as `fit_segments` takes them, in any order.
        seed: Seeds the choice.

    Returns:
        The chosen rows, and the marks that chose them: the smallest of all.
    """
    marks = np.concatenate(
        [np.zeros(0, np.uint64)]
        + [
            row_marks([column.to_numpy() for column in batch.columns], seed)
            for batch in rows.to_batches()
            if batch.num_rows
        ]
    )
    if len(marks) <= SAMPLE:
        return rows, marks
    chosen = np.argpartition(marks, SAMPLE)[:SAMPLE]
    return rows.take(pa.array(chosen)), marks[chosen]


def fit_sample(rows: pa.Table, count: int, job: FitJob) -> pa.RecordBatch:
    """Fit one group on its sample.

    Args:
        rows: The sample; see `sample_rows`.
        count: How many rows the group has.
        job: What the segments share.

    Returns:
        One row, as `fit_segments` gives; its ``reason`` tells of the sample.
    """
    if job.timed:
        rows = rows.take(pa.array(np.argsort(rows.column(TIME).to_numpy(), kind="stable")))
    batch = fit_segments(rows, np.array([0, rows.num_rows]), replace(job, batched=False))
    if count <= SAMPLE or batch.column("reason")[0].is_valid:
        return batch
    reason = f"fitted on a sample of {SAMPLE:,} of {count:,} rows (seed {job.seed})"
    return batch.set_column(
        batch.schema.get_field_index("reason"), "reason", pa.array([reason], pa.string())
    )


def lost_segment(reason: str) -> pa.RecordBatch:
    """The row of a segment whose worker died."""
    text, number = pa.string(), pa.int64()
    columns = {
        "status": pa.array(["failed"], text),
        "reason": pa.array([reason], text),
        "error": pa.array([reason], text),
        "rows_train": pa.nulls(1, number),
        "rows_holdout": pa.nulls(1, number),
        "rows_dropped": pa.nulls(1, number),
        "rows_hash": pa.nulls(1, text),
        "fit_seconds": pa.nulls(1, pa.float64()),
        "core_seconds": pa.nulls(1, pa.float64()),
        "interval": pa.nulls(1, pa.float64()),
        "template": pa.nulls(1, text).dictionary_encode(),
        "state": pa.nulls(1, pa.large_binary()),
    }
    return pa.RecordBatch.from_pydict(columns)
