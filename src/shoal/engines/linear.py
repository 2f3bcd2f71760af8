"""Which reads of a query its result follows row by row.

A query is *linear* in one of its reads if new rows there only add the rows that the query gives
for just those new rows: filters, projections, inner joins, unions of all rows. For such a query
``Q(T + new) = Q(T) + Q(new)``, so its result, or the sums and counts over it, can be kept up to
date from the changes alone. (The delta rules for bags: Griffin and Libkin, "Incremental
Maintenance of Views with Duplicates", 1995.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from shoal.engines.sql import parse_sql

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from sqlglot import exp

__all__ = ["MARK", "Shape", "children", "repeatable", "shape"]

# Reads are numbered and given names of this form first; see `algebra.marked`.
MARK = "shoal_read_"

_ROWWISE = {
    "drop",
    "drop_na",
    "fill_na",
    "filter",
    "hint",
    "project",
    "repartition",
    "repartition_by_expression",
    "replace",
    "sort",
    "subquery_alias",
    "to_df",
    "to_schema",
    "unpivot",
    "with_columns",
    "with_columns_renamed",
}
# By Join.JoinType: whether the join is linear in its left and in its right side.
_JOINS = {
    1: (True, True),  # inner
    3: (True, False),  # left outer
    4: (False, True),  # right outer
    5: (True, False),  # left anti
    6: (True, False),  # left semi
    7: (True, True),  # cross
}
# pyspark.util.PythonEvalType: the kinds that give one value a row.
_ROW_FUNCTIONS = {100, 101, 200, 204, 250, 251}
_CHANGING = {
    "current_date",
    "current_timestamp",
    "input_file_name",
    "localtimestamp",
    "monotonically_increasing_id",
    "now",
    "rand",
    "randn",
    "random",
    "randstr",
    "shuffle",
    "spark_partition_id",
    "unix_timestamp",
    "uniform",
    "uuid",
}


@dataclass(frozen=True)
class Shape:
    """How the rows of a relation depend on the numbered reads below it.

    Args:
        linear: The reads that it is linear in; for each, those that must be empty for its share
            alone (the other sides of unions).
        empties: Reads that leave the relation without rows when they are empty; None when no
            choice of reads does.
    """

    linear: Mapping[int, frozenset[int]] = field(default_factory=dict)
    empties: frozenset[int] | None = None


_OPAQUE = Shape()


def _union(left: Shape, right: Shape) -> Shape:
    if left.empties is None or right.empties is None:
        return _OPAQUE
    mine = {read: others | right.empties for read, others in left.linear.items()}
    theirs = {read: others | left.empties for read, others in right.linear.items()}
    return Shape(linear={**mine, **theirs}, empties=left.empties | right.empties)


def _join(left: Shape, right: Shape, sides: tuple[bool, bool]) -> Shape:
    linear = {**(left.linear if sides[0] else {}), **(right.linear if sides[1] else {})}
    kept = [part.empties for part, side in zip((left, right), sides, strict=True) if side]
    return Shape(linear=linear, empties=next((found for found in kept if found is not None), None))


def children(message: Message) -> Iterator[Message]:
    """The messages directly inside a message."""
    for descriptor, value in message.ListFields():
        if descriptor.type != descriptor.TYPE_MESSAGE:
            continue
        if hasattr(value, "ListFields"):
            yield value
        else:
            items = value.values() if hasattr(value, "items") else value
            yield from (item for item in items if hasattr(item, "ListFields"))


def shape(relation: Any, names: Mapping[str, Shape] | None = None) -> Shape:
    """The shape of a Spark Connect relation whose reads are marked.

    Args:
        relation: A ``Relation`` message.
        names: Shapes of the names that SQL text in it may use.
    """
    kind = relation.WhichOneof("rel_type")
    if kind == "read":
        name = relation.read.named_table.unparsed_identifier
        if not name.startswith(MARK):
            return _OPAQUE
        read = int(name.removeprefix(MARK))
        return Shape(linear={read: frozenset()}, empties=frozenset({read}))
    if kind == "sql":
        return _sql(relation.sql.query, names or {})
    if kind == "with_relations":
        return _named(relation.with_relations)
    if kind == "join" and repeatable(relation.join.join_condition):
        sides = _JOINS.get(relation.join.join_type, (False, False))
        return _join(shape(relation.join.left), shape(relation.join.right), sides)
    if kind == "set_op" and relation.set_op.set_op_type == 2 and relation.set_op.is_all:
        return _union(shape(relation.set_op.left_input), shape(relation.set_op.right_input))
    if kind in _ROWWISE:
        operation = getattr(relation, kind)
        own = [part for part in children(operation) if part.DESCRIPTOR.name != "Relation"]
        if all(repeatable(part) for part in own):
            return shape(operation.input)
    return _OPAQUE


def _named(given: Any) -> Shape:
    """The shape of SQL text with the relations that it names."""
    known = {
        reference.subquery_alias.alias.lower(): shape(reference.subquery_alias.input)
        for reference in given.references
        if reference.WhichOneof("rel_type") == "subquery_alias"
    }
    if len(known) < len(given.references) or given.root.WhichOneof("rel_type") != "sql":
        return _OPAQUE
    return shape(given.root, known)


def repeatable(message: Message) -> bool:
    """Whether an expression gives each row its value from that row alone, at any time.

    No window, no aggregate, no subquery, no random number, clock or place of the row.
    """
    name = message.DESCRIPTOR.name
    given: Any = message
    if name in {"Window", "SubqueryExpression", "TypedAggregateExpression", "Relation"}:
        return False
    if name == "UnresolvedFunction" and not _steady(given.function_name):
        return False
    if name == "CallFunction" and not _steady(given.function_name):
        return False
    if name == "CommonInlineUserDefinedFunction" and not given.deterministic:
        return False
    if name == "PythonUDF" and given.eval_type not in _ROW_FUNCTIONS:
        return False
    if name == "ExpressionString" and not _steady_text(given.expression):
        return False
    return all(repeatable(part) for part in children(message))


@cache
def _steady(function: str) -> bool:
    return _steady_text(f"{function}(a)") and _steady_text(f"{function}(a, b)")


@cache
def _steady_text(expression: str) -> bool:
    """Whether SQL text is a repeatable expression; operators and what does not parse are."""
    from sqlglot import exp, parse_one
    from sqlglot.errors import SqlglotError

    word = expression.partition("(")[0].strip().lower()
    if word in _CHANGING:
        return False
    try:
        tree = parse_one(expression, dialect="databricks")
    except SqlglotError:
        return word not in _CHANGING
    return isinstance(tree, exp.Expression) and _steady_tree(tree)


def _steady_tree(tree: exp.Expression) -> bool:
    from sqlglot import exp

    moving = (
        exp.Window,
        exp.AggFunc,
        exp.Query,
        exp.Rand,
        exp.Randn,
        exp.Uuid,
        exp.CurrentDate,
        exp.CurrentTime,
        exp.CurrentTimestamp,
        exp.CurrentDatetime,
        exp.Localtimestamp,
    )
    for node in tree.find_all(exp.Expression):
        if isinstance(node, moving):
            return False
        if isinstance(node, exp.Anonymous) and str(node.this).lower() in _CHANGING:
            return False
    return True


def _sql(text: str, names: Mapping[str, Shape]) -> Shape:
    from sqlglot import exp

    tree = parse_sql(text)
    used = [table.name.lower() for table in tree.find_all(exp.Table)]
    if any(used.count(name) > 1 for name in names):
        return _OPAQUE  # one read behind two mentions: its changes would count once, not twice
    return _query(tree, names)


def _query(node: Any, names: Mapping[str, Shape]) -> Shape:
    """The shape of a query, or of what stands in a FROM."""
    from sqlglot import exp

    if isinstance(node, exp.Table):
        extra = {key for key, value in node.args.items() if value} - {"this", "alias"}
        return _OPAQUE if extra else names.get(node.name.lower(), _OPAQUE)
    if isinstance(node, exp.Subquery):
        extra = {key for key, value in node.args.items() if value} - {"this", "alias"}
        return _OPAQUE if extra else _query(node.this, names)
    clause = node.args.get("with_")
    if clause is not None:
        if clause.recursive:
            return _OPAQUE
        known = dict(names)
        for table in clause.expressions:
            uses = [t for t in node.find_all(exp.Table) if t.name.lower() == table.alias.lower()]
            inner = _query(table.this, known)
            known[table.alias.lower()] = inner if len(uses) == 1 else _OPAQUE
        names = known
    if type(node) is exp.Union and not node.args.get("distinct"):
        extra = {key for key, value in node.args.items() if value}
        if extra - {"this", "expression", "with_", "distinct"}:
            return _OPAQUE
        return _union(_query(node.this, names), _query(node.expression, names))
    if isinstance(node, exp.Select):
        return _select(node, names)
    return _OPAQUE


def _select(node: exp.Select, names: Mapping[str, Shape]) -> Shape:
    from sqlglot import exp

    rowwise = {"expressions", "from_", "joins", "where", "laterals", "order", "sort", "with_"}
    if {key for key, value in node.args.items() if value} - rowwise or "from_" not in node.args:
        return _OPAQUE
    own = [*node.expressions, node.args.get("where"), *(node.args.get("laterals") or ())]
    if not all(_steady_tree(part) for part in own if isinstance(part, exp.Expression)):
        return _OPAQUE
    found = _query(node.args["from_"].this, names)
    for join in node.args.get("joins") or ():
        sides = _sql_join(join)
        on = join.args.get("on")
        if sides is None or (on is not None and not _steady_tree(on)):
            return _OPAQUE
        found = _join(found, _query(join.this, names), sides)
    return found


def _sql_join(join: exp.Join) -> tuple[bool, bool] | None:
    side, kind = join.side.upper(), join.kind.upper()
    if kind in {"SEMI", "ANTI"}:
        return (True, False) if side in {"", "LEFT"} else None
    if kind not in {"", "INNER", "CROSS", "OUTER"} or join.args.get("method"):
        return None
    return {"": (True, True), "LEFT": (True, False), "RIGHT": (False, True)}.get(side)
