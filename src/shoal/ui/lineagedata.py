"""The lake as a graph: files, tables, models, predictions and endpoints, and how each is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from shoal.pipeline import LINEAGE
from shoal.ui.drift import drift_of
from shoal.ui.fleetdata import all_fleets
from shoal.ui.layout import Laid, lay_out
from shoal.ui.rundata import past_runs
from shoal.ui.tabledata import all_quality, edges

if TYPE_CHECKING:
    from shoal.lake import Summary
    from shoal.ui.desk import Desk
    from shoal.ui.fleetdata import FleetInfo
    from shoal.workspace.lineage import Lineage

__all__ = ["Graph", "Node", "columns_of", "graph"]

_INPUT = re.compile(r"([\w$-]+\.[\w$-]+)@(\d+)")


@dataclass(frozen=True, kw_only=True)
class Node:
    """One node.

    Args:
        name: A table's name, ``files:...``, ``topic:...``, ``model:...`` or ``endpoint:...``.
        kind: ``files``, ``topic``, ``table``, ``model``, ``predictions`` or ``endpoint``.
        label: For the person.
        state: ``good``, ``warn``, ``bad`` or ``idle``.
        why: What the state rests on.
        href: Its page.
        detail: Rows, version, ....
    """

    name: str
    kind: str
    label: str
    state: str = "good"
    why: str = ""
    href: str = ""
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Graph:
    """All nodes and edges, and where they are drawn."""

    nodes: Mapping[str, Node]
    edges: tuple[tuple[str, str], ...]
    laid: Laid


def graph(desk: Desk) -> Graph:
    """The whole graph; its drawing is kept as long as its nodes and edges are the same."""
    summaries = {s.name: s for s in desk.summaries()}
    fleets = all_fleets(desk)
    found = _tables(desk, summaries)
    links: dict[tuple[str, str], None] = {}
    for edge in edges(desk):
        for name in (edge.source, edge.table):
            if name not in found:
                found[name] = _source(name)
        links[edge.source, edge.table] = None
    for info in fleets:
        _add_model(desk, info, summaries, found, links)
    names, pairs = tuple(found), tuple(links)
    laid = desk.cache.get("laid", (names, pairs), lambda: lay_out(names, pairs))
    return Graph(nodes=found, edges=pairs, laid=laid)


def _tables(desk: Desk, summaries: Mapping[str, Summary]) -> dict[str, Node]:
    runs = past_runs(desk)
    failed = dict(runs[0].errors) if runs else {}
    broken = {one["table"]: one for one in all_quality(desk) if one["last"]["failed"]}
    found = {}
    for name, summary in summaries.items():
        if name.startswith("shoal."):
            continue
        state, why = "good", f"version {summary.version}"
        behind = _behind(summary, summaries)
        if name in broken:
            one = broken[name]
            state, why = "warn", f"{one['last']['failed']:,} rows broke {one['name']}"
        if behind:
            state, why = "warn", f"behind {', '.join(behind)}"
        if name in failed:
            state, why = "bad", failed[name].splitlines()[0]
        found[name] = Node(
            name=name,
            kind="predictions" if name.endswith("_predictions") else "table",
            label=name,
            state=state,
            why=why,
            href=f"/catalog/{quote(name)}",
            detail=f"{summary.rows:,} rows",
        )
    return found


def _behind(summary: Summary, summaries: Mapping[str, Summary]) -> list[str]:
    """Inputs that have a newer version than the table has read."""
    said = str(summary.said.get("shoal.inputs", ""))
    return [
        name
        for name, version in _INPUT.findall(said)
        if name in summaries and summaries[name].version > int(version)
    ]


def _source(name: str) -> Node:
    kind, _, rest = name.partition(":")
    if kind in {"files", "topic"}:
        short = rest if len(rest) <= 26 else "…" + rest[-25:]
        return Node(name=name, kind=kind, label=short, state="idle", why=rest, detail=kind)
    return Node(name=name, kind="table", label=name, state="bad", why="the table is gone")


def _add_model(
    desk: Desk,
    info: FleetInfo,
    summaries: Mapping[str, Summary],
    found: dict[str, Node],
    links: dict[tuple[str, str], None],
) -> None:
    name, champion = f"model:{info.name}", info.version(info.champion)
    state, why = "idle", "it has no version"
    if champion is not None:
        state, why = "good", f"version {champion.version} saw the newest rows"
        seen = champion.tags.get("shoal.current_version", "")
        table = summaries.get(info.table)
        if table is not None and seen.isdigit() and table.version > int(seen):
            state, why = "warn", f"{info.table} is at version {table.version}, it saw {seen}"
        drift = drift_of(desk, info.name)
        if drift is not None and drift.alarms:
            state, why = "bad", f"{drift.alarms:,} alarms are open"
    href = f"/fleets/{quote(info.name)}"
    version = f"champion v{info.champion}" if info.champion else "no champion"
    found[name] = Node(
        name=name, kind="model", label=info.name, state=state, why=why, href=href, detail=version
    )
    if info.table in found:
        links[info.table, name] = None
    schema = info.table.partition(".")[0]
    predictions = f"{schema}.{info.name}_predictions"
    if predictions in found:
        links[name, predictions] = None
    if champion is None:
        return
    endpoint, log = f"endpoint:{info.name}", summaries.get(f"shoal.inferences_{info.name}")
    found[endpoint] = Node(
        name=endpoint,
        kind="endpoint",
        label=f"/models/{info.name}",
        state="idle" if log is None else "good",
        why="no request was logged" if log is None else f"{log.rows:,} predictions logged",
        href=f"/endpoints?model={quote(info.name)}",
        detail="endpoint",
    )
    links[name, endpoint] = None


def columns_of(desk: Desk) -> Lineage:
    """The lineage of columns, as the runs kept it."""
    from shoal.workspace.lineage import Lineage

    return desk.kept("lineage", lambda: Lineage(edges(desk)), LINEAGE)
