"""What a server counts, for Prometheus."""

from __future__ import annotations

import os
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    from shoal.serving.log import InferenceLog
    from shoal.serving.models import ServedModel, ServedModels
    from shoal.serving.scoring import Scored

__all__ = ["Metrics"]

_TOP = 20
_KEPT = 2_000
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Counters of one server, or of all its worker processes.

    Labels are served models, versions, statuses and roles, which are few, and the busiest
    ``top`` segments: their number does not grow with what clients send.

    Several processes share their counts through files in the folder that the environment variable
    ``PROMETHEUS_MULTIPROC_DIR`` names, as prometheus_client does.

    Args:
        top: How many segments are shown.
    """

    def __init__(self, top: int = _TOP) -> None:
        from prometheus_client import CollectorRegistry, Histogram
        from prometheus_client import Counter as Count

        self._own = CollectorRegistry()
        self._requests = Count(
            "shoal_requests",
            "Scoring requests by answer.",
            ["model", "version", "status"],
            registry=self._own,
        )
        self._rows = Count(
            "shoal_rows", "Rows predicted.", ["model", "version", "role"], registry=self._own
        )
        self._seconds = Histogram(
            "shoal_request_seconds",
            "Seconds from a whole body to its answer.",
            ["model"],
            buckets=_BUCKETS,
            registry=self._own,
        )
        self._top = top
        self._quick: dict[tuple[str, int | str], tuple[Any, Any, Any]] = {}
        self._segments: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def count(self, model: str, version: int | str, status: int) -> None:
        """Counts an answer; ``model`` is a served one or empty."""
        self._requests.labels(model, str(version), str(status)).inc()

    def scored(self, done: Scored) -> None:
        """Counts the rows of a request and how long it took."""
        self._seconds.labels(done.model.name).observe(done.seconds)
        for part in done.parts:
            version = str(part.model.version)
            self._rows.labels(part.model.name, version, part.role).inc(part.rows.num_rows)
            if "segment" in part.answers.column_names:
                self._count_segments(part.model.name, part.answers.column("segment"))

    def quick(self, model: ServedModel, rows: int, seconds: float) -> None:
        """Counts a request that was answered by the champion.

        Args:
            model: The version.
            rows: How many rows it had.
            seconds: How long it took.
        """
        counters = self._quick.get((model.name, model.version))
        if counters is None:
            version = str(model.version)
            counters = self._quick[model.name, model.version] = (
                self._requests.labels(model.name, version, "200"),
                self._rows.labels(model.name, version, "champion"),
                self._seconds.labels(model.name),
            )
        requests, predicted, took = counters
        requests.inc()
        predicted.inc(rows)
        took.observe(seconds)

    def _count_segments(self, model: str, segments: pa.ChunkedArray) -> None:
        found: Counter[str] = Counter(segments.to_pylist())
        with self._lock:
            for segment, rows in found.items():
                self._segments[model, segment] += rows
            if len(self._segments) > _KEPT:
                # Those seldom seen start again from nothing: the busiest stay exact.
                self._segments = Counter(dict(self._segments.most_common(_KEPT // 2)))

    def page(self, models: ServedModels, log: InferenceLog | None = None) -> bytes:
        """The text of ``GET /metrics``."""
        from prometheus_client import CollectorRegistry, Gauge, generate_latest, multiprocess

        now = CollectorRegistry()
        version = Gauge("shoal_served_version", "Version in use.", ["model", "alias"], registry=now)
        for model in models:
            version.labels(model.name, "").set(model.version)
            for alias, number in models.aliases(model.name).items():
                version.labels(model.name, alias).set(number)
        Gauge("shoal_swap_failures", "Versions not opened.", registry=now).set(models.failures)
        rows = Gauge(
            "shoal_segment_rows",
            "Rows of the busiest segments, in this process.",
            ["model", "segment"],
            registry=now,
        )
        with self._lock:
            busiest = self._segments.most_common(self._top)
        for (name, segment), count in busiest:
            rows.labels(name, segment).set(count)
        if log is not None:
            Gauge("shoal_log_waiting_rows", "Rows not yet in the log.", registry=now).set(
                log.waiting
            )
            Gauge("shoal_log_dropped_rows", "Rows that the log lost.", registry=now).set(
                log.dropped
            )
        shared = self._own
        if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            shared = CollectorRegistry()
            multiprocess.MultiProcessCollector(shared)  # type: ignore[no-untyped-call]
        return bytes(generate_latest(shared) + generate_latest(now))
