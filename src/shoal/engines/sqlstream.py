"""Operators in SQL text that a stream of new rows cannot feed without remembering old ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from shoal.engines.sql import parse_sql

if TYPE_CHECKING:
    from sqlglot import exp

__all__ = ["sql_operator"]

Found = tuple[str | None, bool]
_CLAUSES = {"group": "an aggregation", "distinct": "DISTINCT"}
_ENDS = {"limit": "LIMIT", "offset": "OFFSET", "order": "ORDER BY", "sort": "SORT BY"}


def sql_operator(text: str, names: Mapping[str, bool]) -> Found:
    """The first stateful operator over a ``STREAM`` in a query, and whether it streams at all.

    Args:
        text: The query.
        names: Names bound outside the text, and whether they stream.

    Raises:
        PipelineError: The text does not parse.
    """
    return _walk(parse_sql(text), names)


def _walk(node: Any, names: Mapping[str, bool]) -> Found:
    """For a query, or for what stands in a FROM."""
    from sqlglot import exp

    if isinstance(node, exp.Stream):
        return None, True
    if isinstance(node, exp.Table):
        if isinstance(node.this, exp.Anonymous):
            return None, node.this.name.lower() == "cloud_files"
        bound = len(node.parts) == 1 and names.get(node.name.lower(), False)
        return None, bool(bound)
    if not isinstance(node, exp.Query):
        below = node.this if isinstance(node, exp.Expression) else None
        return _walk(below, names) if isinstance(below, exp.Expression) else (None, False)
    known = dict(names)
    clause = node.args.get("with_") or node.args.get("with")
    for table in clause.expressions if clause else ():
        operator, streaming = _walk(table.this, known)
        if operator:
            return operator, True
        known[table.alias.lower()] = streaming
    if isinstance(node, exp.SetOperation):
        operator, streams = _set_operation(node, known)
    elif isinstance(node, exp.Select):
        operator, streams = _select(node, known)
    else:
        operator, streams = _walk(node.this, known)
    if operator is None and streams:
        operator = next((word for key, word in _ENDS.items() if node.args.get(key)), None)
    return operator, streams


def _set_operation(node: exp.SetOperation, known: Mapping[str, bool]) -> Found:
    from sqlglot import exp

    (left, streams_left), (right, streams_right) = (
        _walk(node.this, known),
        _walk(node.expression, known),
    )
    streams = streams_left or streams_right
    operator = left or right
    if operator is None and streams and (node.args.get("distinct") or type(node) is not exp.Union):
        operator = type(node).__name__.upper()
    return operator, streams


def _select(node: exp.Select, known: Mapping[str, bool]) -> Found:
    from sqlglot import exp

    source = node.args.get("from_") or node.args.get("from")
    operator, streams = _walk(source.this, known) if source else (None, False)
    for join in node.args.get("joins") or ():
        other, joined = _walk(join.this, known)
        operator = operator or other or _join(join, streams, joined)
        streams = streams or joined
    if operator:
        return operator, True
    for query in _subqueries(node):
        inner, _ = _walk(query, known)
        if inner:
            return inner, True
    if not streams:
        return None, False
    for key, word in _CLAUSES.items():
        if node.args.get(key):
            return word, True
    own = [found for found in node.find_all(exp.AggFunc) if found.parent_select is node]
    if any(found.find_ancestor(exp.Window) is None for found in own):
        return "an aggregation", True
    if any(found.parent_select is node for found in node.find_all(exp.Window)):
        return "a window function", True
    return None, True


def _subqueries(node: exp.Select) -> Iterator[exp.Query]:
    """Queries inside a SELECT's expressions and conditions."""
    from sqlglot import exp

    for key, value in node.args.items():
        if key in {"from", "from_", "joins", "with", "with_"}:
            continue
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, exp.Expression):
                yield from item.find_all(exp.Query)


def _join(join: exp.Join, left: bool, right: bool) -> str | None:
    side, kind = join.side.upper(), join.kind.upper()
    if left and right:
        return "a join of two streams"
    if side == "FULL" and (left or right):
        return "a full join with a stream"
    if side == "RIGHT" and left:
        return "a right join from a stream"
    if right and kind in {"ANTI", "SEMI"}:
        return f"{'an' if kind == 'ANTI' else 'a'} {kind.lower()} join to a stream"
    if side == "LEFT" and right:
        return "a left join to a stream"
    return None
