"""The graph of declared datasets: what reads what, found in the plans and checked first."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.engines import (
    ExecutionRefused,
    FileRead,
    KafkaRead,
    TableRead,
    check_options,
    input_plan,
    plan_of,
    query_plan,
    reads,
)
from shoal.errors import PipelineError, TableError, nearest
from shoal.lake import TableName
from shoal.pipeline.definitions import Dataset, Flow, Kind
from shoal.pipeline.feeds import check_reads
from shoal.pipeline.kafka import KafkaSource
from shoal.pipeline.kinds import check_kind, settled
from shoal.pipeline.load import flow_error, own_line, project_folder
from shoal.pipeline.resolve import STORED, Resolver
from shoal.pipeline.sinks import checked_sink

if TYPE_CHECKING:
    from pyspark.sql.connect.proto import Plan

    from shoal.engines import Engine
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
        messages: Kafka sources read.
        functions: What the session's functions that the plan names do.
    """

    flow: Flow
    plan: Plan
    tables: Mapping[TableName, bool]
    files: tuple[FileRead, ...]
    messages: tuple[KafkaRead, ...] = ()
    functions: tuple[str, ...] = ()

    @property
    def streaming(self) -> bool:
        """True when the flow reads a stream itself (not through a view)."""
        streams = [*self.tables.values(), *(file.streaming for file in self.files)]
        return any(streams) or any(source.streaming for source in self.messages)


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
        resolver: Knows the columns of the queries.
    """

    nodes: Mapping[TableName, Node] = field(default_factory=dict)
    resolver: Resolver | None = field(default=None, compare=False, repr=False)

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


def analyse(
    registry: Registry,
    *,
    lake: Lake,
    root: Path,
    engine: Engine | None = None,
    keep: Callable[[Mapping[TableName, frozenset[TableName]]], Collection[TableName]] | None = None,
) -> Graph:
    """Calls the flows' functions for their plans, and checks the graph. Nothing is executed.

    Args:
        registry: What the sources declared.
        lake: Where tables that the graph does not declare may exist.
        root: Project folder.
        engine: Answers flows that ask for the columns of what they read.
        keep: Gives, from what each dataset reads, the datasets to keep; None keeps all.

    Raises:
        PipelineError: A flow fails, reads itself or a name that does not exist, the graph has a
            cycle, or a flow does not fit its dataset; the message has the declaration's place.
    """
    from pyspark.pipelines.block_session_mutations import block_session_mutations

    queries: dict[TableName, list[Query]] = {name: [] for name in registry.datasets}
    resolver = Resolver(
        registry,
        lambda flow: _query(flow, lake, root, engine, registry.functions),
        lake=lake,
        root=root,
        engine=engine,
    )
    answers = engine.resolving(resolver.resolve) if engine else contextlib.nullcontext()
    with project_folder(root), block_session_mutations(), answers:
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
            queries[flow.target].append(resolver.query(flow))
    edges = {n: frozenset(t for q in found for t in q.tables) for n, found in queries.items()}
    kept = edges if keep is None else keep(edges)
    datasets = {
        name: checked_sink(dataset, root, lake, registry.datasets)
        if dataset.kind is Kind.SINK
        else dataset
        for name, dataset in registry.datasets.items()
        if name in kept
    }
    nodes = {
        name: _node(dataset, tuple(queries[name]), datasets, lake)
        for name, dataset in datasets.items()
    }
    order = _order(nodes)
    known = resolver if engine is not None else None
    graph = Graph(nodes={name: nodes[name] for name in order}, resolver=known)
    graph = replace(graph, nodes={n: settled(node, graph) for n, node in graph.nodes.items()})
    for node in graph.nodes.values():
        for query in node.queries:
            try:
                check_reads(query.plan, datasets, lake)
            except PipelineError as error:
                raise flow_error(query.flow.location, error) from error
        check_kind(node, graph, lake)
    return graph


def _query(
    flow: Flow, lake: Lake, root: Path, engine: Engine | None, functions: Mapping[str, str]
) -> Query:
    try:
        plan = _plan(flow)
        found = reads(plan)
    except ExecutionRefused as error:
        raise flow_error(own_line(error, root) or flow.location, error) from error
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
    messages = tuple(read for read in found if isinstance(read, KafkaRead))
    try:
        for read in messages:
            KafkaSource.of(read)
        for file in files:
            if file.format.lower() not in STORED:
                embedded = engine is None or engine.sail
                check_options(file.format, file.options, embedded=embedded)
    except PipelineError as error:
        raise flow_error(flow.location, error) from error
    text = plan.SerializeToString().lower() if functions else b""
    return Query(
        flow=flow,
        plan=plan,
        tables=tables,
        files=files,
        messages=messages,
        functions=tuple(
            f"{name} {functions[name]}"
            for name in sorted(functions)
            if name.lower().encode() in text
        ),
    )


def _plan(flow: Flow) -> Plan:
    if flow.local is not None:
        return input_plan({name: name in flow.local.streaming for name in flow.local.inputs})
    return query_plan(flow.query) if isinstance(flow.query, str) else _call(flow.query)


def _call(function: Callable[[], Any]) -> Plan:
    from pyspark.sql.connect.dataframe import DataFrame

    frame = function()
    if type(frame).__module__.startswith("pyspark.pandas."):
        frame = frame.to_frame() if hasattr(frame, "to_frame") else frame
        frame = frame.to_spark()
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
            if name in datasets and datasets[name].kind is Kind.SINK:
                raise PipelineError(
                    f"{query.flow.location}: '{dataset.name}' reads '{name}', which is a sink "
                    f"({datasets[name].location}); sinks are only written.",
                    hint="Read the table that the sink's flow reads.",
                )
            if name in datasets:
                upstream.add(name)
            elif lake.table(name).exists():
                external.add(name)
            else:
                if name.path:
                    raise PipelineError(
                        f"{query.flow.location}: '{dataset.name}' reads {name.path}, which is no "
                        "Delta table.",
                        hint="Mend the path; it is relative to the project's folder.",
                    )
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
