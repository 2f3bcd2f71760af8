"""What workers do in a search: measure points, or make a segment's whole search."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from shoal.models import ModelDeclaration
from shoal.training.job import FitJob
from shoal.training.kernel import fit_segments
from shoal.training.measured import Window, held_columns
from shoal.training.search.score import is_greater_better, score
from shoal.training.search.space import Point, Space, plain_json
from shoal.training.search.studies import new_study, quiet
from shoal.training.search.trials import Trial
from shoal.training.stages import STAGES, Stages
from shoal.training.task import Task
from shoal.training.tuned import with_params

__all__ = ["Measured", "SearchJob", "measured_of", "params_text", "segment_trials", "trials_of"]

Array = np.ndarray[Any, Any]

# Of so many different expansions of the same rows the sums are kept, while points are measured.
_MOST_SHARED = 3


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Segments measured with one point.

    Attributes:
        sums: The metric's sums, shape (segments, sums); NaN in segments that were not measured.
        rows: Validation rows, int64, shape (segments,).
        seconds: Processor seconds, shape (segments,).
        errors: Why segments were not measured, or None.
        steps: Of a single model that tells of its rounds, the metric by their percentage.
        pruned: It was given up at the last of them.
    """

    sums: Array
    rows: Array
    seconds: Array
    errors: list[str | None]
    steps: Mapping[int, float] = field(default_factory=dict)
    pruned: bool = False


@dataclass(frozen=True, kw_only=True)
class SearchJob:
    """Measures trials; see `FitJob`.

    Attributes:
        fit: How a segment is fitted and measured, but for its parameters.
        declaration: Whose parameters are searched for.
        features: Names of its features.
        space: The space.
        trials: How many trials a segment's own search makes.
    """

    fit: FitJob
    declaration: ModelDeclaration
    features: tuple[str, ...]
    space: Space
    trials: int

    def run(self, rows: pa.Table, task: Task) -> pa.RecordBatch:
        """Measure the task's segments.

        The task's note is JSON: ``{"points": [...]}``, where null stands for the baseline, gives a
        row per point and segment, and with ``"before": [trial, ...]`` gives up where the pruner
        would, after these trials; ``{"scopes": [...], "known": {scope: [trial, ...]}}`` makes a
        search for each segment and gives a row per trial.
        """
        note = json.loads(task.note)
        start, end = int(task.offsets[0]), int(task.offsets[-1])
        part, offsets = rows.slice(start, end - start), task.offsets - start
        if "points" in note:
            memo: dict[Any, Any] = {}
            found = []
            for point in note["points"]:
                if len(memo) > _MOST_SHARED:
                    memo.clear()
                if "before" in note:
                    before = [Trial(**_steps(trial)) for trial in note["before"]]
                    found.append(self._pruned(part, offsets, point, before))
                else:
                    found.append(self._measure(part, offsets, point, memo))
            return pa.RecordBatch.from_pydict(_columns(found))
        trials: list[Trial] = []
        with quiet():
            for i, scope in enumerate(note["scopes"]):
                one = part.slice(offsets[i], offsets[i + 1] - offsets[i])
                known = [Trial(**_steps(trial)) for trial in note["known"].get(scope, [])]
                trials += self._search(one, scope, known)
        return pa.RecordBatch.from_pylist([{"trial": json.dumps(vars(t))} for t in trials])

    def _search(self, rows: pa.Table, scope: str, known: list[Trial]) -> list[Trial]:
        metric = self.fit.metric
        study = new_study(
            self.space, greater=is_greater_better(metric), seed=self.fit.seed, scope=scope
        )
        study.replay(known)
        made: list[Trial] = []
        seen = {trial.point: trial for trial in known}
        for number in range(len(known), self.trials):
            point = study.ask()
            if point is None:
                break
            text = json.dumps(point)
            if text not in seen:
                found = self._measure(rows, np.array([0, rows.num_rows]), point)
                (seen[text],) = segment_trials(self.space, metric, [scope], number, point, found)
            trial = seen[text]
            study.tell(trial.state, trial.value)
            made.append(Trial(**{**vars(trial), "number": number}))
        return made

    def _pruned(
        self, rows: pa.Table, offsets: Array, point: Point, before: list[Trial]
    ) -> Measured:
        """One model measured with a point, or given up; nothing here depends on when it is run."""
        metric = self.fit.metric
        with quiet():
            study = new_study(
                self.space, greater=is_greater_better(metric), seed=self.fit.seed, scope="[]"
            )
            study.replay(before)
            study.take(point)
            stages = Stages(value=self._value, hopeless=study.hopeless)
            token = STAGES.set(stages)
            try:
                found = self._measure(rows, offsets, point)
            finally:
                STAGES.reset(token)
        return replace(found, steps=stages.steps, pruned=stages.pruned)

    def _value(self, window: Window) -> float | None:
        columns = held_columns(self.fit, 1, [(0, [window])])
        value = float(score(self.fit.metric, _matrix(columns[f"sums_{self.fit.metric}"]))[0])
        return value if np.isfinite(value) else None

    def _measure(
        self,
        rows: pa.Table,
        offsets: Array,
        point: Point | None,
        memo: dict[Any, Any] | None = None,
    ) -> Measured:
        count, begun = len(offsets) - 1, time.process_time()
        try:
            job = self._baseline() if point is None else self._job(point)
            batch = fit_segments(rows, offsets, replace(job, memo=memo))
        except Exception as error:  # noqa: BLE001 (whatever it is, it costs this trial only)
            took = np.full(count, (time.process_time() - begun) / count)
            text = f"{type(error).__name__}: {error}"[:2000]
            nothing = np.zeros(count, dtype=np.int64)
            return Measured(
                sums=np.full((count, 1), np.nan), rows=nothing, seconds=took, errors=[text] * count
            )
        return _measured(batch, self.fit.metric)

    def _job(self, point: Point) -> FitJob:
        params = self.space.params(point)
        job = with_params(self.fit, self.declaration, list(self.features), params)
        # The kernel leaves scikit-learn's own checks out: they are made here, once.
        estimator = job.build()
        parts = estimator.get_params(deep=True).values() if hasattr(estimator, "get_params") else ()
        for part in (estimator, *parts):
            # One that is not scikit-learn's own need not say what its parameters may be.
            if hasattr(part, "_parameter_constraints") and not isinstance(part, type):
                part._validate_params()
        return job

    def _baseline(self) -> FitJob:
        from sklearn.dummy import DummyClassifier, DummyRegressor

        build = partial(DummyClassifier, strategy="prior") if self.fit.classes else DummyRegressor
        return replace(self.fit, build=build, batched=False, nan_ok=True, min_rows=1)


