"""Operators that a stream of new rows cannot feed without remembering old ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.engines.sql import parse_sql

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from pyspark.sql.connect.proto import Plan

__all__ = ["stateful_operator"]

_STATEFUL = {
    "aggregate": "an aggregation",
    "deduplicate": "dropDuplicates",
    "limit": "limit",
    "offset": "offset",
    "tail": "tail",
    "sort": "a sort",
    "group_map": "applyInPandas over groups",
    "co_group_map": "applyInPandas over groups",
    "apply_in_pandas_with_state": "applyInPandasWithState",
    "sample": "sample",
}


def stateful_operator(plan: Plan) -> str | None:
    """Names an operator above a streaming read that needs rows of earlier runs; None if none does.

    A join of two streams counts; a union of streams and a join to a table do not.
    """
    operator, _ = _walk(plan.root)
    return operator


def _walk(message: Message) -> tuple[str | None, bool]:
    """The first stateful operator over a stream, and whether the message streams at all."""
    relation: Any = message
    kind = relation.WhichOneof("rel_type") if message.DESCRIPTOR.name == "Relation" else None
    if kind == "read":
        return None, relation.read.is_streaming
    if kind == "sql":
        return _walk_sql(relation.sql.query)
    streams = 0
    for descriptor, value in message.ListFields():
        if descriptor.type != descriptor.TYPE_MESSAGE or hasattr(value, "items"):
            continue
        for item in [value] if hasattr(value, "ListFields") else value:
            operator, streaming = _walk(item)
            if operator:
                return operator, True
            streams += streaming
    if streams and kind in _STATEFUL:
        return _STATEFUL[kind], True
    if streams > 1 and message.DESCRIPTOR.name == "Join":
        return "a join of two streams", True
    return None, streams > 0


def _walk_sql(text: str) -> tuple[str | None, bool]:
    from sqlglot import exp

    from shoal.engines.sql import sql_tables

    streams = sum(table.streaming for table in sql_tables(text))
    if not streams:
        return None, False
    for select in parse_sql(text).find_all(exp.Select):
        inside = select.sql("databricks").upper()
        if "STREAM" not in inside:
            continue
        aggregated = any(
            found.find_ancestor(exp.Window) is None and found.find_ancestor(exp.Select) is select
            for found in select.find_all(exp.AggFunc)
        )
        if select.args.get("group") or aggregated:
            return "an aggregation", True
        for clause, words in (("distinct", "DISTINCT"), ("limit", "LIMIT"), ("order", "ORDER BY")):
            if select.args.get(clause):
                return words, True
        joined = len(select.args.get("joins") or ())
        if joined and streams > 1:
            return "a join of two streams", True
    return None, True
