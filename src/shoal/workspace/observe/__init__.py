"""What others' tools see of a run: OpenLineage's events, and OpenTelemetry's traces and metrics.

Both are off until their own variables say where to send them, and nothing of them is imported
before. Whoever listens may be away: a run goes on, and says so once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal.workspace.opened import Event, Opened

__all__ = ["observed", "telemetry_on"]

_LINEAGE = ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG", "OPENLINEAGE__TRANSPORT")
_ENDPOINTS = ("", "_TRACES", "_METRICS")


def observed(space: Opened, on_event: Event) -> Event:
    """What a workspace calls with what happens: who was given, and who listens by its variables.

    Args:
        space: The workspace; who listens ends with it.
        on_event: Who was given.
    """
    listeners: list[Event] = [on_event]
    if _lineage_on(os.environ):
        from shoal.workspace.observe.lineage import LineageEvents

        listeners.append(LineageEvents(space))
    if telemetry_on(os.environ):
        from shoal.workspace.observe.telemetry import Telemetry

        telemetry = Telemetry(space.project.name)
        space.on_close(telemetry.close)
        listeners.append(telemetry)
    if len(listeners) == 1:
        return on_event

    def every(stage: str, name: str, value: object) -> None:
        for listener in listeners:
            listener(stage, name, value)

    return every


def _lineage_on(environment: Mapping[str, str]) -> bool:
    if environment.get("OPENLINEAGE_DISABLED", "").lower() == "true":
        return False
    return any(name.startswith(_LINEAGE) for name in environment)


def telemetry_on(environment: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's variables name a collector."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    return any(environment.get(f"OTEL_EXPORTER_OTLP{kind}_ENDPOINT") for kind in _ENDPOINTS)
