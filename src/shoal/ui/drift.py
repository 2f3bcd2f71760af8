"""The most drifted segments of a fleet, where a monitor has left its table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.ui.desk import Desk

__all__ = ["drift_of"]

_MEASURES = ("score", "psi", "value", "statistic")


def drift_of(desk: Desk, model: str, limit: int = 10) -> list[dict[str, Any]]:
    """Segments with the largest drift in the newest rows of ``shoal.drift_<model>``.

    Args:
        desk: The desk.
        model: The fleet.
        limit: At most so many.

    Returns:
        Each with ``segment`` and ``drift``; none without such a table.
    """
    import polars as pl

    table = desk.find(f"shoal.drift_{model}")
    if table is None:
        return []

    def read() -> list[dict[str, Any]]:
        frame = table.scan()
        names = frame.collect_schema().names()
        measure = next((name for name in _MEASURES if name in names), None)
        if "segment" not in names or measure is None:
            return []
        if (at := next((n for n in ("at", "checked_at", "until") if n in names), None)) is not None:
            frame = frame.filter(pl.col(at) == pl.col(at).max().over("segment"))
        worst = frame.group_by("segment").agg(drift=pl.col(measure).max())
        found = worst.drop_nulls().sort("drift", descending=True).head(limit).collect()
        return found.to_dicts()

    return desk.kept(("drift", model), read, table.name)
