"""Fitting what a plan says: many segments in a pool of processes, or one model right here."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from shoal.errors import TrainingError
from shoal.models import ModelDeclaration
from shoal.training.base import Base
from shoal.training.batched import is_batched, least_together
from shoal.training.carry import Refit
from shoal.training.job import FitJob
from shoal.training.kernel import fit_segments
from shoal.training.local import Local
from shoal.training.members import Group, groups_of
from shoal.training.plan import Plan
from shoal.training.pool import Pool
from shoal.training.ship import pickled_job
from shoal.training.sorting import sort_rows
from shoal.training.source import Segments
from shoal.training.task import Task

__all__ = [
    "AT_ONCE",
    "Fits",
    "Progress",
    "fit_many",
    "fit_one",
    "refit",
    "refuse_parameters",
    "without_state",
]

# A group is fitted again when segments with this share of its rows were fitted since.
_SHARE = 0.1

# Rows that are fitted at once, where segments can be.
AT_ONCE = 250_000

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


def fit_many(plan: Plan, pool: Pool | Local, folder: Path, progress: Progress | None) -> Fits:
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
    job.write_bytes(pickled_job(plan.shared, plan.declaration))
    sort_rows(plan.declaration, plan.source, plan.target, rows, segments=plan.segments)
    begun = time.perf_counter()
    pool.open(job, rows)
    segments, levels = plan.segments, len(plan.declaration.by)
    whole = Group(level=levels, first=0, end=len(segments.texts), key="[]")
    batches: dict[int, pa.RecordBatch] = {}
    groups: list[tuple[Group, pa.Table]] = []
    total, finished = len(segments.texts), 0

    def done(task: Task, batch: pa.RecordBatch) -> None:
        nonlocal finished
        refuse_parameters(plan.declaration, batch)
        if task.group:
            groups.append((whole, pa.Table.from_batches([batch])))
            return
        batches[task.first] = batch
        finished += len(task)
        if progress:
            progress(finished, total)

    # The global model is always there, for segments that were never seen; it takes longest.
    first = plan.chosen(_group_task(segments, whole, 0), whole)
    chunks = _chunks(segments, pool.size, plan.job)
    tasks = [plan.chosen(t, range(t.first, t.first + len(t))) for t in chunks]
    pool.run([first, *tasks], done)
    fitted = pa.concat_tables(
        [pa.Table.from_batches([batches[i]]) for i in sorted(batches)], promote_options="default"
    )
    missing = without_state(fitted)
    for level in range(1, levels):
        if not missing:
            break
        wanted = groups_of(segments, level, missing)
        tasks = [
            plan.chosen(_group_task(segments, group, i), group) for i, group in enumerate(wanted)
        ]
        found = _fit_groups(pool, wanted, tasks)
        groups += found
        missing = _still_missing(found, missing)
    return fitted, groups, time.perf_counter() - begun


def refit(
    plan: Plan,
    base: Base,
    work: Refit,
    pool: Pool | Local,
    folder: Path,
    progress: Progress | None,
    *,
    checked: bool,
    affected: Collection[str] = (),
) -> Fits:
    """Fit what changed, and take everything else from the last training.

    A fallback group (also the global one) is fitted again when segments with a tenth of its rows
    or more were fitted since it was.

    Args:
        plan: What to fit; its segments are those of ``work``.
        base: The last training.
        work: Which segments to fit.
        pool: The processes that fit; not yet opened.
        folder: Where the sorted rows lie, as ``rows.arrow``.
        progress: Called with the numbers of fitted segments and of those to fit.
        checked: The segments that are not fitted are known to be as they were.
        affected: Keys of segments whose rows were bad: the groups above them are fitted again.

    Raises:
        TrainingError: A parameter of the estimator is wrong, or the workers cannot load it.
    """
    job = folder / "job"
    job.write_bytes(pickled_job(plan.shared, plan.declaration))
    begun = time.perf_counter()
    batches: dict[int, pa.RecordBatch] = {}
    finished = 0

    def done(task: Task, batch: pa.RecordBatch) -> None:
        nonlocal finished
        refuse_parameters(plan.declaration, batch)
        batches[task.first] = batch
        finished += len(task)
        if progress:
            progress(finished, len(work.stale))

    if len(work.stale):
        pool.open(job, folder / "rows.arrow")
        runs = _runs(work.offsets, pool.size, plan.job)
        pool.run((plan.chosen(t, work.stale[t.first : t.first + len(t)]) for t in runs), done)
    fresh = [pa.Table.from_batches([batches[i]]) for i in sorted(batches)]
    kept = np.setdiff1d(np.arange(len(work.keys)), work.stale)
    old = base.rows([work.keys[i] for i in kept])
    if checked:
        old = _compared(old, plan.source.version)
    rows = pa.concat_tables([*fresh, old], promote_options="default")
    order = np.argsort(np.concatenate([work.stale, kept]), kind="stable")
    rows = rows.take(pa.array(order))
    groups = _refit_groups(plan, base, rows, pool, folder, affected)
    return rows, groups, time.perf_counter() - begun


def _compared(rows: pa.Table, version: int) -> pa.Table:
    at = rows.schema.get_field_index("table_version")
    return rows.set_column(at, "table_version", pa.array([version] * len(rows), pa.int64()))


def _refit_groups(
    plan: Plan,
    base: Base,
    rows: pa.Table,
    pool: Pool | Local,
    folder: Path,
    affected: Collection[str],
) -> list[tuple[Group, pa.Table]]:
    bad = {tuple(json.loads(key)) for key in affected}
    segments, levels = plan.segments, len(plan.declaration.by)
    # A segment fitted now has no origin yet.
    fitted = rows.column("trained_on_version").fill_null(plan.source.version).to_numpy()
    sizes = np.diff(segments.offsets)
    known = base.members.filter(base.members["level"] > 0)
    since = dict(
        zip(known["segment"].to_list(), known["trained_on_version"].to_list(), strict=True)
    )
    found: list[tuple[Group, pa.Table]] = []
    missing = without_state(rows)
    for level in range(1, levels + 1):
        if level == levels:
            wanted = [Group(level=levels, first=0, end=len(segments.texts), key="[]")]
        else:
            wanted = groups_of(segments, level, missing) if missing else []
        stale = []
        for group in wanted:
            part = slice(group.first, group.end)
            seen = since.get(group.key)
            moved = seen is None or sizes[part][fitted[part] > seen].sum()
            start = tuple(json.loads(group.key))
            learned = any(key[: len(start)] == start for key in bad)
            if seen is None or learned or moved >= _SHARE * sizes[part].sum():
                stale.append(group)
            else:
                kept = _compared(base.rows([group.key]), plan.source.version)
                found.append((group, kept))
        if stale:
            offsets = _sorted_rows(plan, stale, folder)
            pool.open(folder / "job", folder / "groups.arrow")
            tasks = [Task(first=i, offsets=bounds, group=True) for i, bounds in enumerate(offsets)]
            tasks = [plan.chosen(t, group) for t, group in zip(tasks, stale, strict=True)]
            found += _fit_groups(pool, stale, tasks)
        missing = _still_missing([pair for pair in found if pair[0].level == level], missing)
    return found


def _sorted_rows(plan: Plan, groups: list[Group], folder: Path) -> np.ndarray[Any, Any]:
    """Writes the groups' rows, one group after the other; offsets of shape (groups, 2)."""
    import polars as pl

    segments = plan.segments
    at = np.concatenate([np.arange(group.first, group.end) for group in groups])
    source = plan.source
    if len(at) < len(segments.texts):
        keys = pl.from_arrow(segments.values.take(pa.array(at)))
        assert isinstance(keys, pl.DataFrame)
        kinds = source.scan().select(keys.columns).collect_schema()
        source = replace(source, keys=keys.cast(dict(kinds)))  # type: ignore[arg-type]
    sort_rows(plan.declaration, source, plan.target, folder / "groups.arrow")
    sizes = [segments.offsets[g.end] - segments.offsets[g.first] for g in groups]
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    return np.stack([bounds[:-1], bounds[1:]], axis=1)


