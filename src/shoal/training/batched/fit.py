"""The segments of a chunk, fitted and measured at once."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from shoal.errors import ModelError
from shoal.models.codecs import Encoder, decode, prove_round_trip
from shoal.models.metrics import Held
from shoal.training.batched.moments import Sums, sum_segments
from shoal.training.batched.plan import Plan, plan_of
from shoal.training.batched.solve import Solution, solve
from shoal.training.batched.state import fill_states
from shoal.training.intervals import naive_scale
from shoal.training.measured import sum_columns

if TYPE_CHECKING:
    from shoal.training.kernel import FitJob

__all__ = ["Together", "fit_batched", "is_batched"]

Array = np.ndarray[Any, Any]

# How far a batched prediction may be from scikit-learn's, relative to the largest.
_TOLERANCE = 1e-8


@dataclass(frozen=True, kw_only=True)
class Together:
    """Segments that were fitted at once.

    Attributes:
        at: Their positions among all segments, rising.
        rows: One row for each, as `fit_segments` gives them but for what all segments have.
    """

    at: Array
    rows: pa.RecordBatch

    def others(self, count: int) -> Array:
        """The positions, of ``count``, that are not among them."""
        return np.delete(np.arange(count), self.at)

    def joined(self, others: pa.RecordBatch, dropped: Array) -> pa.RecordBatch:
        """All segments in order.

        Args:
            others: The rows of the other segments.
            dropped: The number of rows that were dropped of each segment, of all.
        """
        rows = self.rows.append_column("rows_dropped", pa.array(dropped[self.at], pa.int64()))
        rows = rows.select(others.schema.names)
        if not len(others):
            return rows
        both = pa.Table.from_batches([rows, others]).unify_dictionaries().combine_chunks()
        order = np.argsort(np.concatenate([self.at, self.others(len(dropped))]), kind="stable")
        return both.take(pa.array(order)).combine_chunks().to_batches()[0]


def fit_batched(
    features: Array, target: Array, bounds: Array, edges: Array, job: FitJob
) -> Together | None:
    """Fit and measure all segments that a batch can fit as well as scikit-learn.

    One segment is fitted by scikit-learn too: it gives the members' template, and proves that
    batched members predict what scikit-learn's do.

    Args:
        features: Finite features, shape (rows, features).
        target: Finite targets, shape (rows,).
        bounds: Segment i is rows bounds[i] to bounds[i + 1].
        edges: The windows of held-out rows; see `split_windows`.
        job: What the segments share.

    Returns:
        The fitted segments; None when there are none. The others are for scikit-learn.
    """
    begun, used = time.perf_counter(), time.process_time()
    plan = _plan(job)
    at = np.flatnonzero(edges[:, 0] - bounds[:-1] >= max(job.min_rows, 2))
    if plan is None or not len(at):
        return None
    starts, ends, edges = bounds[at], bounds[at + 1], edges[at]
    raw = features
    # Trials of the same rows, which have one window, differ in the solution only.
    memo, key = job.memo, repr((plan.expand, plan.extremes))
    known: Sums | None = memo.get(key) if memo is not None else None
    if known is None:
        expanded = _expanded(plan, features)
        if expanded is None:
            return None
        features = expanded
    sound = np.ones(len(at), dtype=bool)
    # Of each row: what is said of it by a model of the rows before its window, and the baseline.
    guess, base, scale = np.full((3, len(target)), np.nan)
    with np.errstate(all="ignore"):  # what is not finite is left to scikit-learn
        for begin, end in zip(edges.T[:-1], edges.T[1:], strict=True):
            sums = known or sum_segments(
                features, target, starts, begin, end, extremes=plan.extremes
            )
            past = solve(plan, sums.train, sums.pivot)
            sound &= past.sound
            _predict(sums, past.weights, begin, end, guess)
            later = _ranges(begin, end)
            base[later] = _baseline(job, raw, target, sums, begin, end)
            if "mase" in job.metrics:
                column = raw[:, job.baseline] if isinstance(job.baseline, int) else None
                scale[later] = np.repeat(naive_scale(target, column, starts, begin), end - begin)
        whole = past if job.measure_only else solve(plan, sums.whole, sums.pivot)
    if memo is not None:
        memo[key] = sums
    sound &= whole.sound
    held = ends - edges[:, 0]
    later = _ranges(edges[:, 0], ends)
    broken = np.flatnonzero(~np.isfinite(guess[later]))
    sound[np.searchsorted(np.cumsum(held), broken, side="right")] = False
    if not sound.any():
        return None
    first = int(np.argmax(sound))
    rows = slice(starts[first], ends[first])
    kept_states = _states(job, plan, whole, sound, raw[rows], target[rows])
    if kept_states is None:
        return None
    template, states = kept_states
    later = later[np.repeat(sound, held)]
    at, held = at[sound], held[sound]
    columns = _columns(template, states, (edges[:, 0] - starts)[sound], held)
    some = np.flatnonzero(held)
    first_held = (np.cumsum(held) - held)[some]
    ours, theirs = (
        Held(
            truth=target[later],
            guess=said[later],
            scores=None,
            starts=first_held,
            centre=job.centre,
            scale=scale[later],
        )
        for said in (guess, base)
    )
    columns |= sum_columns(job, len(at), some, ours, theirs)
    # An equal share each.
    took = {"fit_seconds": time.perf_counter() - begun, "core_seconds": time.process_time() - used}
    columns |= {name: pa.array(np.full(len(at), t / len(at))) for name, t in took.items()}
    return Together(at=at, rows=pa.RecordBatch.from_pydict(columns))


def is_batched(job: FitJob) -> bool:
    """Whether the job's segments are fitted at once, all that can be."""
    return _plan(job) is not None


