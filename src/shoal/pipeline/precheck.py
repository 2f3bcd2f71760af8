"""A look at new and changed queries before a run commits anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.errors import ShoalError
from shoal.pipeline.definitions import Kind
from shoal.pipeline.load import flow_error
from shoal.pipeline.sinks import kept_in, progress_name
from shoal.pipeline.work import definition, expand

if TYPE_CHECKING:
    from shoal.lake import Lake, TableName
    from shoal.pipeline.graph import Graph, Node, Query

__all__ = ["check_changed"]


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
