"""Whether flows fit the datasets that they fill."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from shoal.engines import Read, TableRead, rewrite, stateful_operator
from shoal.errors import PipelineError
from shoal.pipeline.databricks import either_kind
from shoal.pipeline.definitions import Kind
from shoal.pipeline.viewchecks import kept_rows

if TYPE_CHECKING:
    from pyspark.sql.connect.proto import Plan, Relation

    from shoal.lake import Lake
    from shoal.pipeline.graph import Graph, Node, Query

__all__ = ["check_kind", "seen_through", "settled"]


def seen_through(query: Query, graph: Graph, lake: Lake) -> Plan:
    """The query's plan with the temporary views' plans in the place of their names."""

    def inline(read: Read) -> Relation | None:
        view = graph.nodes.get(lake.name(read.name)) if isinstance(read, TableRead) else None
        if view is None or view.dataset.kind is not Kind.TEMPORARY_VIEW:
            return None
        return kept_rows(view, seen_through(view.queries[0], graph, lake).root)

    return rewrite(query.plan, inline)


def settled(node: Node, graph: Graph) -> Node:
    """The node; a ``@dlt.table`` that reads no stream is a materialized view."""
    queries = node.queries
    if not all(either_kind(query.flow.query) for query in queries) or len(queries) != 1:
        return node
    if _streams(queries[0], graph):
        return node
    return replace(node, dataset=replace(node.dataset, kind=Kind.MATERIALIZED_VIEW))


def check_kind(node: Node, graph: Graph, lake: Lake) -> None:
    """Checks a dataset's flows against its kind.

    Raises:
        PipelineError: They are too many or too few, stream or do not, or need rows of earlier runs.
    """
    dataset = node.dataset
    single = dataset.kind not in (Kind.STREAMING_TABLE, Kind.SINK)
    if single and len(node.queries) != 1:
        places = ", ".join(query.flow.location for query in node.queries) or "none"
        raise PipelineError(
            f"{dataset.location}: the {dataset.kind} '{dataset.name}' must have one flow; it has "
            f"{len(node.queries)} ({places}).",
            hint="Only a streaming table takes several: dp.create_streaming_table and "
            "@dp.append_flow(target=...).",
        )
    if not node.queries:
        raise PipelineError(
            f"{dataset.location}: no flow writes into '{dataset.name}'.",
            hint=f'Add one: @dp.append_flow(target="{dataset.name}")',
        )
    for query in node.queries:
        streams = _streams(query, graph)
        _check_view(query, node, streams=streams)
        if query.flow.cdc is not None:
            _check_cdc(query, node, graph)
        _check_stream(query, node, streams=streams)
        operator = stateful_operator(seen_through(query, graph, lake))
        if operator:
            raise PipelineError(
                f"{query.flow.location}: '{dataset.name}' has {operator} over a stream, "
                "which would need rows of earlier runs.",
                hint="Do it in a @dp.materialized_view that reads the table.",
            )


def _streams(query: Query, graph: Graph) -> bool:
    """Whether a query streams, itself or through a temporary view."""
    if query.streaming:
        return True
    views = (graph.nodes[name] for name in query.tables if name in graph.nodes)
    return any(
        view.dataset.kind is Kind.TEMPORARY_VIEW and any(_streams(q, graph) for q in view.queries)
        for view in views
    )


def _check_view(query: Query, node: Node, *, streams: bool) -> None:
    dataset, location = node.dataset, query.flow.location
    if dataset.kind is Kind.TEMPORARY_VIEW and query.flow.local is not None:
        raise PipelineError(
            f"{location}: the temporary view '{dataset.name}' is a "
            f"@shoal.{query.flow.local.language} function, which no engine can put into a "
            "query.",
            hint="Make it a @dp.materialized_view.",
        )
    if dataset.kind is Kind.MATERIALIZED_VIEW and streams:
        raise PipelineError(
            f"{location}: the materialized view '{dataset.name}' reads a stream.",
            hint="Read it as a table (spark.read.table), or declare a streaming table (@dp.table).",
        )


def _check_cdc(query: Query, node: Node, graph: Graph) -> None:
    dataset, location = node.dataset, query.flow.location
    _check_beside(query, node)
    if dataset.kind is not Kind.STREAMING_TABLE:
        raise PipelineError(
            f"{location}: an AUTO CDC flow writes into the {dataset.kind} '{dataset.name}'; it "
            "needs a streaming table.",
            hint=f'Declare it: dp.create_streaming_table("{dataset.name}")',
        )
    views = [graph.nodes[name] for name in query.tables if name in graph.nodes]
    for view in views:
        batch = _is_snapshot(query) or query.flow.once
        if view.dataset.kind is not Kind.TEMPORARY_VIEW or batch:
            continue
        if not any(_streams(inner, graph) for inner in view.queries):
            raise PipelineError(
                f"{location}: AUTO CDC takes its events from the view '{view.name}' "
                f"({view.dataset.location}), which reads no stream.",
                hint="Read the view's source with spark.readStream, or use "
                "create_auto_cdc_from_snapshot_flow.",
            )


def _check_beside(query: Query, node: Node) -> None:
    """Flows into one table merge by the same rules: their events then count as one stream."""
    from shoal.pipeline.cdc import rules_note

    rules = query.flow.cdc
    assert rules is not None
    for other in node.queries:
        if other is query:
            continue
        cdc, wrong = other.flow.cdc, ""
        if cdc is None:
            wrong = "takes an AUTO CDC flow and other flows"
        elif cdc.snapshot or rules.snapshot:
            wrong = "takes a flow of snapshots and other flows"
        elif (
            rules_note(cdc) != rules_note(rules)
            or cdc.track_history_column_list != rules.track_history_column_list
            or cdc.track_history_except_column_list != rules.track_history_except_column_list
            or (cdc.apply_as_truncates is None) != (rules.apply_as_truncates is None)
        ):
            wrong = "takes AUTO CDC flows that differ in keys, type, nulls, truncates or history"
        if wrong:
            raise PipelineError(
                f"{query.flow.location}: '{node.name}' {wrong} "
                f"({query.flow.location}, {other.flow.location}).",
                hint="Make them equal, or give each a table of its own.",
            )


def _is_snapshot(query: Query) -> bool:
    return query.flow.cdc is not None and query.flow.cdc.snapshot


def _check_stream(query: Query, node: Node, *, streams: bool) -> None:
    dataset, location = node.dataset, query.flow.location
    if query.flow.once and streams:
        raise PipelineError(
            f"{location}: the flow '{query.flow.name}' runs once and reads a stream.",
            hint="Read all of it with spark.read, or leave ONCE out.",
        )
    batch = _is_snapshot(query) or query.flow.once
    if dataset.kind is Kind.STREAMING_TABLE and not streams and not batch:
        raise PipelineError(
            f"{location}: the streaming table '{dataset.name}' reads no stream.",
            hint="Read one source with spark.readStream or STREAM(...), or declare "
            "a @dp.materialized_view.",
        )
    if dataset.kind is Kind.SINK and (not streams or query.flow.cdc is not None):
        what = "merges change events" if query.flow.cdc is not None else "reads no stream"
        raise PipelineError(
            f"{location}: the flow '{query.flow.name}' into the sink '{dataset.name}' {what}; "
            "a sink takes the appended rows of a stream.",
            hint="Read a table with spark.readStream and write it with "
            f'@dp.append_flow(target="{dataset.name.table}").',
        )
