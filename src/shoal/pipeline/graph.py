"""The graph of declared datasets: what reads what, found in the plans and checked first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.engines import (
    FileRead,
    Read,
    TableRead,
    plan_of,
    query_plan,
    reads,
    rewrite,
    stateful_operator,
)
from shoal.errors import PipelineError, TableError, nearest
from shoal.lake import TableName
from shoal.pipeline.definitions import Dataset, Flow, Kind
from shoal.pipeline.load import flow_error, project_folder

if TYPE_CHECKING:
    from pyspark.sql.connect.proto import Plan, Relation

    from shoal.lake import Lake
    from shoal.pipeline.registry import Registry

__all__ = ["Graph", "Node", "Query", "analyse"]


@dataclass(frozen=True, kw_only=True)
class Query:
    """One flow with its plan and what the plan reads.

    Args:
        flow: The declaration.
        plan: The unresolved Spark Connect plan.
        tables: Tables and views read, by name; True where the read streams.
        files: Files read.
    """

    flow: Flow
    plan: Plan
    tables: Mapping[TableName, bool]
    files: tuple[FileRead, ...]

    @property
    def streaming(self) -> bool:
        """True when the flow reads a stream itself (not through a view)."""
        return any(self.tables.values()) or any(file.streaming for file in self.files)


@dataclass(frozen=True, kw_only=True)
class Node:
    """One dataset with its queries.

    Args:
        dataset: The declaration.
        queries: Its flows; a materialized or temporary view has exactly one.
        upstream: Datasets of this graph that it reads, views seen through.
        external: Tables of the lake that no dataset of this graph declares.
    """

    dataset: Dataset
    queries: tuple[Query, ...]
    upstream: frozenset[TableName] = frozenset()
    external: frozenset[TableName] = frozenset()

    @property
    def name(self) -> TableName:
        """The dataset's name."""
        return self.dataset.name


@dataclass(frozen=True, kw_only=True)
class Graph:
    """All datasets of a project, checked.

    Args:
        nodes: By name, in an order in which each comes after what it reads.
    """

    nodes: Mapping[TableName, Node] = field(default_factory=dict)

    @property
    def tables(self) -> list[Node]:
        """The nodes that are stored: not the temporary views."""
        return [n for n in self.nodes.values() if n.dataset.kind is not Kind.TEMPORARY_VIEW]

    def sorter(self, only: frozenset[TableName] | None = None) -> TopologicalSorter[TableName]:
        """A prepared sorter over the stored tables, for running them as they become ready."""
        wanted = [node for node in self.tables if only is None or node.name in only]
        sorter: TopologicalSorter[TableName] = TopologicalSorter()
        names = {node.name for node in wanted}
        for node in wanted:
            sorter.add(node.name, *(self.stored_inputs(node) & names))
        sorter.prepare()
        return sorter

    def stored_inputs(self, node: Node) -> frozenset[TableName]:
        """The stored datasets of this graph that a node reads, views seen through."""
        found: set[TableName] = set()
        for name in node.upstream:
            inner = self.nodes[name]
            if inner.dataset.kind is Kind.TEMPORARY_VIEW:
                found |= self.stored_inputs(inner)
            else:
                found.add(name)
        return frozenset(found)

    def resolve(self, text: str, lake: Lake) -> TableName:
        """The dataset that a user means, for options such as ``--select``.

        Raises:
            PipelineError: No dataset has that name; the message has the nearest.
        """
        name = lake.name(text)
        if name in self.nodes:
            return name
        close = nearest(str(name), [str(known) for known in self.nodes])
        raise PipelineError(
            f"The pipeline declares no '{name}'.",
            hint=f"Did you mean '{close}'?" if close else "shoal plan lists what it declares.",
        )


def analyse(registry: Registry, *, lake: Lake, root: Path) -> Graph:
    """Calls the flows' functions for their plans, and checks the graph. Nothing is executed.

    Args:
        registry: What the sources declared.
        lake: Where tables that the graph does not declare may exist.
        root: Project folder.

    Raises:
        PipelineError: A flow fails, reads itself or a name that does not exist, the graph has a
            cycle, or a flow does not fit its dataset; the message has the declaration's place.
    """
    from pyspark.pipelines.block_session_mutations import block_session_mutations

    queries: dict[TableName, list[Query]] = {name: [] for name in registry.datasets}
    with project_folder(root), block_session_mutations():
        for flow in registry.flows:
            if flow.target not in registry.datasets:
                close = nearest(str(flow.target), [str(name) for name in registry.datasets])
                raise PipelineError(
                    f"{flow.location}: flow '{flow.name}' writes into '{flow.target}', which is "
                    "not declared.",
                    hint=f"Did you mean '{close}'?"
                    if close
                    else f'Declare it: dp.create_streaming_table("{flow.target}")',
                )
            queries[flow.target].append(_query(flow, lake))
    nodes = {
        name: _node(dataset, tuple(queries[name]), registry.datasets, lake)
        for name, dataset in registry.datasets.items()
    }
    order = _order(nodes)
    graph = Graph(nodes={name: nodes[name] for name in order})
    for node in graph.nodes.values():
        _check_kind(node, graph, lake)
    return graph


