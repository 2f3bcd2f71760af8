"""The kernel: rows of some segments in, one row per fitted segment out."""

from __future__ import annotations

import itertools
import signal
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from shoal.errors import ModelError
from shoal.models.codecs import Encoder, prove_round_trip
from shoal.training.batched import fit_batched
from shoal.training.hashing import own_order, row_marks, segment_hashes
from shoal.training.intervals import naive_scale
from shoal.training.lean import lean_fit, lean_predict
from shoal.training.measured import Window, held_columns
from shoal.training.split import split_windows

__all__ = [
    "TARGET",
    "TIME",
    "FitJob",
    "clean_rows",
    "fit_segments",
    "own_rows",
    "read_rows",
]

Array = np.ndarray[Any, Any]

# Names of the two columns beside the features "0", "1", ... in the sorted rows.
TARGET = "target"
TIME = "time"


@dataclass(frozen=True, kw_only=True)
class FitJob:
    """What all segments of one training share.

    Attributes:
        build: Returns a new unfitted estimator.
        features: How many feature columns the rows have; their names are "0", "1", ....
        classes: Number of classes; 0 for regression.
        timed: Whether the rows have a time column, by which they are sorted in each segment.
        nan_ok: Whether the estimator takes NaN in its features.
        metrics: The metrics to measure.
        metric: The declared one, also measured for the baseline.
        baseline: ``mean``, ``last`` or the position of a feature column.
        holdout: The share of each segment to measure on.
        backtest: In how many windows it is measured, each by a model of all rows before it.
        interval: Wanted coverage of prediction intervals; None for none.
        min_rows: A segment with fewer training rows is not fitted.
        centre: A constant near the targets' mean.
        seed: Seeds the samples of fallback groups.
        timeout: Seconds after which a segment's fits end this process; None never ends it.
        fast: Leave out scikit-learn's own checks of parameters and finiteness, which the kernel
            has made for the rows and the caller for the parameters.
        batched: Fit many segments at once where the maths allows.
        trust_pickle: Pickle estimators that cannot be stored otherwise.
        measure_only: Measure on the holdout, and keep no state: a trial of a search.
        memo: What trials of the same rows have in common, filled as they are made; None without.
    """

    build: Callable[[], Any]
    features: int
    classes: int
    timed: bool
    nan_ok: bool
    metrics: tuple[str, ...]
    metric: str
    baseline: str | int
    holdout: float
    min_rows: int
    centre: float = 0.0
    seed: int = 0
    timeout: float | None = None
    fast: bool = True
    batched: bool = True
    backtest: int = 1
    interval: float | None = None
    trust_pickle: bool = False
    measure_only: bool = False
    memo: dict[Any, Any] | None = None


def fit_segments(rows: pa.Table, offsets: Array, job: FitJob) -> pa.RecordBatch:
    """Fit each segment; an error costs its segment only.

    Args:
        rows: Columns "0", "1", ... (features) and "target", float64 with NaN for null; and
            "time" (int64) when the job is timed. Sorted by segment, then time. Rows of one moment,
            or all rows of a segment without times, are fitted in an order that their values and
            the seed decide, however they come.
        offsets: Int64, shape (segments + 1,): segment i is rows offsets[i] to offsets[i + 1].
        job: What the segments share.

    Returns:
        One row per segment: ``status`` (ok, fallback, failed), ``reason``, ``error``,
        ``rows_train``, ``rows_holdout``, ``rows_dropped``, ``rows_hash`` (of the rows as they came,
        see `row_hashes`), ``fit_seconds`` (wall clock), ``core_seconds`` (processor time),
        ``template``, ``state``, ``interval`` (half the width of its prediction interval; null
        without), and for each metric ``sums_<metric>`` (null where nothing was
        measured), for the declared one also ``sums_baseline``.
    """
    features, target, moments = read_rows(rows)
    if job.measure_only:  # these rows are in their own order already
        features, target, moments = read_rows(rows)
        hashes = []
    else:
        features, target, moments, marks = own_rows(rows, offsets, job)
        hashes = segment_hashes(marks, offsets)
    features, target, moments, bounds = clean_rows(features, target, moments, offsets, job)
    dropped = np.diff(offsets) - np.diff(bounds)
    edges = split_windows(bounds, moments, job.holdout, job.backtest)
    fits = _Fits(job)
    with warnings.catch_warnings(record=True) as seen, _configured(job):
        warnings.simplefilter("always")
        together = fit_batched(features, target, bounds, edges, job)
        seen.clear()
        single = np.arange(len(edges)) if together is None else together.others(len(edges))
        for i in single.tolist():
            if job.timeout:
                # The signal's default action: it ends a fit wherever it is, also inside C.
                signal.setitimer(signal.ITIMER_REAL, job.timeout)
            begun, used = time.perf_counter(), time.process_time()
            start, end = int(bounds[i]), int(bounds[i + 1])
            windows = (edges[i] - start).tolist()
            fits.add(features[start:end], target[start:end], windows, int(dropped[i]))
            fits.seconds.append(time.perf_counter() - begun)
            fits.core_seconds.append(time.process_time() - used)
            if seen:
                fits.note(seen[0])
                seen.clear()
    if job.timeout:
        signal.setitimer(signal.ITIMER_REAL, 0)
    batch = fits.batch(dropped[single])
    if together is not None:
        batch = together.joined(batch, dropped)
    if job.measure_only:
        return batch
    return batch.append_column("rows_hash", pa.array(hashes, pa.string()))


