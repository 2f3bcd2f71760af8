"""Decides materialized views: recomputed only when their definition or an input changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.lake import last_writers
from shoal.pipeline.backlogs import backlogs
from shoal.pipeline.constraints import row_key_of
from shoal.pipeline.explain import edit, moves
from shoal.pipeline.increment import Increment, following, follows
from shoal.pipeline.predict import models_of
from shoal.pipeline.sources import list_files
from shoal.pipeline.work import Decision, FlowWork, Input, Pins, definition, expand, placed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from shoal.lake import Progress, Table, TableName
    from shoal.pipeline.graph import Graph, Node

__all__ = ["decide_view", "view_follows"]


def decide_view(
    node: Node, graph: Graph, pins: Pins, root: Path, *, full: bool, exists: bool
) -> Decision:
    """What a materialized view needs now; see `decide`."""
    query = node.queries[0]
    tables, reads, prints = expand(query, graph)
    before = pins.lake.table(node.name).progress(query.flow.name)
    inputs = {
        name: Input(id=pin[0], version=pin[1], key=row_key_of(name, query, graph))
        for name in tables
        for pin in [pins.pin(name)]
    }
    with placed(query):
        files = {read: tuple(list_files(read, root)) for read in reads}
        arriving = backlogs(query, graph, {}, batch=True)
    defined = definition(node, query, prints)
    marks = {file.path: [file.size, file.modified] for group in files.values() for file in group}
    versions = {str(name): (given.id, given.version) for name, given in inputs.items()}
    moved = sorted(n for n, value in versions.items() if before.versions.get(n) != value)
    news = {name: (_seen(before, name, versions[name]), versions[name][1]) for name in moved}
    changed = before.definition not in (None, defined)
    edited = edit(node, query, graph, before) if changed else ""
    if full:
        reason = "full refresh asked for"
    elif not exists or before.number < 0:
        reason = "the table is new"
    elif before.definition != defined:
        using = models_of(query.plan)
        reason = "its definition changed" + (f": it scores with {using[0]}" if using else "")
    elif moved or set(versions) != set(before.versions):
        reason = moves(news) or "its inputs changed"
    elif marks != dict(before.files):
        reason = "its input files changed"
    elif not (reason := _outdated(pins.lake.table(node.name), before, arriving.offsets)):
        return Decision(
            name=node.name, kind=node.dataset.kind, action="none", reason="nothing changed"
        )
    increment = None if query.flow.local is not None else Increment()
    steady = before.definition == defined and marks == dict(before.files)
    if (
        increment
        and moved
        and steady
        and exists
        and not full
        and arriving.offsets == before.offsets
    ):
        increment = following(pins.lake.table(node.name), before, inputs, pins.lake)
        if increment.changes is not None and not increment.files:
            return Decision(
                name=node.name,
                kind=node.dataset.kind,
                action="none",
                reason="the rows of its inputs are the same",
            )
    work = FlowWork(
        query=query,
        before=before,
        definition=defined,
        tables=inputs,
        files=files,
        new=True,
        messages=arriving.spans,
        offsets=arriving.offsets,
        increment=increment,
    )
    if increment is not None and increment.changes is not None:
        return Decision(
            name=node.name,
            kind=node.dataset.kind,
            action="incremental",
            reason=reason,
            files=increment.files,
            rows=increment.rows,
            inputs=news,
            work=(work,),
        )
    sizes = [pins.lake.table(name).size(given.version) for name, given in inputs.items()]
    return Decision(
        name=node.name,
        kind=node.dataset.kind,
        action="full",
        reason=reason,
        files=len(marks) + sum(files for _, files, _ in sizes),
        rows=None if marks else sum(rows for rows, _, _ in sizes),
        inputs=news,
        edit=edited,
        work=(work,),
    )


def _seen(before: Progress, name: str, now: tuple[str, int]) -> int | None:
    """The version of an input that the view saw last; None when it never saw this table."""
    seen = before.versions.get(name)
    return seen[1] if seen is not None and seen[0] == now[0] else None


def view_follows(node: Node, graph: Graph, pins: Pins, changing: frozenset[TableName]) -> bool:
    """Whether a view is expected to follow tables that this run will change before it.

    The run itself decides by what they then hold.
    """
    query = node.queries[0]
    _, _, prints = expand(query, graph)
    table = pins.lake.table(node.name)
    before = table.progress(query.flow.name)
    return before.definition == definition(node, query, prints) and follows(table, before, changing)


def _outdated(table: Table, before: Progress, offsets: Mapping[str, Mapping[str, int]]) -> str:
    """Why rows cannot stay though definition, tables and files are as they were; empty if they can.

    Args:
        table: The view's table.
        before: The flow's progress.
        offsets: Where its topics end now.
    """
    if offsets != before.offsets:
        return "new messages"
    last = last_writers(table.path)
    if last is None or before.application in last[1]:
        return ""
    return f"version {last[0]} is not its query's (a restore, or another writer)"