def _runs(offsets: np.ndarray[Any, Any], workers: int, job: FitJob) -> Iterator[Task]:
    """Tasks of segments whose rows lie side by side."""
    rows = int((offsets[:, 1] - offsets[:, 0]).sum())
    most = _most(job, rows, len(offsets), workers)
    if not is_batched(job):  # else each task costs a fit by scikit-learn, for comparison
        most = min(max(len(offsets) // (workers * 4), 1), most)
    first = 0
    for i in range(1, len(offsets) + 1):
        apart = i == len(offsets) or offsets[i, 0] != offsets[i - 1, 1]
        if apart or i - first == most:
            bounds = np.append(offsets[first:i, 0], offsets[i - 1, 1])
            yield Task(first=first, offsets=bounds)
            first = i


def _fit_groups(
    pool: Pool | Local, groups: list[Group], tasks: list[Task]
) -> list[tuple[Group, pa.Table]]:
    results: dict[int, pa.RecordBatch] = {}
    pool.run(tasks, partial(_keep, results))
    return [(group, pa.Table.from_batches([results[i]])) for i, group in enumerate(groups)]


def without_state(rows: pa.Table) -> list[int]:
    """Positions of the segments that have no model."""
    found: list[int] = np.flatnonzero(~np.asarray(rows.column("state").is_valid())).tolist()
    return found


def _still_missing(fitted: list[tuple[Group, pa.Table]], missing: list[int]) -> list[int]:
    """The segments without a model whose group has none either."""
    still = set(missing)
    unfitted = [group for group, row in fitted if not _has_state(row)]
    return [i for g in unfitted for i in range(g.first, g.end) if i in still]


def _keep(results: dict[int, pa.RecordBatch], task: Task, batch: pa.RecordBatch) -> None:
    results[task.first] = batch


def _has_state(row: pa.Table) -> bool:
    return bool(row.column("state")[0].is_valid)


def _group_task(segments: Segments, group: Group, position: int) -> Task:
    bounds = segments.offsets[[group.first, group.end]]
    return Task(first=position, offsets=bounds, group=True)


def _chunks(segments: Segments, workers: int, job: FitJob) -> Iterator[Task]:
    """Large chunks first and small ones last, so that all workers end together."""
    count, at = len(segments.texts), 0
    most, at_once = _most(job, int(segments.offsets[-1]), count, workers), is_batched(job)
    while at < count:
        # What is fitted at once takes so short that no worker waits long for another.
        size = most if at_once else min(max((count - at) // (workers * 8), 1), most)
        yield Task(first=at, offsets=segments.offsets[at : at + size + 1])
        at += size


def _most(job: FitJob, rows: int, segments: int, workers: int) -> int:
    """How many segments a worker is given at once."""
    if not is_batched(job):
        return 64
    least = min(least_together(job), -(-segments // workers))
    return max(AT_ONCE * segments // max(rows, 1), least, 64)


def refuse_parameters(declaration: ModelDeclaration, batch: pa.RecordBatch | pa.Table) -> None:
    """Stop when scikit-learn refused a parameter: it would be refused in every segment.

    Raises:
        TrainingError: The first fit that met it says which.
    """
    for text in batch.column("error").to_pylist():
        if text and text.startswith("InvalidParameterError"):
            raise TrainingError(f"Model {declaration.name!r} ({declaration.location}): {text}")
