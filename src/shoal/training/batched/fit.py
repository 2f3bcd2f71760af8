"""The segments of a chunk, fitted and measured at once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from shoal.errors import ModelError
from shoal.models.codecs import Encoder, decode, prove_round_trip
from shoal.models.metrics import Held
from shoal.training.batched.learners import Learner, Rows, learner_of
from shoal.training.batched.state import fill_states
from shoal.training.intervals import naive_scale
from shoal.training.measured import sum_columns

if TYPE_CHECKING:
    from shoal.training.job import FitJob
    from shoal.training.rows import SortedRows

__all__ = ["Together", "fit_batched", "is_batched", "least_together"]

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


def fit_batched(clean: SortedRows, bounds: Array, edges: Array, job: FitJob) -> Together | None:
    """Fit and measure all segments that a batch can fit as well as scikit-learn.

    One segment is fitted by scikit-learn too: it gives the members' template, and proves that
    batched members predict what scikit-learn's do.

    Args:
        clean: The rows; all of them finite.
        bounds: Segment i is rows bounds[i] to bounds[i + 1].
        edges: The windows of held-out rows; see `split_windows`.
        job: What the segments share.

    Returns:
        The fitted segments; None when there are none. The others are for scikit-learn.
    """
    begun, used = time.perf_counter(), time.process_time()
    learner = _learner(job)
    at = np.flatnonzero(edges[:, 0] - bounds[:-1] >= max(job.min_rows, 2))
    if learner is None or not len(at):
        return None
    starts, ends, edges = bounds[at], bounds[at + 1], edges[at]
    features, target = clean.features, clean.target
    rows = Rows(features, target, starts, ends, clean.weights)
    try:
        learner.start(rows)
    except Exception:  # noqa: BLE001 (as above)
        return None
    sound = np.ones(len(at), dtype=bool)
    # Of each row: what is said of it by a model of the rows before its window, and the baseline.
    guess, base, scale = np.full((3, len(target)), np.nan)
    with np.errstate(all="ignore"):  # what is not finite is left to scikit-learn
        for begin, end in zip(edges.T[:-1], edges.T[1:], strict=True):
            sound &= learner.window(begin, end, guess)
            later = _ranges(begin, end)
            base[later] = _baseline(job, rows, learner, begin, end)
            if "mase" in job.metrics:
                column = features[:, job.baseline] if isinstance(job.baseline, int) else None
                scale[later] = np.repeat(naive_scale(target, column, starts, begin), end - begin)
        attributes, whole = ({}, sound) if job.measure_only else learner.whole()
    sound &= whole
    held = ends - edges[:, 0]
    later = _ranges(edges[:, 0], ends)
    broken = np.flatnonzero(~np.isfinite(guess[later]))
    sound[np.searchsorted(np.cumsum(held), broken, side="right")] = False
    if not sound.any():
        return None
    template, states = "", np.empty((int(sound.sum()), 0), dtype=np.uint8)
    if not job.measure_only:
        first = int(np.argmax(sound))
        chosen = {key: values[sound] for key, values in attributes.items()}
        encoded = _states(job, learner, first, chosen, rows.part(first)[0])
        if encoded is None:
            return None
        template, states = encoded
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
    return _learner(job) is not None


def least_together(job: FitJob) -> int:
    """How many segments it takes to be worth fitting them at once; 0 for any number."""
    learner = _learner(job)
    return 0 if learner is None else learner.at_least


def _learner(job: FitJob) -> Learner | None:
    if not job.batched or job.classes or job.nan_ok:
        return None
    try:
        return learner_of(job.build(), job.memo)
    except Exception:  # noqa: BLE001 (the ordinary way says what is wrong, segment by segment)
        return None


def _states(
    job: FitJob, learner: Learner, first: int, attributes: Mapping[Any, Array], features: Array
) -> tuple[str, Array] | None:
    """The members' template and states, proven on the rows of the first of them."""
    encoded = _reference(job, learner, first, features)
    if encoded is None:
        return None
    template, state, estimator = encoded
    states = fill_states(template, state, attributes, learner.fixed)
    if states is None or not _same(template, states[0].tobytes(), estimator, features):
        return None
    return template, states


def _reference(
    job: FitJob, learner: Learner, first: int, features: Array
) -> tuple[str, bytes, Any] | None:
    try:
        estimator = learner.member(job.build, first)
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


def _baseline(job: FitJob, rows: Rows, learner: Learner, cuts: Array, ends: Array) -> Array:
    if isinstance(job.baseline, int):
        column: Array = rows.features[_ranges(cuts, ends), job.baseline]
        return column
    each: Array = rows.target[cuts - 1] if job.baseline == "last" else learner.means(cuts)
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
