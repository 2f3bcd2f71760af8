"""Decides, before anything runs, what a table needs and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.pipeline.definitions import Kind
from shoal.pipeline.deliver import decide_sink
from shoal.pipeline.explain import edit
from shoal.pipeline.streams import decide_stream, only_new_rows
from shoal.pipeline.views import decide_view, view_follows
from shoal.pipeline.work import Decision, Pins, definition, expand

if TYPE_CHECKING:
    from pathlib import Path

    from shoal.lake import TableName
    from shoal.pipeline.graph import Graph, Node, Query

__all__ = ["decide"]


def decide(
    node: Node,
    graph: Graph,
    pins: Pins,
    root: Path,
    *,
    full: bool = False,
    changing: frozenset[TableName] = frozenset(),
) -> Decision:
    """What a table needs now.

    Args:
        node: The table.
        graph: Its graph.
        pins: The run's pinned versions.
        root: Project folder.
        full: Rebuild it whatever changed.
        changing: Tables that this run will change before this one; for planning only.

    Raises:
        PipelineError: A stream's source removed or changed rows, or was made anew.
    """
    if node.dataset.kind is Kind.SINK:
        return decide_sink(node, graph, pins, root, full=full, changing=changing)
    inputs = graph.stored_inputs(node)
    following = sorted(str(name) for name in inputs & changing)
    exists = pins.lake.table(node.name).exists()
    if following and (not exists or full):
        reason = "full refresh asked for" if exists else "the table is new"
        return Decision(name=node.name, kind=node.dataset.kind, action="full", reason=reason)
    if following:
        streams = node.dataset.kind is Kind.STREAMING_TABLE
        goes_on = streams or view_follows(node, graph, pins, inputs & changing)
        changed, edited = _edited(node, graph, pins)
        reason = "its definition changed, " if changed and not streams else ""
        return Decision(
            name=node.name,
            kind=node.dataset.kind,
            action="incremental" if goes_on else "full",
            reason=f"{reason}follows {', '.join(following)}",
            notes=tuple(map(only_new_rows, changed)) if streams else (),
            edit=edited,
        )
    if node.dataset.kind is Kind.MATERIALIZED_VIEW:
        return decide_view(node, graph, pins, root, full=full, exists=exists)
    return decide_stream(node, graph, pins, root, full=full, exists=exists)


def _edited(node: Node, graph: Graph, pins: Pins) -> tuple[list[Query], str]:
    """The flows that are not as they were when they last wrote, and how they differ."""
    found, edits = [], []
    table = pins.lake.table(node.name)
    for query in node.queries:
        before = table.progress(query.flow.name)
        if before.definition not in (None, definition(node, query, expand(query, graph)[2])):
            found.append(query)
            edits.append(edit(node, query, graph, before))
    return found, "\n".join(text for text in edits if text)