def read_rows(rows: pa.Table) -> tuple[Array, Array, Array | None]:
    """Features, targets and moments of sorted rows; see `fit_segments`.

    Returns:
        Float64 of shape (rows, features) and (rows,), and int64 of shape (rows,) or None.
    """
    timed = TIME in rows.column_names
    features = np.empty((rows.num_rows, rows.num_columns - 1 - timed))
    for i in range(features.shape[1]):
        features[:, i] = rows.column(str(i)).to_numpy()
    target = rows.column(TARGET).to_numpy()
    return features, target, rows.column(TIME).to_numpy() if timed else None


def own_rows(
    rows: pa.Table, offsets: Array, job: FitJob
) -> tuple[Array, Array, Array | None, Array]:
    """Features, targets and moments in the rows' own order, and the marks of the rows as they came.

    Args:
        rows: See `fit_segments`.
        offsets: As there.
        job: What the segments share.
    """
    features, target, moments = read_rows(rows)
    marks = row_marks([*features.T, target, *([] if moments is None else [moments])])
    # A plain order of marks would hold out the rows with the largest, whatever the seed.
    order = own_order(moments, marks if job.timed else row_marks([marks], job.seed), offsets)
    if order is not None:
        features, target = features[order], target[order]
    return features, target, moments, marks


def clean_rows(
    features: Array, target: Array, moments: Array | None, offsets: Array, job: FitJob
) -> tuple[Array, Array, Array | None, Array]:
    """The rows without missing or infinite values that the job cannot take, and their offsets."""
    bounds = np.asarray(offsets, dtype=np.int64)
    # One sum tells whether there is anything to look for: NaN and infinity survive addition.
    with np.errstate(invalid="ignore", over="ignore"):
        if np.isfinite(features.sum()) and np.isfinite(target.sum()):
            return features, target, moments, bounds
    bad = np.isinf(features) if job.nan_ok else ~np.isfinite(features)
    keep = np.isfinite(target) & ~bad.any(axis=1)
    before = np.concatenate([[0], np.cumsum(keep)])
    moments = None if moments is None else moments[keep]
    return features[keep], target[keep], moments, before[bounds]


def _configured(job: FitJob) -> Any:
    import sklearn

    if not job.fast:
        return sklearn.config_context()
    return sklearn.config_context(assume_finite=True, skip_parameter_validation=True)


