"""A look at new and changed queries before a run commits anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.errors import PipelineError, ShoalError
from shoal.pipeline.definitions import Kind
from shoal.pipeline.load import flow_error
from shoal.pipeline.sinks import kept_in, progress_name
from shoal.pipeline.streams import streams_of, takes_changes
from shoal.pipeline.work import definition, expand

if TYPE_CHECKING:
    from shoal.lake import Lake, TableName
    from shoal.pipeline.graph import Graph, Node, Query

__all__ = ["check_changed", "check_full"]


def check_full(
    graph: Graph, lake: Lake, only: frozenset[TableName] | None, full: frozenset[TableName]
) -> None:
    """Refuses to make a table anew whose new rows a table of the same run could not tell.

    Args:
        graph: The graph.
        lake: Where the tables are.
        only: Tables that the run refreshes; None means all.
        full: Those that it makes anew.

    Raises:
        PipelineError: The message names the reading flow, the hint the options that agree.
    """
    wanted, first = set(full), ""
    for node in graph.tables:  # each after what it reads
        if node.name in wanted or (only is not None and node.name not in only):
            continue
        for query in node.queries:
            broken = [name for name in _streamed(node, query, graph, lake) if name in wanted]
            if broken:
                wanted.add(node.name)
                first = first or (
                    f"{query.flow.location}: '{node.name}' streams '{broken[0]}', which this run "
                    "would make anew, so what is new in it could not be told; nothing was changed."
                )
    if first:
        every = " ".join(
            f"--full-refresh {node.name}" for node in graph.tables if node.name in wanted
        )
        raise PipelineError(first, hint=f"Make both anew: shoal run {every}")


def _streamed(node: Node, query: Query, graph: Graph, lake: Lake) -> list[TableName]:
    """Tables of which a flow goes on from what it read, and takes only appended rows."""
    seen = kept_in(node.dataset, lake).progress(progress_name(node.dataset, query.flow)).versions
    streams = [name for name, streams in expand(query, graph)[0].items() if streams]
    return [
        name
        for name in streams
        if str(name) in seen
        and lake.table(name).exists()
        and any(not takes_changes(read) for read in streams_of(query, graph, name, lake))
    ]


def check_changed(graph: Graph, lake: Lake, only: frozenset[TableName] | None) -> None:
    """Asks the engine for the columns of each query whose definition is not that of the last run.

    Args:
        graph: The graph.
        lake: Where the tables are.
        only: Tables that the run refreshes; None means all.

    Raises:
        PipelineError: A query names a column or a function that does not exist.
    """
    from pyspark.errors import (
        AnalysisException,
        ParseException,
        UnsupportedOperationException,
    )

    if graph.resolver is None:
        return
    for node in graph.tables:
        if only is not None and node.name not in only:
            continue
        for query in node.queries:
            if query.flow.local is not None or not _changed(node, query, graph, lake):
                continue
            try:
                graph.resolver.columns(query)
            except (AnalysisException, ParseException, UnsupportedOperationException) as error:
                raise flow_error(query.flow.location, error) from error
            except ShoalError:
                # What it reads has no columns yet, or its files are wrong: the run says it better.
                continue


def _changed(node: Node, query: Query, graph: Graph, lake: Lake) -> bool:
    kept = kept_in(node.dataset, lake)
    if node.dataset.kind is not Kind.SINK and not kept.exists():
        return True
    before = kept.progress(progress_name(node.dataset, query.flow))
    return before.definition != definition(node, query, expand(query, graph)[2])
