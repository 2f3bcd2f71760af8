"""Alerts: made from the windows, kept in ``shoal.alerts``, delivered until somebody took them."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from shoal.errors import Conflict, Unavailable
from shoal.monitoring import Alert, Delivery, deliver
from shoal.workspace.watch.store import alerts_table, drift_table

if TYPE_CHECKING:
    from shoal.workspace.learning import Learning

__all__ = ["tell"]

_WORST = 10


def tell(space: Learning, model: str, *, shown: str | None = None) -> int:
    """Makes the alerts of windows that have none yet, and delivers those that nobody took.

    Args:
        space: The workspace.
        model: Under which name the windows are kept.
        shown: What people call it; the same by default.

    Returns:
        How many could not be delivered; they stay, and the next call tries again.

    Raises:
        ProjectError: The settings name an environment variable that is not set.
    """
    lake, shown = space.lake, shown or model
    for alert in _new(lake, model, shown):
        try:
            alerts_table(lake).append(
                _row(alert, "made"),
                app=(f"alerts:{model}", alert.window),
                metadata={"shoal": "alert"},
            )
        except Conflict:
            continue  # another process made it
    where = _where(space)
    if not where.webhook and not where.to:
        return 0
    left = 0
    for alert in _waiting(lake, shown):
        try:
            deliver(alert, where)
        except Unavailable:
            left += 1
            continue
        alerts_table(lake).append(_row(alert, "delivered"), metadata={"shoal": "alert"})
    return left


def _where(space: Learning) -> Delivery:
    given = space.project.monitor.alerts
    mail = dict(given.mail)
    to = tuple(mail.pop("to", ()))
    return Delivery(webhook=given.url(), to=to, password=given.password(), **mail)


def _new(lake: Any, model: str, shown: str) -> Iterator[Alert]:
    import polars as pl

    table = drift_table(lake, model)
    if not table.exists():
        return
    done = alerts_table(lake).transaction(f"alerts:{model}") or 0
    changed = (
        table.scan()
        .filter(pl.col("window") > done, pl.col("changed").is_in(["opened", "closed"]))
        .sort("window", "score", descending=[False, True])
        .collect()
    )
    for (window,), rows in changed.group_by("window", maintain_order=True):
        opened = rows.filter(pl.col("changed") == "opened")
        closed = rows.height - opened.height
        parts = []
        if opened.height:
            segments = opened["segment"].n_unique()
            checks = ", ".join(
                f"{count:,} {check}"
                for check, count in sorted(opened["check"].value_counts().iter_rows())
            )
            parts.append(f"{opened.height:,} alarms opened in {segments:,} segments ({checks})")
        if closed:
            parts.append(f"{closed:,} closed")
        names = ["check", "segment", "column", "effect", "score"]
        yield Alert(
            id=f"{table.id()}-{window}",
            model=shown,
            window=int(str(window)),
            text=f"{shown}: {'; '.join(parts)}",
            opened=opened.height,
            closed=closed,
            worst=tuple(opened.select(names).head(_WORST).to_dicts()),
        )


def _waiting(lake: Any, model: str) -> Iterator[Alert]:
    import polars as pl

    table = alerts_table(lake)
    if not table.exists():
        return
    rows = table.scan().filter(pl.col("model") == model).collect()
    delivered = rows.filter(pl.col("status") == "delivered")["id"].to_list()
    for row in rows.filter(pl.col("status") == "made").sort("window").to_dicts():
        if row["id"] not in delivered:
            yield Alert(
                **{
                    name: row[name]
                    for name in ("id", "model", "window", "text", "opened", "closed")
                },
                worst=tuple(json.loads(row["worst"])),
            )


def _row(alert: Alert, status: str) -> Any:
    import pyarrow as pa

    columns = {
        "id": alert.id,
        "at": dt.datetime.now(dt.UTC),
        "model": alert.model,
        "window": alert.window,
        "status": status,
        "text": alert.text,
        "opened": alert.opened,
        "closed": alert.closed,
        "worst": json.dumps(alert.worst),
    }
    return pa.table({name: [value] for name, value in columns.items()})
