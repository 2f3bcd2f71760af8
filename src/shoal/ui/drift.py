"""What drifts in a fleet, as the windows of `shoal monitor` found it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.ui.desk import Desk

__all__ = ["Drift", "drift_of", "drift_of_segment"]

_SHOWN = ("window", "at", "check", "segment", "column", "rows", "value", "reference", "effect")
_JUDGED = ("q", "score", "over", "alarm", "changed")


@dataclass(frozen=True, kw_only=True)
class Drift:
    """The last window of a model.

    Args:
        window: Its number.
        at: When, UTC.
        alarms: How many are open.
        segments: In how many segments.
        worst: The gravest findings, those with an open alarm first.
    """

    window: int
    at: dt.datetime
    alarms: int
    segments: int
    worst: Sequence[dict[str, Any]]


def drift_of(desk: Desk, model: str, limit: int = 12) -> Drift | None:
    """What is known of a model's drift now; None where it was never watched.

    Args:
        desk: The desk.
        model: The model.
        limit: At most so many of the gravest findings.
    """
    import polars as pl

    table = desk.find(f"shoal.drift_{model}")
    if table is None:
        return None

    def read() -> Drift | None:
        frame = table.scan()
        ends = frame.filter(pl.col("check") == "window").sort("window").tail(1)
        end = ends.select("window", "at").collect()
        if not end.height:
            return None
        keys = ["check", "segment", "column"]
        newest = (
            frame.filter(pl.col("check") != "window")
            .select(*_SHOWN, *_JUDGED)
            .sort("window")
            .group_by(keys)
            .last()
            .collect()
        )
        opened = newest.filter(pl.col("alarm"))
        worst = newest.filter(pl.col("alarm") | pl.col("over"))
        worst = worst.sort("alarm", "score", descending=True, nulls_last=True)
        return Drift(
            window=end["window"][0],
            at=end["at"][0],
            alarms=opened.height,
            segments=opened["segment"].n_unique(),
            worst=worst.head(limit).to_dicts(),
        )

    return desk.kept(("drift", model), read, table.name)


def drift_of_segment(desk: Desk, model: str, segment: str) -> list[dict[str, Any]]:
    """A segment's findings that counted or whose alarm is open, the newest first."""
    import polars as pl

    table = desk.find(f"shoal.drift_{model}")
    if table is None:
        return []

    def read() -> list[dict[str, Any]]:
        counted = pl.col("over") | pl.col("alarm") | (pl.col("changed") != "")
        found = table.scan().filter((pl.col("segment") == segment) & counted)
        rows = found.select(*_SHOWN, *_JUDGED).sort("window", descending=True).head(20)
        return rows.collect().to_dicts()

    return desk.kept(("drift", model, segment), read, table.name)