def _plan(job: FitJob) -> Plan | None:
    if not job.batched or job.classes or job.nan_ok:
        return None
    try:
        return plan_of(job.build())
    except Exception:  # noqa: BLE001 (the ordinary way says what is wrong, segment by segment)
        return None


def _predict(sums: Sums, weights: Array, cuts: Array, ends: Array, into: Array) -> None:
    for i, (cut, end) in enumerate(zip(cuts.tolist(), ends.tolist(), strict=True)):
        if cut < end:
            np.matmul(sums.work[cut:end], weights[i], out=into[cut:end])


def _expanded(plan: Plan, features: Array) -> Array | None:
    try:
        for _, step in plan.expand:
            features = np.asarray(step.fit_transform(features), dtype=np.float64)
    except Exception:  # noqa: BLE001 (the ordinary way meets and tells it again)
        return None
    return features


def _states(
    job: FitJob, plan: Plan, whole: Solution, sound: Array, features: Array, target: Array
) -> tuple[str, Array] | None:
    """The members' template and states, proven on the rows of one of them."""
    if job.measure_only:
        return "", np.empty((int(sound.sum()), 0), dtype=np.uint8)
    encoded = _reference(job, features, target)
    if encoded is None:
        return None
    template, state, estimator = encoded
    chosen = {key: values[sound] for key, values in whole.attributes.items()}
    states = fill_states(template, state, chosen, [step for step, _ in plan.expand])
    if states is None or not _same(template, states[0].tobytes(), estimator, features):
        return None
    return template, states


def _reference(job: FitJob, features: Array, target: Array) -> tuple[str, bytes, Any] | None:
    try:
        estimator = job.build()
        estimator.fit(features, target)
        encoded = Encoder().encode(estimator)
        prove_round_trip(estimator, encoded, features[:50])
    except Exception:  # noqa: BLE001 (the ordinary way meets and tells it again)
        return None
    return encoded.template, encoded.state, estimator


def _same(template: str, state: bytes, estimator: Any, features: Array) -> bool:
    try:
        found = np.asarray(decode(template, state).predict(features))
    except ModelError:
        return False
    expected = np.asarray(estimator.predict(features))
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    return bool(np.abs(found - expected).max() <= _TOLERANCE * np.abs(expected).max())


def _ranges(starts: Array, ends: Array) -> Array:
    """All rows from each start to its end, one range after the other."""
    size = ends - starts
    found: Array = np.arange(size.sum()) + np.repeat(starts - (np.cumsum(size) - size), size)
    return found


def _baseline(
    job: FitJob, features: Array, target: Array, sums: Sums, cuts: Array, ends: Array
) -> Array:
    if isinstance(job.baseline, int):
        column: Array = features[_ranges(cuts, ends), job.baseline]
        return column
    if job.baseline == "last":
        each: Array = target[cuts - 1]
    else:
        each = sums.pivot[:, -1] + sums.train.shift[:, -1]
    return np.repeat(each, ends - cuts)


def _columns(template: str, states: Array, train: Array, held: Array) -> dict[str, pa.Array]:
    count, size = states.shape
    offsets = np.arange(count + 1, dtype=np.int64) * size
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(states)]
    return {
        "status": pa.repeat("ok", count),
        "reason": pa.nulls(count, pa.string()),
        "error": pa.nulls(count, pa.string()),
        "rows_train": pa.array(train, pa.int64()),
        "rows_holdout": pa.array(held, pa.int64()),
        "template": pa.DictionaryArray.from_arrays(np.zeros(count, dtype=np.int32), [template]),
        "state": pa.LargeBinaryArray.from_buffers(pa.large_binary(), count, buffers),
    }