def segment_trials(
    space: Space, metric: str, scopes: list[str], number: int, point: Point, found: Measured
) -> list[Trial]:
    """The trials of segments that each have a search of their own.

    Args:
        space: The space.
        metric: The metric.
        scopes: The segments' keys.
        number: The trials' number.
        point: The point that they were measured with.
        found: The segments measured.
    """
    values = score(metric, found.sums)
    params, text = params_text(space, point), json.dumps(point)
    undefined = f"{metric} is undefined on its validation rows"
    return [
        Trial(
            scope=scope,
            number=number,
            params=params,
            point=text,
            state="complete" if fine else "failed",
            value=value if fine else None,
            rows=rows,
            error=None if fine else (error or undefined),
            seconds=seconds,
        )
        for scope, value, fine, rows, error, seconds in zip(
            scopes,
            values.tolist(),
            np.isfinite(values).tolist(),
            found.rows.tolist(),
            found.errors,
            found.seconds.tolist(),
            strict=True,
        )
    ]


def params_text(space: Space, point: Point) -> str:
    """A point's parameters for the table."""
    return plain_json(space.params(point))


def measured_of(batch: pa.RecordBatch, segments: int) -> list[Measured]:
    """What `SearchJob.run` measured, one for each point.

    Args:
        batch: Its result, or the row of a segment whose worker died.
        segments: How many segments the task had.
    """
    if "held" not in batch.schema.names:
        text = batch.column("error")[0].as_py()
        nothing = np.zeros(1, dtype=np.int64)
        return [
            Measured(sums=np.full((1, 1), np.nan), rows=nothing, seconds=np.zeros(1), errors=[text])
        ]
    found = []
    for first in range(0, batch.num_rows, segments):
        part = batch.slice(first, segments)
        found.append(
            Measured(
                sums=_matrix(part.column("sums")),
                rows=part.column("held").to_numpy(),
                seconds=part.column("core_seconds").to_numpy(),
                errors=part.column("error").to_pylist(),
                **_looked(part.column("looked")[0].as_py()),
            )
        )
    return found


def trials_of(batch: pa.RecordBatch) -> list[Trial] | None:
    """The trials that segments' own searches made; None when the worker died."""
    if "trial" not in batch.schema.names:
        return None if batch.num_rows else []
    return [Trial(**_steps(json.loads(text))) for text in batch.column("trial").to_pylist()]


def _steps(trial: dict[str, Any]) -> dict[str, Any]:
    return {**trial, "steps": {int(k): v for k, v in trial["steps"].items()}}


def _measured(batch: pa.RecordBatch, metric: str) -> Measured:
    sums = _matrix(batch.column(f"sums_{metric}"))
    done = np.asarray(np.isfinite(sums).all(axis=1))
    reasons = batch.column("reason").to_pylist()
    errors = batch.column("error").to_pylist()
    return Measured(
        sums=sums,
        rows=np.where(done, batch.column("rows_holdout").to_numpy(), 0),
        seconds=batch.column("core_seconds").to_numpy(),
        errors=[
            None if fine else (error or reason or "nothing could be measured")
            for fine, error, reason in zip(done.tolist(), errors, reasons, strict=True)
        ],
    )


def _matrix(column: pa.Array) -> Array:
    valid = np.asarray(column.is_valid())
    if not valid.any():
        return np.full((len(column), 1), np.nan)
    flat = np.asarray(column.drop_null().flatten()).reshape(int(valid.sum()), -1)
    found = np.full((len(column), flat.shape[1]), np.nan)
    found[valid] = flat
    return found


def _columns(found: list[Measured]) -> dict[str, pa.Array]:
    lists = [list(row) if np.isfinite(row).all() else None for m in found for row in m.sums]
    return {
        "sums": pa.array(lists, pa.list_(pa.float64())),
        "held": pa.array(np.concatenate([m.rows for m in found]), pa.int64()),
        "core_seconds": pa.array(np.concatenate([m.seconds for m in found]), pa.float64()),
        "error": pa.array([e for m in found for e in m.errors], pa.string()),
        "looked": pa.array([_look_text(m) for m in found for _ in m.errors], pa.string()),
    }


def _look_text(measured: Measured) -> str | None:
    if not measured.steps:
        return None
    return json.dumps({"steps": dict(measured.steps), "pruned": measured.pruned})


def _looked(text: str | None) -> dict[str, Any]:
    return _steps(json.loads(text)) if text else {}
