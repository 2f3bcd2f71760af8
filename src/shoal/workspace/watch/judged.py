"""A window's findings judged together, as rows of the drift table."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shoal.monitoring import judge
from shoal.workspace.watch.findings import Findings
from shoal.workspace.watch.store import findings

if TYPE_CHECKING:
    import pyarrow as pa

    from shoal.project import Watched

__all__ = ["judged_window", "numbered"]

_WORST = 10

States = Mapping[tuple[str, str, str], tuple[int, bool]]


def judged_window(
    kinds: list[Findings],
    weight: Mapping[str, float],
    states: States,
    watched: Watched,
    *,
    number: int,
    model_version: int | None,
    details: Mapping[str, Any],
) -> tuple[pa.Table, dict[str, Any]]:
    """Judges findings, and tells which alarms open and close.

    Args:
        kinds: The findings.
        weight: How much each segment matters.
        states: Streaks and alarms as the window before left them.
        watched: How is judged.
        number: The window's number.
        model_version: The version that was watched, of a model.
        details: How far the window was read.

    Returns:
        The rows of the window, and for its report ``tests``, ``over``, ``opened``, ``closed``,
        ``alarms`` and ``worst``.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    whole = sum(weight.values()) or 1.0
    same = {"window": number, "at": dt.datetime.now(dt.UTC), "model_version": model_version}
    parts = []
    for kind in kinds:
        if not kind.names:
            continue
        judged = judge(
            kind.names,
            kind.p,
            kind.effect,
            states,
            alpha=watched.alpha,
            raise_after=watched.raise_after,
            clear_after=watched.clear_after,
        )
        share = np.array([weight.get(name[1], 0.0) / whole for name in kind.names])
        columns = {
            **kind.columns,
            **same,
            "check": kind.check,
            "effect": kind.effect,
            "weight": share,
            "score": kind.effect * share,
            "q": judged.q,
            "over": judged.over,
            "streak": judged.streak,
            "alarm": judged.alarm,
            "changed": judged.changed.tolist(),
        }
        parts.append(findings(columns, len(kind.names)))
    table = pa.concat_tables(parts) if parts else findings({}, 0)
    keys = (table.column(name).to_pylist() for name in ("check", "segment", "column", "alarm"))
    opened = {(c, s, n) for c, s, n, alarm in zip(*keys, strict=True) if alarm}
    seen = {name for kind in kinds for name in kind.names}
    older = {name for name, (_, alarm) in states.items() if alarm and name not in seen}
    worst = table.filter(table.column("alarm")).sort_by([("score", "descending")])
    names = ["check", "segment", "column", "effect", "score", "value", "reference"]
    counts = {
        "tests": int(pc.sum(pc.is_valid(table.column("p"))).as_py() or 0),
        "over": int(pc.sum(table.column("over")).as_py() or 0),
        "opened": int(pc.sum(pc.equal(table.column("changed"), "opened")).as_py() or 0),
        "closed": int(pc.sum(pc.equal(table.column("changed"), "closed")).as_py() or 0),
        "alarms": len(opened) + len(older),
    }
    text = json.dumps({**details, **counts})
    window = findings({**same, "check": "window", "details": text}, 1)
    told = {**counts, "worst": tuple(worst.select(names).slice(0, _WORST).to_pylist())}
    return pa.concat_tables([table, window]), told


def numbered(sketches: pa.Table, number: int) -> pa.Table:
    """Sketches of a window, for the profiles table."""
    import pyarrow as pa

    rows = sketches.num_rows
    nothing = pa.nulls(rows, pa.int64())
    return (
        sketches.append_column("window", pa.repeat(pa.scalar(number, pa.int64()), rows))
        .append_column("trained_on_version", nothing)
        .append_column("origin_version", nothing)
    )