def _query(flow: Flow, lake: Lake) -> Query:
    try:
        plan = query_plan(flow.query) if isinstance(flow.query, str) else _call(flow.query)
        found = reads(plan)
    except Exception as error:
        raise flow_error(flow.location, error) from error
    tables: dict[TableName, bool] = {}
    for read in found:
        if isinstance(read, TableRead):
            try:
                name = lake.name(read.name)
            except TableError as error:
                raise PipelineError(f"{flow.location}: {error.message}", hint=error.hint) from error
            tables[name] = tables.get(name, False) or read.streaming
    files = tuple(read for read in found if isinstance(read, FileRead))
    return Query(flow=flow, plan=plan, tables=tables, files=files)


def _call(function: Callable[[], Any]) -> Plan:
    from pyspark.sql.connect.dataframe import DataFrame

    frame = function()
    if not isinstance(frame, DataFrame):
        raise PipelineError(
            f"the function must return a Spark DataFrame; it returned {type(frame).__name__}.",
            hint="End it with: return spark.read.table(...)",
        )
    return plan_of(frame)


def _node(
    dataset: Dataset,
    queries: tuple[Query, ...],
    datasets: Mapping[TableName, Dataset],
    lake: Lake,
) -> Node:
    upstream: set[TableName] = set()
    external: set[TableName] = set()
    for query in queries:
        for name in query.tables:
            if name == dataset.name:
                raise PipelineError(
                    f"{query.flow.location}: '{dataset.name}' reads itself.",
                    hint="Read the tables it is made from instead.",
                )
            if name in datasets:
                upstream.add(name)
            elif lake.table(name).exists():
                external.add(name)
            else:
                known = [*map(str, datasets), *(table.name for table in lake.tables())]
                close = nearest(str(name), known)
                raise PipelineError(
                    f"{query.flow.location}: '{dataset.name}' reads '{name}', which is neither "
                    "declared in this project nor a table of the lake.",
                    hint=f"Did you mean '{close}'?" if close else "shoal tables lists the lake.",
                )
    return Node(
        dataset=dataset,
        queries=queries,
        upstream=frozenset(upstream),
        external=frozenset(external),
    )


def _order(nodes: Mapping[TableName, Node]) -> list[TableName]:
    sorter = TopologicalSorter({name: sorted(node.upstream) for name, node in nodes.items()})
    try:
        return list(sorter.static_order())
    except CycleError as error:
        ring = list(reversed(error.args[1]))
        places = ", ".join(f"{name} ({nodes[name].dataset.location})" for name in ring[:-1])
        raise PipelineError(
            f"These tables read each other in a circle: {' → '.join(map(str, ring))}.",
            hint=f"Break one of the reads: {places}",
        ) from None


def _streams(query: Query, graph: Graph) -> bool:
    """Whether a query streams, itself or through a temporary view."""
    if query.streaming:
        return True
    views = (graph.nodes[name] for name in query.tables if name in graph.nodes)
    return any(
        view.dataset.kind is Kind.TEMPORARY_VIEW and any(_streams(q, graph) for q in view.queries)
        for view in views
    )


def _seen_through(query: Query, graph: Graph, lake: Lake) -> Plan:
    """The query's plan with the temporary views' plans in the place of their names."""

    def inline(read: Read) -> Relation | None:
        view = graph.nodes.get(lake.name(read.name)) if isinstance(read, TableRead) else None
        if view is None or view.dataset.kind is not Kind.TEMPORARY_VIEW:
            return None
        return _seen_through(view.queries[0], graph, lake).root

    return rewrite(query.plan, inline)


def _check_kind(node: Node, graph: Graph, lake: Lake) -> None:
    dataset = node.dataset
    single = dataset.kind is not Kind.STREAMING_TABLE
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
        location = query.flow.location
        streams = _streams(query, graph)
        if dataset.kind is Kind.TEMPORARY_VIEW and (
            query.flow.expectations or dataset.expectations
        ):
            raise PipelineError(
                f"{location}: expectations on the temporary view '{dataset.name}' are not "
                "supported: a view stores nothing to count.",
                hint="Put them on the table that reads it.",
            )
        if dataset.kind is Kind.MATERIALIZED_VIEW and streams:
            raise PipelineError(
                f"{location}: the materialized view '{dataset.name}' reads a stream.",
                hint="Read it as a table (spark.read.table), or declare a streaming table "
                "(@dp.table).",
            )
        if dataset.kind is Kind.STREAMING_TABLE and not streams:
            raise PipelineError(
                f"{location}: the streaming table '{dataset.name}' reads no stream.",
                hint="Read one source with spark.readStream or STREAM(...), or declare "
                "a @dp.materialized_view.",
            )
        operator = stateful_operator(_seen_through(query, graph, lake))
        if operator:
            raise PipelineError(
                f"{location}: '{dataset.name}' has {operator} over a stream, which would need "
                "rows of earlier runs.",
                hint="Do it in a @dp.materialized_view that reads the table.",
            )
