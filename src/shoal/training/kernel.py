"""The kernel: rows of some segments in, one row per fitted segment out."""

from __future__ import annotations

import itertools
import signal
import time
import warnings
from typing import Any

import numpy as np
import pyarrow as pa

from shoal.errors import ModelError
from shoal.models.codecs import Encoder, prove_round_trip
from shoal.training.batched import fit_batched
from shoal.training.hashing import segment_hashes
from shoal.training.intervals import naive_scale
from shoal.training.job import FitJob
from shoal.training.lean import lean_fit, lean_predict
from shoal.training.measured import Window, held_columns
from shoal.training.rows import SortedRows, clean_rows, own_rows, read_rows
from shoal.training.split import split_windows
from shoal.training.stages import STAGES
from shoal.training.weights import fit_plainly

__all__ = ["FitJob", "SegmentFits", "fit_segments"]

Array = np.ndarray[Any, Any]


def fit_segments(rows: pa.Table, offsets: Array, job: FitJob) -> pa.RecordBatch:
    """Fit each segment; an error costs its segment only.

    Args:
        rows: Columns "0", "1", ... (features) and "target", float64 with NaN for null; and
            "time" (int64) when the job is timed, "weight" (float64) when it is weighted. Sorted by
            segment, then time. Rows of one moment, or all rows of a segment without times, are
            fitted in an order that their values and the seed decide, however they come.
        offsets: Int64, shape (segments + 1,): segment i is rows offsets[i] to offsets[i + 1].
        job: What the segments share.

    Returns:
        One row per segment: ``status`` (ok, fallback, failed), ``reason``, ``error``,
        ``rows_train``, ``rows_holdout``, ``rows_dropped``, ``rows_hash`` (of the rows as they came,
        see `segment_hashes`), ``fit_seconds`` (wall clock), ``core_seconds`` (processor time),
        ``template``, ``state``, ``interval`` (half the width of its prediction interval; null
        without), and for each metric ``sums_<metric>`` (null where nothing was
        measured), for the declared one also ``sums_baseline``.
    """
    if job.measure_only:  # these rows are in their own order already
        read, hashes = read_rows(rows), []
    else:
        read, marks = own_rows(rows, offsets, job)
        hashes = segment_hashes(marks, offsets)
    clean, bounds = clean_rows(read, offsets, job)
    dropped = np.diff(offsets) - np.diff(bounds)
    edges = split_windows(bounds, clean.moments, job.holdout, job.backtest)
    fits = SegmentFits(job)
    with warnings.catch_warnings(record=True) as seen, _configured(job):
        warnings.simplefilter("always")
        together = fit_batched(clean, bounds, edges, job)
        seen.clear()
        single = np.arange(len(edges)) if together is None else together.others(len(edges))
        for i in single.tolist():
            if job.timeout:
                # The signal's default action: it ends a fit wherever it is, also inside C.
                signal.setitimer(signal.ITIMER_REAL, job.timeout)
            begun, used = time.perf_counter(), time.process_time()
            start, end = int(bounds[i]), int(bounds[i + 1])
            windows = (edges[i] - start).tolist()
            fits.add(clean.take(slice(start, end)), windows, int(dropped[i]))
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


def _configured(job: FitJob) -> Any:
    import sklearn

    if not job.fast:
        return sklearn.config_context()
    return sklearn.config_context(assume_finite=True, skip_parameter_validation=True)


class SegmentFits:
    """The results, collected segment by segment.

    Args:
        job: What the segments share.

    Attributes:
        fit: Fits an estimator: ``fit(estimator, features, target, weights)``.
        predict: Predicts with one.
        seconds: Wall-clock time of each segment, for the caller to fill; so is ``core_seconds``.
    """

    def __init__(self, job: FitJob) -> None:
        self.job = job
        self.fit = lean_fit if job.fast else fit_plainly
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

    def add(self, rows: SortedRows, edges: list[int], dropped: int) -> None:
        """Measure and fit one segment.

        Args:
            rows: Its rows, in their own order.
            edges: Of its windows; see `split_windows`.
            dropped: How many of its rows were left out.
        """
        job, cut = self.job, edges[0]
        self.train.append(cut)
        self.held_rows.append(len(rows.target) - cut)
        if cut < job.min_rows:
            reason = f"{cut} training rows, fewer than min_rows = {job.min_rows}"
            if dropped:
                reason += f" ({dropped} rows with missing or infinite values were dropped)"
            self._keep("fallback", reason=reason)
            return
        if rows.weights is not None and not rows.weights[:cut].any():
            self._keep("fallback", reason="all training rows have the weight 0")
            return
        template = state = None
        try:
            windows = [(begin, end) for begin, end in itertools.pairwise(edges) if begin < end]
            held = [self._measure(rows, begin, end) for begin, end in windows]
            if not job.measure_only:
                template, state = self._kept(rows, measured=bool(held))
        except Exception as error:  # noqa: BLE001 (whatever it is, it costs this segment only)
            self._failed(error, rows.target)
            return
        if held:
            self.held.append((len(self.status), held))
        self._keep("ok", template=template, state=state)

    def _kept(self, rows: SortedRows, *, measured: bool) -> tuple[str, bytes]:
        """Template and state of the model that is kept.

        Measured on the holdout, it is fitted on everything: it has seen the newest rows too.
        """
        estimator, features = self.job.build(), rows.features
        self.fit(estimator, features, self._coded(rows.target), rows.weights)
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

    def _measure(self, rows: SortedRows, cut: int, end: int) -> Window:
        """What a model of the rows before ``cut`` says of those from there to ``end``."""
        job = self.job
        features, target, weights = rows.features, rows.target, rows.weights
        estimator = job.build()
        if (stages := STAGES.get()) is not None:
            stages.watch(estimator, lambda shown: self._window(shown, rows, cut, end))
        past = self._coded(target[:cut])
        self.fit(estimator, features[:cut], past, None if weights is None else weights[:cut])
        return self._window(estimator, rows, cut, end)

    def _window(self, estimator: Any, rows: SortedRows, cut: int, end: int) -> Window:
        job, features, target = self.job, rows.features, rows.target
        past, later = self._coded(target[:cut]), features[cut:end]
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
        """The rows of all segments; see `fit_segments`."""
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


def _own_predict(estimator: Any, features: Array) -> Any:
    return estimator.predict(features)


def _finite(predictions: Any) -> None:
    found = np.asarray(predictions)
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise ValueError("the fitted model predicts values that are not finite")
