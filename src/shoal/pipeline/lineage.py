"""Which columns a table's columns come from, kept in the lake.

The rows of ``shoal.lineage`` are edges between columns. A flow's edges follow from its definition,
so they are written once for each definition of it, by the first run that refreshes its table with
it. Which versions and files a version was made of is in the tables' own commits.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from shoal.engines import FileRead, KafkaRead, TableRead
from shoal.pipeline.definitions import Kind
from shoal.pipeline.journal import append_rows
from shoal.pipeline.work import definition, expand

if TYPE_CHECKING:
    from pyspark.sql import Column

    from shoal.engines import Read
    from shoal.lake import Lake, TableName
    from shoal.pipeline.definitions import Cdc
    from shoal.pipeline.graph import Graph, Node, Query
    from shoal.pipeline.resolve import Traced

__all__ = ["LINEAGE", "Edge", "EdgeKind", "lineage_edges", "record_lineage", "stored_edges"]

LINEAGE = "shoal.lineage"
EdgeKind = Literal["direct", "indirect", "opaque"]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, order=True)
class Edge:
    """One column of a table, and one that it depends on.

    Args:
        table: The table, as ``schema.name``.
        column: Its column; None for a dependency of all of them.
        flow: The flow that makes it.
        source: A table, ``files:<path>`` or ``topic:<name>``.
        source_column: The source's column; None where only the source is known.
        kind: ``direct``: its values are in the column; ``indirect``: it decides which rows there
            are, or how they are put together (filters, join conditions, groupings, merge keys);
            ``opaque``: a function in between cannot be looked into, so it may be either, or none.
        definition: Fingerprint of the flow's definition.
    """

    table: str
    column: str | None
    flow: str
    source: str
    source_column: str | None
    kind: EdgeKind
    definition: str


def lineage_edges(node: Node, graph: Graph, lake: Lake) -> list[Edge]:
    """The edges into a table, from its flows as they are declared now. Nothing is executed.

    Args:
        node: The table.
        graph: Its graph, analysed with an engine.
        lake: Names tables.
    """
    found: set[Edge] = set()
    for query in node.queries:
        defined = definition(node, query, expand(query, graph)[2])
        for column, source, source_column, kind in _edges(node, query, graph, lake):
            found.add(
                Edge(
                    table=str(node.name),
                    column=column,
                    flow=query.flow.name,
                    source=source,
                    source_column=source_column,
                    kind=kind,
                    definition=defined,
                )
            )
    return sorted(found, key=lambda edge: tuple(str(part) for part in vars(edge).values()))


_Found = tuple[str | None, str, str | None, EdgeKind]


def _edges(node: Node, query: Query, graph: Graph, lake: Lake) -> Iterator[_Found]:
    flow = query.flow
    local = flow.local is not None or (flow.cdc is not None and flow.cdc.snapshots is not None)
    traced = None if local else _traced(query, graph, lake)
    if traced is None:
        yield from _whole(query, graph)
        return
    names = [_source(read, lake) for read in traced.reads]
    direct = traced.sources.direct
    renamed, kept = _renamed(node, list(direct)), _kept_columns(query, list(direct))
    for column in kept:
        kind: EdgeKind = "opaque" if column in traced.sources.opaque else "direct"
        for origin in direct[column]:
            yield renamed[column], names[origin.read], origin.column, kind
    deciding = {*traced.sources.indirect}
    if flow.cdc is not None:
        deciding |= {o for column in _deciding(flow.cdc, list(direct)) for o in direct[column]}
    for origin in deciding:
        yield None, names[origin.read], origin.column, "indirect"
    told = {names[o.read] for o in deciding.union(*direct.values())}
    for name in set(names) - told:
        yield None, name, None, "indirect"


def _traced(query: Query, graph: Graph, lake: Lake) -> Traced | None:
    """What the engine tells of a query's columns; None where it cannot."""

    def through(read: TableRead) -> Query | None:
        inner = graph.nodes.get(lake.name(read.name))
        view = inner is not None and inner.dataset.kind is Kind.TEMPORARY_VIEW
        return inner.queries[0] if view and inner is not None else None

    try:
        return graph.resolver.traced(query, through) if graph.resolver is not None else None
    except Exception as error:  # noqa: BLE001 - lineage is told or not, but stops no run
        _log.debug("%s: columns not told: %s", query.flow.location, error)
        return None


