"""Fitting what a plan says with a group of processes."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from shoal.errors import TrainingError
from shoal.models.codecs import Decoder, class_map
from shoal.training.distributed.launch import launch
from shoal.training.distributed.learners import Transformed, kind_of
from shoal.training.distributed.rows import MappedRows, write_rows
from shoal.training.fitting import Fits, Progress
from shoal.training.kernel import SegmentFits
from shoal.training.nursery import search_path
from shoal.training.plan import Plan
from shoal.training.rows import SortedRows
from shoal.training.ship import pickled
from shoal.training.sorting import sort_rows
from shoal.training.split import split_windows

__all__ = ["Launch", "fit_together"]

Array = np.ndarray[Any, Any]

# Rows that are predicted at once.
_ROWS = 65_536

# Runs a group of workers over a folder: folder, workers, library, and who is told of epochs.
Launch = Callable[[Path, int, str, "Callable[[int], None] | None"], None]


def fit_together(plan: Plan, folder: Path, progress: Progress | None, run: Launch = launch) -> Fits:
    """Fit one model over all rows, in as many processes as it declares.

    It is measured on the holdout as any model is: by one that was fitted on the rows before, by
    the same number of processes.

    Args:
        plan: What to fit.
        folder: Where rows and states lie meanwhile.
        progress: Called with the numbers of epochs made and of all.
        run: Starts the workers.

    Raises:
        TrainingError: Its estimator cannot be fitted by workers, or there are more workers than
            rows.
    """
    declaration, job = plan.declaration, plan.job
    workers = declaration.workers
    assert workers
    sort_rows(declaration, plan.source, plan.target, folder / "sorted.arrow")
    begun, used = time.perf_counter(), time.process_time()
    file = folder / "rows.arrow"
    block = write_rows(folder / "sorted.arrow", file, job)
    (folder / "sorted.arrow").unlink()
    _check_rows(plan, block.rows, workers)
    rows = MappedRows(file)
    bounds = np.array([0, block.rows])
    (edges,) = split_windows(bounds, block.moments, job.holdout, job.backtest)
    fits = SegmentFits(replace(job, fast=False))
    group = _Group(plan, folder, workers, run, progress, windows=len(set(edges.tolist())) - 1)
    fits.fit, fits.predict = group.fit, _predict
    held = SortedRows(features=rows, target=rows.target(), moments=block.moments)  # type: ignore[arg-type]
    fits.add(held, edges.tolist(), block.dropped)
    fits.seconds.append(time.perf_counter() - begun)
    fits.core_seconds.append(time.process_time() - used + group.core_seconds)
    batch = fits.batch(np.array([block.dropped]))
    batch = batch.append_column("rows_hash", pa.array(block.hashes, pa.string()))
    return pa.Table.from_batches([batch]), [], time.perf_counter() - begun


def _check_rows(plan: Plan, rows: int, workers: int) -> None:
    least = rows - int(np.ceil(rows * plan.job.holdout))
    if workers > least:
        raise TrainingError(
            f"Model {plan.declaration.name!r} ({plan.declaration.location}): workers is {workers}, "
            f"but only {least} rows of {plan.source.table.name} are trained on.",
            hint=f"@shoal.model(..., workers={max(least // 2, 1)}), or leave workers out",
        )


class _Group:
    """Fits estimators by workers."""

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        workers: int,
        run: Launch,
        progress: Progress | None,
        *,
        windows: int,
    ) -> None:
        self._plan, self._folder, self._workers = plan, folder, workers
        self._run, self._progress = run, progress
        self._fits, self._made = windows + 1, 0
        self.core_seconds = 0.0

    def fit(self, estimator: Any, features: MappedRows, target: Array, weights: Any = None) -> None:
        """Fit an estimator; what it has learned is then in it, as if it had been fitted here."""
        _ = target, weights
        steps = getattr(estimator, "steps", None) or [("", estimator)]
        last, before = steps[-1][1], _fitted_steps(steps[:-1], features, target)
        kind, job = kind_of(last), self._plan.job
        folder = self._folder / f"group-{self._made}"
        folder.mkdir()
        (folder / "rows.arrow").symlink_to(features.file)
        content = {
            "kind": kind,
            "build": job.build,
            "steps": before,
            "rows": len(features),
            "seed": job.seed,
            "classes": job.classes,
            "trust_pickle": job.trust_pickle,
        }
        (folder / "job").write_bytes(pickled(content, self._plan.declaration))
        (folder / "path.json").write_text(json.dumps(search_path()), encoding="utf-8")
        (folder / "saved").mkdir()
        self._run(folder, self._workers, kind, self._told(epochs_of(last)))
        template, _, state = (folder / "result").read_bytes().partition(b"\0")
        found = Decoder(
            template.decode(), classes=class_map(last), trust_pickle=job.trust_pickle
        ).decode(state)
        vars(last).clear()
        vars(last).update(vars(found))
        self._made += 1
        shutil.rmtree(folder)

    def _told(self, epochs: int) -> Callable[[int], None] | None:
        if self._progress is None:
            return None
        return partial(self._tell, self._progress, epochs, self._made)

    def _tell(self, progress: Progress, epochs: int, made: int, epoch: int) -> None:
        progress(min(made * epochs + epoch, self._fits * epochs), self._fits * epochs)


def epochs_of(estimator: Any) -> int:
    """How many epochs, or rounds, an estimator is fitted for; 1 when it does not say."""
    if hasattr(estimator, "net"):
        return int(estimator.net.max_epochs)
    if hasattr(estimator, "wrapper"):
        return int((estimator.wrapper.fit_kwargs or {}).get("epochs", 1))
    if hasattr(estimator, "get_num_boosting_rounds"):
        return int(estimator.get_num_boosting_rounds())
    return 1


def _fitted_steps(steps: list[Any], features: MappedRows, target: Array) -> list[Any]:
    """Fit the transformers before the last step: in blocks where they can be, else at once."""
    fitted: list[Any] = []
    for _, step in steps:
        if step is None or step == "passthrough":
            continue
        rows = Transformed(features, fitted)
        if hasattr(step, "partial_fit"):
            for start in range(0, len(rows), _ROWS):
                part = rows.take(np.arange(start, min(start + _ROWS, len(rows))))
                step.partial_fit(*part)
        else:
            step.fit(rows.take(np.arange(len(rows)))[0], target)
        fitted.append(step)
    return fitted


def _predict(estimator: Any, features: MappedRows) -> Array:
    parts = [
        np.asarray(estimator.predict(np.asarray(features[at : at + _ROWS])))
        for at in range(0, len(features), _ROWS)
    ]
    return np.concatenate(parts)
