"""The rows that a search may see: each segment's training rows, in a file of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from shoal.training.job import FitJob
from shoal.training.rows import TARGET, TIME, WEIGHT, SortedRows, clean_rows, own_rows
from shoal.training.split import split_rows

__all__ = ["write_training_rows"]

Array = np.ndarray[Any, Any]

_AT_ONCE = 1_000_000


def write_training_rows(
    rows: Path, offsets: Array, order: Sequence[int], job: FitJob, into: Path
) -> tuple[list[int], Array]:
    """Write the training rows of segments, without those that the declaration holds out.

    Args:
        rows: The sorted rows of all segments.
        offsets: Int64, shape (segments + 1,).
        order: Positions of segments, in the order in which their rows are written.
        job: Says how rows are held out, and how many make a segment.
        into: The file to write.

    Returns:
        The positions of those that have enough rows, and the offsets of their rows in the file.
    """
    chosen: list[int] = []
    sizes: list[int] = []
    with pa.memory_map(str(rows)) as mapped, pa.OSFile(str(into), "wb") as sink:
        source = pa.ipc.open_file(mapped).read_all()
        with pa.ipc.new_file(sink, source.schema) as writer:
            for part in _blocks(np.asarray(order, dtype=np.int64), offsets):
                starts, ends = offsets[part], offsets[part + 1]
                slices = zip(starts.tolist(), (ends - starts).tolist(), strict=True)
                block = pa.concat_tables([source.slice(*each) for each in slices])
                bounds = np.concatenate([[0], np.cumsum(ends - starts)])
                own, _ = own_rows(block, bounds, job)
                past, train = _past(own, bounds, job)
                kept = train >= job.min_rows
                at = _ranges(bounds[:-1][kept], past[kept])
                writer.write_table(_table(own.take(at), source.schema))
                chosen += part[kept].tolist()
                sizes += (past - bounds[:-1])[kept].tolist()
    return chosen, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def _past(own: SortedRows, bounds: Array, job: FitJob) -> tuple[Array, Array]:
    """The row after each segment's last training row, and how many rows it trains on."""
    past, train = bounds[1:].copy(), np.diff(bounds)
    moments, numbered = own.moments, replace(own, moments=np.arange(len(own.target)))
    # The holdout is a share of the rows that an estimator takes. Trials may take different ones,
    # and none may see what is held out from another.
    for nan_ok in (not job.nan_ok, job.nan_ok):
        taken = replace(job, nan_ok=nan_ok)
        cleaned, clean = clean_rows(numbered, bounds, taken)
        at = cleaned.moments
        assert at is not None
        cuts = split_rows(clean, None if moments is None else moments[at], job.holdout)
        train = cuts - clean[:-1]
        held = np.flatnonzero(cuts < clean[1:])
        past[held] = np.minimum(past[held], at[cuts[held]])
    return past, train


def _blocks(order: Array, offsets: Array) -> list[Array]:
    sizes = np.cumsum(offsets[order + 1] - offsets[order])
    edges = np.flatnonzero(np.diff(sizes // _AT_ONCE)) + 1
    return np.split(order, edges)


def _ranges(starts: Array, ends: Array) -> Array:
    size = ends - starts
    found: Array = np.arange(size.sum()) + np.repeat(starts - (np.cumsum(size) - size), size)
    return found


def _table(rows: SortedRows, schema: pa.Schema) -> pa.Table:
    columns = {str(i): column for i, column in enumerate(rows.features.T)}
    columns |= {TARGET: rows.target, TIME: rows.moments, WEIGHT: rows.weights}
    return pa.table({name: columns[name] for name in schema.names}, schema)
