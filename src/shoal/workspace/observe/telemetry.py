"""OpenTelemetry: a span for each refresh, training and scoring, and what they counted.

The SDK and its exporter are OpenTelemetry's own, set by its variables (``OTEL_EXPORTER_OTLP_*``,
``OTEL_SERVICE_NAME``, ...); where the process has a provider already, that one is used. A trace
that a caller began is gone on with, by ``TRACEPARENT``.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

from shoal.errors import EngineError
from shoal.workspace.report import ModelReport, ScoreReport, TableReport

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

__all__ = ["Telemetry", "trace_app"]

_BEGINS: dict[str, Any] = {"table": "start", "train": (0, 0), "score": 0}
_PATIENCE = 3.0  # seconds for a collector that is away


class Telemetry:
    """Listens to a workspace, and sends traces and metrics.

    Args:
        project: Its name.

    Raises:
        EngineError: The SDK or its exporter is not installed.
    """

    def __init__(self, project: str) -> None:
        self._traces, self._meters, self._own = providers()
        from opentelemetry import propagate

        tracer = self._traces.get_tracer("shoal")
        carrier = {"traceparent": os.environ.get("TRACEPARENT", "")}
        self._root = tracer.start_span(f"shoal {project}", propagate.extract(carrier))
        self._tracer = tracer
        meter = self._meters.get_meter("shoal")
        self._rows = meter.create_counter("shoal.rows", "{row}", "Rows written")
        self._models = meter.create_counter("shoal.models", "{model}", "Models fitted")
        self._took = meter.create_histogram("shoal.duration", "s", "Of a table or a model")
        self._spans: dict[tuple[str, str], tuple[Span, float]] = {}
        self._lock = threading.Lock()

    def __call__(self, stage: str, name: str, value: Any) -> None:
        """Takes an event of the workspace; see `shoal.workspace.Workspace`."""
        with self._lock:
            if stage in _BEGINS and type(value) is not bool and value == _BEGINS[stage]:
                self._spans[stage, name] = self._begun(stage, name)
            elif isinstance(value, TableReport | ModelReport | ScoreReport):
                self._ended(stage, name, value)

    def _begun(self, stage: str, name: str) -> tuple[Span, float]:
        from opentelemetry.trace import set_span_in_context

        inside = set_span_in_context(self._root)
        return self._tracer.start_span(f"{stage} {name}", inside), time.perf_counter()

    def _ended(
        self, stage: str, name: str, report: TableReport | ModelReport | ScoreReport
    ) -> None:
        from opentelemetry.trace import StatusCode

        if (stage, name) not in self._spans:  # it ended before it began, as a skipped one does
            self._spans[stage, name] = self._begun(stage, name)
        span, begun = self._spans.pop((stage, name))
        told = {"shoal.stage": stage, "shoal.name": name, "shoal.status": report.status}
        for key in ("refresh", "reason", "version", "table_version", "rows"):
            if (value := getattr(report, key, None)) is not None:
                span.set_attribute(f"shoal.{key}", value)
        span.set_attributes(told)
        if report.error is not None:
            span.set_status(StatusCode.ERROR, report.error)
        span.end()
        self._took.record(time.perf_counter() - begun, told)
        if not isinstance(report, ModelReport):
            self._rows.add(report.rows, told)
        else:
            fitted = report.metrics.get("segments_fitted", report.metrics.get("segments", 0))
            self._models.add(int(fitted), told)

    def close(self) -> None:
        """Ends the trace, and sends what waits; a collector that is away is not waited for."""
        self._root.end()
        for provider in self._own:
            provider.shutdown()


def providers() -> tuple[TracerProvider, MeterProvider, list[Any]]:
    """Where spans and metrics go, and which of both are to be shut down by who asked."""
    try:
        from opentelemetry import metrics, trace
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise EngineError(
            "OpenTelemetry's variables are set, and its exporter is not installed.",
            hint="pip install 'shoal[observe]'   (or export OTEL_SDK_DISABLED=true)",
        ) from error
    named = {} if "OTEL_SERVICE_NAME" in os.environ else {"service.name": "shoal"}
    resource = Resource.create(named)
    patience = None if "OTEL_EXPORTER_OTLP_TIMEOUT" in os.environ else _PATIENCE
    own: list[Any] = []
    traces, meters = trace.get_tracer_provider(), metrics.get_meter_provider()
    if not isinstance(traces, TracerProvider):
        traces = TracerProvider(resource=resource)
        traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=patience)))
        own.append(traces)
    if not isinstance(meters, MeterProvider):
        reader = PeriodicExportingMetricReader(OTLPMetricExporter(timeout=patience))
        meters = MeterProvider(resource=resource, metric_readers=[reader])
        own.append(meters)
    return traces, meters, own


def trace_app(app: Any) -> list[Any]:
    """Has a scoring server's requests traced and measured, by OpenTelemetry's ASGI middleware.

    Plain requests then take the way through the application, as all others.

    Args:
        app: What `shoal.serving.create_app` made.

    Returns:
        What is to be shut down with the server.
    """
    traces, meters, own = providers()
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

    app.add_middleware(
        OpenTelemetryMiddleware, tracer_provider=traces, meter_provider=meters, excluded_urls="ping"
    )
    app.state.quick = None
    return own
