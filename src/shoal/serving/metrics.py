"""What a server counts, for Prometheus."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa
    from prometheus_client.core import Metric

    from shoal.serving.log import InferenceLog
    from shoal.serving.models import ServedModels
    from shoal.serving.scoring import Scored
    from shoal.serving.served import ServedModel

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

    def publish(self, models: ServedModels, log: InferenceLog | None = None) -> None:
        """Leaves this process's figures where its siblings' pages find them, if it has any."""
        folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if folder:
            path = Path(folder) / f"figures-{os.getpid()}.json"
            part = path.with_suffix(".part")
            part.write_text(json.dumps(self._figures(models, log)))
            part.replace(path)

    def page(self, models: ServedModels, log: InferenceLog | None = None) -> bytes:
        """The text of ``GET /metrics``, of all processes together."""
        from prometheus_client import CollectorRegistry, generate_latest, multiprocess

        figures = [self._figures(models, log)]
        shared = self._own
        folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if folder:
            shared = CollectorRegistry()
            multiprocess.MultiProcessCollector(shared)  # type: ignore[no-untyped-call]
            figures += _siblings(Path(folder))
        now = CollectorRegistry()
        now.register(_Page(models, figures, self._top, logged=log is not None))
        return bytes(generate_latest(shared) + generate_latest(now))

    def _figures(self, models: ServedModels, log: InferenceLog | None) -> dict[str, Any]:
        """What one process counts for itself."""
        with self._lock:
            busiest = [[*which, rows] for which, rows in self._segments.most_common(_KEPT // 2)]
        return {
            "failures": models.failures,
            "waiting": log.waiting if log else 0,
            "dropped": log.dropped if log else 0,
            "segments": busiest,
        }


class _Page:
    """The figures that are no counters of prometheus_client, collected for one page."""

    def __init__(
        self, models: ServedModels, figures: list[dict[str, Any]], top: int, *, logged: bool
    ) -> None:
        self._models, self._figures, self._top, self._logged = models, figures, top, logged

    def collect(self) -> Iterator[Metric]:
        """Called by prometheus_client."""
        from prometheus_client.core import GaugeMetricFamily

        version = GaugeMetricFamily(
            "shoal_served_version", "Version in use.", labels=["model", "alias"]
        )
        for model in self._models:
            version.add_metric([model.name, ""], model.version)
            for alias, number in self._models.aliases(model.name).items():
                version.add_metric([model.name, alias], number)
        yield version
        counted = {"failures": ("shoal_swap_failures", "Versions not opened.")}
        if self._logged:
            counted["waiting"] = ("shoal_log_waiting_rows", "Rows not yet in the log.")
            counted["dropped"] = ("shoal_log_dropped_rows", "Rows that the log lost.")
        for key, (name, text) in counted.items():
            yield GaugeMetricFamily(name, text, value=sum(one[key] for one in self._figures))
        rows = GaugeMetricFamily(
            "shoal_segment_rows", "Rows of the busiest segments.", labels=["model", "segment"]
        )
        total: Counter[tuple[str, str]] = Counter()
        for one in self._figures:
            for name, segment, count in one["segments"]:
                total[name, segment] += count
        for which, count in total.most_common(self._top):
            rows.add_metric(which, count)
        yield rows


def _siblings(folder: Path) -> list[dict[str, Any]]:
    """What the other processes published; nothing waits in one that is gone."""
    found = []
    for path in folder.glob("figures-*.json"):
        pid = int(path.stem.partition("-")[2])
        if pid == os.getpid():
            continue
        figures = json.loads(path.read_text())
        try:
            os.kill(pid, 0)
        except OSError:
            figures["waiting"] = 0
        found.append(figures)
    return found
