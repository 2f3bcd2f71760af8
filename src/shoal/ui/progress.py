"""A command's feed as stages: what works, how fast, how much longer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shoal.ui.chart import Span
from shoal.workspace.feeds import Feed

__all__ = ["Stage", "spans", "stages"]

_VERBS = {"table": "refresh", "train": "train", "score": "score", "search": "search"}
_STATES = {"failed": "bad", "skipped": "warn", "unchanged": "idle", "current": "idle"}


@dataclass(kw_only=True)
class Stage:
    """One table refreshed, or one model trained, searched or scored.

    Attributes:
        kind: ``table``, ``train``, ``score`` or ``search``.
        name: Of the table or model.
        start: Seconds since the command began.
        seconds: How long it took, or takes until now.
        done: How many models or rows are done.
        total: Of how many, if known.
        report: What it reported at its end.
        usual: How long it took the last time.
    """

    kind: str
    name: str
    start: float
    seconds: float = 0.0
    done: int = 0
    total: int | None = None
    report: Mapping[str, Any] = field(default_factory=dict)
    usual: float | None = None
    at: float = 0.0

    @property
    def verb(self) -> str:
        """What is done."""
        return _VERBS.get(self.kind, self.kind)

    @property
    def status(self) -> str:
        """How it ended, or ``running``."""
        return str(self.report.get("status", "running"))

    @property
    def state(self) -> str:
        """Its colour."""
        return "info" if not self.report else _STATES.get(self.status, "good")

    @property
    def share(self) -> float | None:
        """How much is done, 0 to 1, where that is known or can be told from the last time."""
        if self.report:
            return 1.0
        if self.total:
            return self.done / self.total
        return min(self.seconds / self.usual, 0.95) if self.usual else None

    @property
    def rate(self) -> tuple[float, str] | None:
        """Rows or models a second."""
        if self.report:
            rows, took = self.report.get("rows"), self.report.get("seconds")
            if self.kind == "train":
                metrics = self.report.get("metrics") or {}
                speed = metrics.get("models_per_second")
                return (float(speed), "models/s") if speed else None
            return (rows / took, "rows/s") if rows and took else None
        worked = self.at - self.start
        if not self.done or worked <= 0:
            return None
        return self.done / worked, "rows/s" if self.kind == "score" else "models/s"

    @property
    def left(self) -> float | None:
        """Seconds until its end, as far as can be told."""
        if self.report:
            return None
        if self.total and self.done and self.rate:
            return (self.total - self.done) / self.rate[0]
        return max(self.usual - self.seconds, 0.0) if self.usual else None


def stages(feed: Feed, usual: Mapping[str, float]) -> list[Stage]:
    """The stages of a feed in the order in which they began.

    Args:
        feed: The feed.
        usual: Seconds that tables took the last time.
    """
    found: dict[tuple[str, str], Stage] = {}
    for line in feed.lines:
        key, t = (line["stage"], line["name"]), float(line["t"])
        stage = found.get(key)
        if stage is None:
            report = line.get("report") or {}
            begun = max(t - float(report.get("seconds") or 0), 0.0)
            stage = found[key] = Stage(
                kind=line["stage"], name=line["name"], start=begun, usual=usual.get(line["name"])
            )
        if line["state"] == "progress":
            stage.done, stage.total, stage.at = int(line["done"]), line.get("total"), t
        if line["state"] == "done":
            stage.report = line["report"]
            stage.seconds = max(t - stage.start, 0.0)
    for stage in found.values():
        if not stage.report:
            stage.seconds = max(feed.lapse - stage.start, 0.0)
    return list(found.values())


def spans(found: list[Stage]) -> list[Span]:
    """Stages as bars of a waterfall."""
    return [
        Span(
            label=f"{stage.verb} {stage.name}",
            start=stage.start,
            seconds=stage.seconds,
            state={"info": "idle"}.get(stage.state, stage.state),
        )
        for stage in found
    ]