class _Fits:
    """The results, collected segment by segment."""

    def __init__(self, job: FitJob) -> None:
        self.job = job
        self.fit = lean_fit if job.fast else _own_fit
        self.predict = lean_predict if job.fast else _own_predict
        self.encoder = Encoder(pickle=job.trust_pickle)
        self.proven: set[str] = set()
        self.status: list[str] = []
        self.reason: list[str | None] = []
        self.error: list[str | None] = []
        self.train: list[int] = []
        self.held_rows: list[int] = []
        self.seconds: list[float] = []
        self.core_seconds: list[float] = []
        self.template: list[str | None] = []
        self.state: list[bytes | None] = []
        self.held: list[tuple[int, list[Window]]] = []

    def add(self, features: Array, target: Array, edges: list[int], dropped: int) -> None:
        job, cut = self.job, edges[0]
        self.train.append(cut)
        self.held_rows.append(len(target) - cut)
        if cut < job.min_rows:
            reason = f"{cut} training rows, fewer than min_rows = {job.min_rows}"
            if dropped:
                reason += f" ({dropped} rows with missing or infinite values were dropped)"
            self._keep("fallback", reason=reason)
            return
        template = state = None
        try:
            windows = [(begin, end) for begin, end in itertools.pairwise(edges) if begin < end]
            held = [self._measure(features, target, begin, end) for begin, end in windows]
            if not job.measure_only:
                template, state = self._kept(features, target, measured=bool(held))
        except Exception as error:  # noqa: BLE001 (whatever it is, it costs this segment only)
            self._failed(error, target)
            return
        if held:
            self.held.append((len(self.status), held))
        self._keep("ok", template=template, state=state)

    def _kept(self, features: Array, target: Array, *, measured: bool) -> tuple[str, bytes]:
        """Template and state of the model that is kept.

        Measured on the holdout, it is fitted on everything: it has seen the newest rows too.
        """
        estimator = self.job.build()
        self.fit(estimator, features, self._coded(target))
        if not measured:
            _finite(estimator.predict(features[:5]))
        encoded = self.encoder.encode(estimator)
        if encoded.template not in self.proven:
            prove_round_trip(estimator, encoded, features[:50])
            self.proven.add(encoded.template)
        return encoded.template, encoded.state

    def note(self, warning: warnings.WarningMessage) -> None:
        """Keep a fit's first warning in its row."""
        if self.status[-1] == "ok":
            text = str(warning.message).strip().splitlines()[0]
            self.reason[-1] = f"{warning.category.__name__}: {text}"[:300]

    def _coded(self, target: Array) -> Array:
        return target.astype(np.int64) if self.job.classes else target

    def _measure(self, features: Array, target: Array, cut: int, end: int) -> Window:
        """What a model of the rows before ``cut`` says of those from there to ``end``."""
        job = self.job
        estimator = job.build()
        past = self._coded(target[:cut])
        self.fit(estimator, features[:cut], past)
        later = features[cut:end]
        guess = np.asarray(self.predict(estimator, later)).reshape(-1)
        _finite(guess)
        truth = self._coded(target[cut:end])
        scores = base_scores = None
        if job.classes and hasattr(estimator, "predict_proba"):
            scores = np.zeros((len(truth), job.classes))
            at = np.asarray(estimator.classes_).astype(np.int64)
            scores[:, at] = estimator.predict_proba(later)
        column = features[:, job.baseline] if isinstance(job.baseline, int) else None
        if column is not None:
            base = self._coded(column[cut:end])
        elif job.baseline == "last":
            base = np.broadcast_to(past[-1], truth.shape)
        elif job.classes:
            shares = np.bincount(past, minlength=job.classes) / len(past)
            base = np.broadcast_to(np.argmax(shares), truth.shape)
            base_scores = np.broadcast_to(shares, (len(truth), job.classes))
        else:
            base = np.broadcast_to(past.mean(), truth.shape)
        scale = np.zeros(1)
        if "mase" in job.metrics:
            scale = naive_scale(target, column, np.array([0]), np.array([cut]))
        return Window(truth, guess, scores, base, base_scores, np.repeat(scale, len(truth)))

    def _failed(self, error: Exception, target: Array) -> None:
        text = f"{type(error).__name__}: {error}".strip()[:2000]
        if isinstance(error, ModelError):
            text = error.message
        if len(target) and (target == target[0]).all():
            self._keep("fallback", reason="the target is constant", error=text)
        else:
            self._keep("failed", reason=text.splitlines()[0][:300], error=text)

    def _keep(
        self,
        status: str,
        *,
        reason: str | None = None,
        error: str | None = None,
        template: str | None = None,
        state: bytes | None = None,
    ) -> None:
        self.status.append(status)
        self.reason.append(reason)
        self.error.append(error)
        self.template.append(template)
        self.state.append(state)

    def batch(self, dropped: Array) -> pa.RecordBatch:
        columns: dict[str, pa.Array] = {
            "status": pa.array(self.status, pa.string()),
            "reason": pa.array(self.reason, pa.string()),
            "error": pa.array(self.error, pa.string()),
            "rows_train": pa.array(self.train, pa.int64()),
            "rows_holdout": pa.array(self.held_rows, pa.int64()),
            "rows_dropped": pa.array(dropped, pa.int64()),
            "fit_seconds": pa.array(self.seconds, pa.float64()),
            "core_seconds": pa.array(self.core_seconds, pa.float64()),
            # Thousands of rows share a template: as a dictionary it crosses the pipe once.
            "template": pa.array(self.template, pa.string()).dictionary_encode(),
            "state": pa.array(self.state, pa.large_binary()),
        }
        return pa.RecordBatch.from_pydict(
            columns | held_columns(self.job, len(self.status), self.held)
        )


def _own_fit(estimator: Any, features: Array, target: Array) -> None:
    estimator.fit(features, target)


def _own_predict(estimator: Any, features: Array) -> Any:
    return estimator.predict(features)


def _finite(predictions: Any) -> None:
    found = np.asarray(predictions)
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise ValueError("the fitted model predicts values that are not finite")
