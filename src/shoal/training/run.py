"""One training, from a table at a version to committed members and a fleet artifact."""

from __future__ import annotations

import importlib.machinery
import json
import os
import shutil
import sys
import sysconfig
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa

from shoal.errors import TrainingError, nearest
from shoal.lake import Lake
from shoal.models import FleetHeader, ModelDeclaration, TrainedFleet, write_fleet
from shoal.models.codecs import template_modules
from shoal.models.columns import accepts_nan, by_position
from shoal.models.metrics import metric_names, metric_task
from shoal.training.kernel import FitJob, fit_segments
from shoal.training.members import Group, Members, assemble, groups_of
from shoal.training.pool import Pool, Task
from shoal.training.source import (
    Segments,
    Source,
    Target,
    check_target,
    find_segments,
    open_source,
    sort_rows,
)
from shoal.training.summary import declared_params, summarise

__all__ = ["train"]

Progress = Callable[[int, int], None]

_MEASURED = {
    "regression": ("mae", "rmse", "r2", "bias"),
    "classification": ("accuracy", "f1", "log_loss"),
}


def train(
    declaration: ModelDeclaration,
    lake: Lake,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
    version: int | None = None,
) -> TrainedFleet:
    """Fit a model for every segment, and commit all members in one transaction.

    Each segment is split by time, fitted on the earlier rows and measured on the later ones;
    the kept state is then fitted on all its rows. A segment that fails or has too few rows gets
    a row that says so and names its fallback: the group of its first key columns or the global
    model, fitted on at most 200,000 of their rows.

    Args:
        declaration: What to train.
        lake: Where the table is, and where ``shoal.fleet_<name>`` goes.
        workers: Processes that fit; default one per processor.
        progress: Called with the numbers of fitted and of all segments.
        version: The table's version to read; default the newest.

    Returns:
        What was trained, for tracking.

    Raises:
        TableNotFound: There is no such table.
        ModelError: The declaration or its function is wrong.
        TrainingError: The data cannot train it; nothing was committed.
        Conflict: Another training of the model committed first; nothing was committed.
    """
    begun = time.perf_counter()
    source = open_source(declaration, lake, version)
    with tempfile.TemporaryDirectory(prefix="shoal-train-") as folder:
        if declaration.by:
            with Pool(workers or _processors(), _libraries()) as pool:
                plan = _Plan(declaration, source)
                fitted, groups, seconds = _fit_many(plan, pool, Path(folder), progress)
        else:
            plan = _Plan(declaration, source)
            fitted, groups, seconds = _fit_one(plan, Path(folder), progress)
    members = assemble(declaration, plan.segments, fitted, groups, plan.job)
    if not any(used is not None for used in members.table.column("model_used").to_pylist()):
        raise _nothing_fitted(declaration, members)
    return _commit(plan, lake, members, seconds, begun)


def _nothing_fitted(declaration: ModelDeclaration, members: Members) -> TrainingError:
    causes = "; ".join(f"{cause} ({n})" for cause, n in list(members.failures.items())[:3])
    error = next((e for e in members.table.column("error").to_pylist() if e), None)
    return TrainingError(
        f"Model {declaration.name!r}: no segment could be fitted: {causes}.",
        hint=f"the first error in full: {error}" if error and error not in causes else None,
    )


class _Plan:
    """Everything that is decided before the first fit."""

    def __init__(self, declaration: ModelDeclaration, source: Source) -> None:
        from sklearn.base import is_classifier

        self.declaration = declaration
        self.source = source
        estimator = declaration.build()
        classifier = bool(is_classifier(estimator))
        self.task = "classification" if classifier else "regression"
        self.target: Target = check_target(declaration, source, classifier=classifier)
        classes = len(self.target.classes or ())
        self._check_metric(classes)
        names = [f.name for f in source.features]
        named = by_position(estimator, names)
        baseline: str | int = declaration.baseline
        if declaration.baseline.startswith("seasonal_naive:"):
            baseline = names.index(declaration.baseline.partition(":")[2])
        metrics = dict.fromkeys((declaration.metric, *_MEASURED[self.task]))
        self.segments: Segments = find_segments(declaration, source)
        self.job = FitJob(
            build=partial(_placed, declaration, names) if named else declaration.build,
            features=len(names),
            classes=classes,
            timed=declaration.time is not None,
            nan_ok=accepts_nan(estimator),
            metrics=tuple(metrics),
            metric=declaration.metric,
            baseline=baseline,
            holdout=declaration.holdout,
            min_rows=declaration.min_rows,
            centre=self.target.mean,
            seed=declaration.seed,
        )

    def _check_metric(self, classes: int) -> None:
        metric, where = self.declaration.metric, f"Model {self.declaration.name!r}"
        if metric_task(metric) != self.task:
            fitting = metric_names(self.task)
            near = nearest(metric, fitting) or fitting[0]
            raise TrainingError(
                f"{where}: metric {metric!r} measures {metric_task(metric)}, but the estimator "
                f"does {self.task}; expected one of {', '.join(fitting)}.",
                hint=f'@shoal.model(..., metric="{near}")',
            )
        if metric == "roc_auc" and classes != 2:
            raise TrainingError(
                f"{where}: roc_auc needs two classes; target {self.declaration.target!r} has "
                f"{classes}.",
                hint='use metric="accuracy", "f1" or "log_loss"',
            )


def _placed(declaration: ModelDeclaration, names: list[str]) -> Any:
    estimator = declaration.build()
    by_position(estimator, names)
    return estimator


