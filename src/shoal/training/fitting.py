"""Fitting what a plan says: many segments in a pool of processes, or one model right here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from shoal.errors import TrainingError
from shoal.models import ModelDeclaration
from shoal.training.kernel import fit_segments
from shoal.training.members import Group, groups_of
from shoal.training.plan import Plan
from shoal.training.pool import Pool, Task
from shoal.training.ship import pickled_job
from shoal.training.source import Segments, sort_rows

__all__ = ["Fits", "Progress", "fit_many", "fit_one"]

Progress = Callable[[int, int], None]

# The kernel's row of each segment, that of each fallback group, and the seconds of fitting.
Fits = tuple[pa.Table, list[tuple[Group, pa.Table]], float]


def fit_one(plan: Plan, folder: Path, progress: Progress | None) -> Fits:
    """Fit one model over all rows, here, with the estimator's own threads on all processors."""
    file = folder / "rows.arrow"
    sort_rows(plan.declaration, plan.source, plan.target, file)
    begun = time.perf_counter()
    with pa.memory_map(str(file)) as mapped:
        rows = pa.ipc.open_file(mapped).read_all()
        batch = fit_segments(rows, plan.segments.offsets, replace(plan.job, fast=False))
    if progress:
        progress(1, 1)
    return pa.Table.from_batches([batch]), [], time.perf_counter() - begun


def fit_many(plan: Plan, pool: Pool, folder: Path, progress: Progress | None) -> Fits:
    """Fit every segment, the global model, and the groups that segments need to fall back to.

    Args:
        plan: What to fit.
        pool: The processes that fit; not yet opened.
        folder: Where the sorted rows may lie.
        progress: Called with the numbers of fitted and of all segments.

    Raises:
        TrainingError: A parameter of the estimator is wrong, or the workers cannot load it.
    """
    rows, job = folder / "rows.arrow", folder / "job"
    job.write_bytes(pickled_job(plan.job, plan.declaration))
    sort_rows(plan.declaration, plan.source, plan.target, rows)
    begun = time.perf_counter()
    pool.open(job, rows)
    segments, levels = plan.segments, len(plan.declaration.by)
    whole = Group(level=levels, first=0, end=len(segments.texts), key="[]")
    batches: dict[int, pa.RecordBatch] = {}
    groups: list[tuple[Group, pa.Table]] = []
    total, finished = len(segments.texts), 0

    def done(task: Task, batch: pa.RecordBatch) -> None:
        nonlocal finished
        _refuse_parameters(plan.declaration, batch)
        if task.group:
            groups.append((whole, pa.Table.from_batches([batch])))
            return
        batches[task.first] = batch
        finished += len(task)
        if progress:
            progress(finished, total)

    # The global model is always there, for segments that were never seen; it takes longest.
    first = _group_task(segments, whole, 0)
    pool.run([first, *_chunks(segments, pool.size)], done)
    fitted = pa.concat_tables(
        [pa.Table.from_batches([batches[i]]) for i in sorted(batches)], promote_options="default"
    )
    missing = np.flatnonzero(~np.asarray(fitted.column("state").is_valid())).tolist()
    for level in range(1, levels):
        if not missing:
            break
        wanted = groups_of(segments, level, missing)
        results: dict[int, pa.RecordBatch] = {}
        tasks = [_group_task(segments, group, i) for i, group in enumerate(wanted)]
        pool.run(tasks, partial(_keep, results))
        rows_of = [(group, pa.Table.from_batches([results[i]])) for i, group in enumerate(wanted)]
        groups += rows_of
        unfitted = [g for g, row in rows_of if not _has_state(row)]
        still = set(missing)
        missing = [i for g in unfitted for i in range(g.first, g.end) if i in still]
    return fitted, groups, time.perf_counter() - begun


def _keep(results: dict[int, pa.RecordBatch], task: Task, batch: pa.RecordBatch) -> None:
    results[task.first] = batch


def _has_state(row: pa.Table) -> bool:
    return bool(row.column("state")[0].is_valid)


def _group_task(segments: Segments, group: Group, position: int) -> Task:
    bounds = segments.offsets[[group.first, group.end]]
    return Task(first=position, offsets=bounds, group=True)


def _chunks(segments: Segments, workers: int) -> Iterator[Task]:
    """Large chunks first and small ones last, so that all workers end together."""
    count, at = len(segments.texts), 0
    while at < count:
        size = min(max((count - at) // (workers * 8), 1), 64)
        yield Task(first=at, offsets=segments.offsets[at : at + size + 1])
        at += size


def _refuse_parameters(declaration: ModelDeclaration, batch: pa.RecordBatch) -> None:
    for text in batch.column("error").to_pylist():
        if text and text.startswith("InvalidParameterError"):
            raise TrainingError(f"Model {declaration.name!r} ({declaration.location}): {text}")
