"""Operators that a stream of new rows cannot feed without remembering old ones."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from shoal.engines.sqlstream import sql_operator

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from pyspark.sql.connect.proto import Plan

__all__ = ["aggregates", "stateful_operator"]

_STATEFUL = {
    "aggregate": "an aggregation",
    "deduplicate": "dropDuplicates",
    "limit": "limit",
    "offset": "offset",
    "tail": "tail",
    "sort": "a sort",
    "group_map": "applyInPandas or transformWithState over groups",
    "co_group_map": "applyInPandas over groups",
    "apply_in_pandas_with_state": "applyInPandasWithState",
    "sample": "sample",
}
# By Join.JoinType, where only the left or only the right side streams.
_LEFT_ONLY = {2: "a full join with a stream", 4: "a right join from a stream"}
_RIGHT_ONLY = {
    2: "a full join with a stream",
    3: "a left join to a stream",
    5: "an anti join to a stream",
    6: "a semi join to a stream",
}

Found = tuple[str | None, bool]


def stateful_operator(plan: Plan) -> str | None:
    """Names an operator above a streaming read that needs rows of earlier runs; None if none does.

    A join of two streams counts, and an outer join that keeps the rows of the side that does not
    stream; a union of streams and a join from a stream to a table do not.
    """
    operator, _ = _walk(plan.root, {})
    return operator


def _walk(message: Message, names: Mapping[str, bool]) -> Found:
    """The first stateful operator over a stream, and whether the message streams at all."""
    relation: Any = message
    kind = relation.WhichOneof("rel_type") if message.DESCRIPTOR.name == "Relation" else None
    if kind == "read":
        return None, relation.read.is_streaming
    if kind == "sql":
        return sql_operator(relation.sql.query, names)
    if kind == "join":
        return _join(relation.join, names)
    if kind == "with_relations":
        return _with_relations(relation.with_relations, names)
    streams = False
    for item in _children(message):
        operator, streaming = _walk(item, names)
        if operator:
            return operator, True
        streams |= streaming
    if streams and kind is not None:
        return _over_stream(kind, getattr(relation, kind)), True
    return None, streams


def _children(message: Message) -> list[Message]:
    found: list[Message] = []
    for descriptor, value in message.ListFields():
        if descriptor.type != descriptor.TYPE_MESSAGE or hasattr(value, "items"):
            continue
        found += [value] if hasattr(value, "ListFields") else list(value)
    return found


def _join(join: Any, names: Mapping[str, bool]) -> Found:
    (left, streams_left), (right, streams_right) = _walk(join.left, names), _walk(join.right, names)
    operator = left or right
    if operator is None and streams_left and streams_right:
        operator = "a join of two streams"
    elif operator is None and streams_left:
        operator = _LEFT_ONLY.get(join.join_type)
    elif operator is None and streams_right:
        operator = _RIGHT_ONLY.get(join.join_type)
    return operator, streams_left or streams_right


def _with_relations(given: Any, names: Mapping[str, bool]) -> Found:
    known = dict(names)
    for reference in given.references:
        operator, streaming = _walk(reference, names)
        if operator:
            return operator, True
        known[reference.subquery_alias.alias.lower()] = streaming
    return _walk(given.root, known)


def _over_stream(kind: str, operation: Any) -> str | None:
    """The stateful operator that one relation over a stream is."""
    if kind in _STATEFUL:
        return _STATEFUL[kind]
    if kind == "set_op" and operation.set_op_type != 2:
        return "INTERSECT or EXCEPT"
    return _in_expressions(operation)


def _in_expressions(message: Message) -> str | None:
    """A window function or an aggregate among a relation's own expressions."""
    from sqlglot import exp, parse_one

    for item in _children(message):
        name = item.DESCRIPTOR.name
        given: Any = item
        if name == "Window":
            return "a window function"
        if name == "UnresolvedFunction" and aggregates(given.function_name):
            return "an aggregation"
        if name == "ExpressionString":
            tree = parse_one(given.expression, dialect="databricks")
            if tree.find(exp.Window):
                return "a window function"
            if tree.find(exp.AggFunc):
                return "an aggregation"
        if name != "Relation" and (operator := _in_expressions(item)):
            return operator
    return None


@cache
def aggregates(function: str) -> bool:
    """Whether a function of that name gives one value for many rows."""
    from sqlglot import exp, parse_one
    from sqlglot.errors import SqlglotError

    for arguments in ("a", "a, b", "a, b, c", ""):
        try:
            call = parse_one(f"{function}({arguments})", dialect="databricks")
            return isinstance(call, exp.AggFunc)
        except SqlglotError:
            continue
    return False