def _whole(query: Query, graph: Graph) -> Iterator[_Found]:
    """All of each source, where columns cannot be told."""
    tables, files, _ = expand(query, graph)
    for name in tables:
        yield None, str(name), None, "opaque"
    sources: list[FileRead | KafkaRead] = [*files, *query.messages]
    for read in sources:
        yield None, _file_or_topic(read), None, "opaque"


def _source(read: Read, lake: Lake) -> str:
    return str(lake.name(read.name)) if isinstance(read, TableRead) else _file_or_topic(read)


def _file_or_topic(read: FileRead | KafkaRead) -> str:
    if isinstance(read, FileRead):
        return f"files:{','.join(read.paths)}"
    options = dict(read.options)
    return f"topic:{options.get('subscribe') or options.get('subscribepattern') or '?'}"


def _renamed(node: Node, names: Sequence[str]) -> dict[str, str]:
    """The table's own names, where it declares names without types."""
    declared = node.dataset.schema
    if isinstance(declared, str) and all(len(p.split()) == 1 for p in declared.split(",")):
        given = [part.strip().strip("`") for part in declared.split(",")]
        if len(given) == len(names):
            return dict(zip(names, given, strict=True))
    return {name: name for name in names}


def _kept_columns(query: Query, names: Sequence[str]) -> list[str]:
    """The columns that a merge keeps; all, without one."""
    cdc = query.flow.cdc
    kept = set(names)
    if cdc is not None and cdc.column_list is not None:
        kept &= {_bare(column) for column in cdc.column_list}
    if cdc is not None and cdc.except_column_list is not None:
        kept -= {_bare(column) for column in cdc.except_column_list}
    return [name for name in names if name in kept]


def _deciding(cdc: Cdc, names: Sequence[str]) -> list[str]:
    """The columns that a merge decides by: keys, order, deletes. Expressions are searched."""
    parts = [*cdc.keys, cdc.sequence_by, cdc.apply_as_deletes, cdc.apply_as_truncates]
    text = " ".join(_bare(part) for part in parts if part is not None)
    words = {word.strip("`") for word in text.replace("(", " ").replace(")", " ").split()}
    return [name for name in names if name in words or f"`{name}`" in text]


def _bare(column: str | Column) -> str:
    return str(column).removeprefix("Column<'").removesuffix("'>").strip("`")


_COLUMNS = {"run_id": "string", "at": "time"} | dict.fromkeys(Edge.__dataclass_fields__, "string")


def record_lineage(names: Iterable[TableName], graph: Graph, lake: Lake, *, run_id: str) -> None:
    """Writes the edges of refreshed tables whose definitions were not written yet.

    Args:
        names: The tables that a run refreshed.
        graph: Their graph.
        lake: Where ``shoal.lineage`` is.
        run_id: The run.
    """
    nodes = [graph.nodes[name] for name in names]
    if graph.resolver is None or not nodes:
        return
    known = {(edge.table, edge.flow, edge.definition) for edge in stored_edges(lake, newest=False)}
    new = [
        edge
        for node in nodes
        if any(
            (str(node.name), query.flow.name, definition(node, query, expand(query, graph)[2]))
            not in known
            for query in node.queries
        )
        for edge in lineage_edges(node, graph, lake)
        if (edge.table, edge.flow, edge.definition) not in known
    ]
    if new:
        now = dt.datetime.now(dt.UTC)
        rows = [{"run_id": run_id, "at": now, **vars(edge)} for edge in new]
        append_rows(lake, LINEAGE, _COLUMNS, rows)


def stored_edges(lake: Lake, *, newest: bool = True) -> list[Edge]:
    """The edges in ``shoal.lineage``.

    Args:
        lake: Where it is.
        newest: Only those of each flow's newest definition.
    """
    import polars as pl

    table = lake.table(LINEAGE)
    if not table.exists():
        return []
    names = list(Edge.__dataclass_fields__)
    rows = table.scan()
    if newest:
        last = pl.col("definition").sort_by("at").last().over("table", "flow")
        rows = rows.filter(pl.col("definition") == last)
    return [Edge(**row) for row in rows.select(names).unique().collect().to_dicts()]