def _fit_one(
    plan: _Plan, folder: Path, progress: Progress | None
) -> tuple[pa.Table, list[tuple[Group, pa.Table]], float]:
    # One model gets all processors, so it is fitted here, with the estimator's own threads.
    from dataclasses import replace

    file = folder / "rows.arrow"
    sort_rows(plan.declaration, plan.source, plan.target, file)
    begun = time.perf_counter()
    with pa.memory_map(str(file)) as mapped:
        rows = pa.ipc.open_file(mapped).read_all()
        batch = fit_segments(rows, plan.segments.offsets, replace(plan.job, fast=False))
    if progress:
        progress(1, 1)
    return pa.Table.from_batches([batch]), [], time.perf_counter() - begun


def _fit_many(
    plan: _Plan, pool: Pool, folder: Path, progress: Progress | None
) -> tuple[pa.Table, list[tuple[Group, pa.Table]], float]:
    rows, job = folder / "rows.arrow", folder / "job"
    job.write_bytes(_pickled(plan.job, plan.declaration))
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


def _pickled(job: FitJob, declaration: ModelDeclaration) -> bytes:
    # In memory terms only: our own child process reads it and it is removed with the folder.
    import cloudpickle

    by_value = _modules_by_value(declaration)
    try:
        for module in by_value:
            cloudpickle.register_pickle_by_value(module)
        return bytes(cloudpickle.dumps(job))
    except Exception as error:
        raise TrainingError(
            f"Model {declaration.name!r} ({declaration.location}): its function cannot be sent "
            f"to worker processes: {type(error).__name__}: {error}",
            hint="make what it uses (connections, locks, sessions) inside the function",
        ) from error
    finally:
        for module in by_value:
            cloudpickle.unregister_pickle_by_value(module)


def _modules_by_value(declaration: ModelDeclaration) -> list[ModuleType]:
    """The person's own modules that a worker may not find by their name.

    A project's folder is on the import path only while its files are run, so the modules that
    they imported from it travel as well.
    """
    paths = [sysconfig.get_path(n) for n in ("stdlib", "platstdlib", "purelib", "platlib")]
    # Compared as text: there are some thousand modules.
    installed = tuple(f"{path}{os.sep}" for path in paths)
    own = str(getattr(declaration.function, "__module__", None))
    found = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not file or name == "__main__" or getattr(module, "__name__", None) != name:
            continue
        if file.startswith(installed) or name.partition(".")[0] == "shoal":
            continue
        if name == own or not _importable(name):
            found.append(module)
    return found


def _importable(name: str) -> bool:
    # Looked up anew: sys.modules would answer for a module whose folder has left the path.
    try:
        return importlib.machinery.PathFinder.find_spec(name.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False


def _libraries() -> list[str]:
    loaded = [name for name in ("xgboost", "lightgbm") if name in sys.modules]
    return ["sklearn.pipeline", "sklearn.linear_model", "sklearn.preprocessing", *loaded]


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _commit(
    plan: _Plan, lake: Lake, members: Members, seconds: float, begun: float
) -> TrainedFleet:
    declaration, source = plan.declaration, plan.source
    table = lake.table(f"shoal.fleet_{declaration.name}")
    application = f"shoal-fleet-{declaration.name}"
    fleet_version = (table.transaction(application) or 0) + 1
    header = FleetHeader(
        model=declaration.name,
        fleet_version=fleet_version,
        task=plan.task,
        by=declaration.by,
        features=source.features,
        target=declaration.target,
        classes=plan.target.classes,
        levels=tuple(declaration.by[:length] for length in range(len(declaration.by), -1, -1)),
        templates=members.templates,
        table=source.table.name,
        table_version=source.version,
        modules=tuple(sorted({m for t in members.templates.values() for m in template_modules(t)})),
    )
    same = {
        "fleet_version": pa.scalar(fleet_version, pa.int64()),
        "params": pa.scalar(json.dumps(declared_params(declaration)), pa.string()),
        "trained_at": pa.scalar(datetime.now(UTC), pa.timestamp("us", tz="UTC")),
        "table": pa.scalar(source.table.name, pa.string()),
        "table_version": pa.scalar(source.version, pa.int64()),
    }
    rows = members.table
    for name, value in same.items():
        rows = rows.append_column(name, pa.repeat(value, rows.num_rows))
    # A name of its own: another training of this model may be at the same version just now.
    artifact = Path(table.path) / "_fleets" / f"{fleet_version}-{uuid.uuid4().hex[:8]}"
    write_fleet(artifact, header, members.table)
    try:
        committed = table.append(
            rows,
            app=(application, fleet_version),
            metadata={"shoal": "fleet", "fleet_version": str(fleet_version)},
        )
    except BaseException:
        shutil.rmtree(artifact, ignore_errors=True)
        raise
    example = [*declaration.by, *(f.name for f in source.features)]
    return TrainedFleet(
        declaration=declaration,
        fleet_version=fleet_version,
        table=source.table.name,
        table_version=source.version,
        table_id=source.table.id(),
        table_path=source.table.path,
        members_table=table.name,
        members_version=committed,
        artifact=artifact,
        params=declared_params(declaration),
        metrics=summarise(
            members, plan.job, rows=int(plan.segments.offsets[-1]), fit_seconds=seconds
        ),
        seed=declaration.seed,
        input_example=_example(source, example),
        seconds=time.perf_counter() - begun,
        failures=members.failures,
    )


def _example(source: Source, columns: list[str]) -> pa.Table:
    found = source.scan().select(columns).head(5).collect().to_arrow()
    text = (pa.types.is_large_string, pa.types.is_string_view)
    plain = [
        f.with_type(pa.string()) if any(of(f.type) for of in text) else f for f in found.schema
    ]
    return found.cast(pa.schema(plain))
