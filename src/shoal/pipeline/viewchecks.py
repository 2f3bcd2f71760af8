"""Expectations on temporary views, which store nothing.

What a view drops is a filter in the plan of whoever reads it, so the engine may push it down and a
view that follows its inputs stays linear in them. Its rows pass through joins and groups on their
way to a table, so the written files cannot count them: one aggregation over the same pinned inputs
does, which reads only the columns that the conditions and the view's own query need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.engines import TableRead, dataframe, reads
from shoal.pipeline.definitions import Kind
from shoal.pipeline.outcome import ExpectationCount

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyspark.sql.connect.proto import Relation

    from shoal.lake import Lake
    from shoal.pipeline.expectations import Expectation
    from shoal.pipeline.frames import Place
    from shoal.pipeline.graph import Graph, Node, Query

__all__ = ["expected_of", "kept_rows", "view_counts"]


def expected_of(view: Node) -> tuple[Expectation, ...]:
    """The expectations on a view."""
    return (*view.dataset.expectations, *(e for q in view.queries for e in q.flow.expectations))


def kept_rows(view: Node, rows: Relation) -> Relation:
    """A view's rows without those that its expectations drop."""
    from pyspark.sql.connect.proto import Expression, Filter, Relation

    drops = [e.condition for e in expected_of(view) if e.action == "drop"]
    if not drops:
        return rows
    text = " AND ".join(f"coalesce(({condition}), false)" for condition in drops)
    condition = Expression(expression_string=Expression.ExpressionString(expression=text))
    return Relation(filter=Filter(input=rows, condition=condition))


def view_counts(
    place: Place, rows: Callable[[Query], Relation]
) -> tuple[list[ExpectationCount], int]:
    """How many rows of the views that a flow reads met their expectations; how many were dropped.

    Args:
        place: The flow.
        rows: Gives a query over the inputs of this run.
    """
    found: list[ExpectationCount] = []
    dropped = 0
    for view in _views(place.work.query, place.graph, place.lake):
        if expected := expected_of(view):
            counts, fewer = _counted(place, view, expected, rows(view.queries[0]))
            found += counts
            dropped += fewer
    return found, dropped


def _views(query: Query, graph: Graph, lake: Lake) -> list[Node]:
    """The views that a query reads, directly or not, each once."""
    found: dict[object, Node] = {}
    todo = [query]
    while todo:
        for read in reads(todo.pop().plan):
            node = graph.nodes.get(lake.name(read.name)) if isinstance(read, TableRead) else None
            if node and node.dataset.kind is Kind.TEMPORARY_VIEW and node.name not in found:
                found[node.name] = node
                todo += node.queries
    return list(found.values())


def _counted(
    place: Place, view: Node, expected: Sequence[Expectation], rows: Relation
) -> tuple[list[ExpectationCount], int]:
    from pyspark.sql import functions as F
    from pyspark.sql.connect.proto import Plan

    frame = dataframe(Plan(root=rows), place.engine.spark)
    broken = [~F.coalesce(F.expr(f"({e.condition})"), F.lit(False)) for e in expected]
    lost = F.lit(False)
    for condition, one in zip(broken, expected, strict=True):
        lost = lost | condition if one.action == "drop" else lost
    ones = [F.sum(F.when(condition, 1).otherwise(0)) for condition in (*broken, lost)]
    ((total, *failed),) = frame.agg(F.count(F.lit(1)), *ones).collect()
    *each, fewer = (int(number or 0) for number in failed)
    counts = [
        ExpectationCount(expectation=e, passed=total - number, failed=number, view=view.name)
        for e, number in zip(expected, each, strict=True)
    ]
    return counts, fewer
