"""Which tables a run refreshes, from the names that a user writes."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from shoal.errors import PipelineError
from shoal.pipeline.run import RunOptions

if TYPE_CHECKING:
    from shoal.lake import Lake, TableName
    from shoal.pipeline.graph import Graph

__all__ = ["chosen"]


def chosen(
    graph: Graph,
    lake: Lake,
    *,
    select: Sequence[str] = (),
    full_refresh: Sequence[str] = (),
    full_refresh_all: bool = False,
    until: Sequence[str] = (),
) -> RunOptions:
    """The options of a run.

    Args:
        graph: The declared tables.
        lake: Gives names their schema.
        select: Refresh only these; a pattern such as ``silver.*`` means all that match.
        full_refresh: Rebuild these from their sources.
        full_refresh_all: Rebuild every table.
        until: Refresh only these and all that they are made from.

    Raises:
        PipelineError: The pipeline declares no such table, or the options contradict each other.
    """
    if full_refresh_all and (select or full_refresh or until):
        raise PipelineError(
            "--full-refresh-all goes with neither table names nor --full-refresh.",
            hint="Leave one of them out.",
        )
    if full_refresh_all:
        return RunOptions(full=frozenset(node.name for node in graph.tables))
    full = _named(full_refresh, graph, lake)
    only = _named(select, graph, lake)
    for name in _named(until, graph, lake):
        only |= _upstream(name, graph)
    if not only:
        return RunOptions(full=full)
    return RunOptions(only=only | full, full=full)


def _named(written: Iterable[str], graph: Graph, lake: Lake) -> frozenset[TableName]:
    found: set[TableName] = set()
    for text in written:
        if not any(sign in text for sign in "*?["):
            found.add(graph.resolve(text, lake))
            continue
        matching = {n.name for n in graph.tables if fnmatch.fnmatchcase(str(n.name), text.lower())}
        if not matching:
            known = ", ".join(str(node.name) for node in graph.tables)
            raise PipelineError(f"No table matches '{text}'.", hint=f"There are: {known}.")
        found |= matching
    return frozenset(found)


def _upstream(name: TableName, graph: Graph) -> frozenset[TableName]:
    """A table and the tables of the graph that it is made from, directly or not."""
    found, todo = {name}, [name]
    while todo:
        more = graph.stored_inputs(graph.nodes[todo.pop()]) - found
        found |= more
        todo += more
    return frozenset(found)
