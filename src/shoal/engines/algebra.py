"""A query taken apart into what can be kept up to date from its inputs' changes.

`Algebra.of` numbers the query's reads, takes groupings out of SQL text, and finds the groupings
(`Aggregate` relations) that are linear in some read (see `linear`). What stands above a grouping
may be anything: it is computed again over the groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shoal.engines.linear import MARK, Shape, children, repeatable, shape
from shoal.engines.plan import Read, dataframe, fingerprint, rewrite
from shoal.engines.sqlgroup import split_groups
from shoal.engines.streaming import aggregates

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from pyspark.sql.connect.proto import Expression, Plan, Relation
    from pyspark.sql.connect.session import SparkSession

__all__ = ["Algebra", "Grouping", "marks", "put"]

_CALLS = {
    "avg": "avg",
    "bool_and": "min",
    "bool_or": "max",
    "count": "count",
    "every": "min",
    "max": "max",
    "mean": "avg",
    "min": "min",
    "some": "max",
    "sum": "sum",
}


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """One grouping that can follow changes.

    Args:
        relation: The `Aggregate` relation, inside the algebra's plan.
        rows: The relation whose rows are grouped.
        shape: How those rows depend on the reads.
        keys: The expressions that rows are grouped by.
        calls: Aggregate functions (count, sum, avg, min or max) and their arguments.
        outputs: What is made of each group, over columns ``shoal_k<i>`` and ``shoal_f<j>``.
    """

    relation: Any
    rows: Relation
    shape: Shape
    keys: tuple[Expression, ...]
    calls: tuple[tuple[str, Expression], ...]
    outputs: tuple[Expression, ...]


@dataclass(frozen=True, kw_only=True)
class Algebra:
    """A query with numbered reads.

    Args:
        plan: The query; read ``i`` is a table named ``shoal_read_<i>``.
        reads: What the numbers stand for.
        groupings: Its groupings that can follow changes of some read.
        shape: How the whole query depends on the reads.
    """

    plan: Plan
    reads: tuple[Read, ...]
    groupings: tuple[Grouping, ...] = ()
    shape: Shape = field(default_factory=Shape)

    @classmethod
    def of(cls, plan: Plan, spark: SparkSession, give: Callable[[Read], Relation]) -> Algebra:
        """Takes a query apart.

        Args:
            plan: An unresolved plan without temporary views.
            spark: Asked for columns where SQL text is ambiguous without them.
            give: The relation that a read stands for.
        """
        reads: list[Read] = []

        def number(read: Read) -> Relation:
            reads.append(read)
            return _named(f"{MARK}{len(reads) - 1}")

        numbered = rewrite(plan, number)
        given = {f"{MARK}{index}": read for index, read in enumerate(reads)}

        def columns(relation: Relation) -> set[str]:
            whole = put(relation, {name: give(read) for name, read in given.items()})
            return {name.lower() for name in dataframe(_plan(whole), spark).columns}

        _split_sql(numbered.root, columns)
        groupings = tuple(_find(numbered.root))
        return cls(
            plan=numbered,
            reads=tuple(reads),
            groupings=groupings,
            shape=shape(numbered.root),
        )

    def with_groups(self, given: Sequence[Relation]) -> Relation:
        """The query with other relations in the place of its groupings."""
        from pyspark.sql.connect.proto import Plan

        copy = Plan()
        copy.CopyFrom(self.plan)
        for grouping, new in zip(list(_find(copy.root)), given, strict=True):
            relation = grouping.relation
            plan_id = relation.common.plan_id if relation.common.HasField("plan_id") else None
            relation.CopyFrom(new)
            if plan_id is not None:
                relation.common.plan_id = plan_id
        return copy.root

    def fingerprint(self) -> str:
        """A name for how the query was taken apart."""
        return fingerprint(self.plan)


def _plan(root: Relation) -> Plan:
    from pyspark.sql.connect.proto import Plan

    return Plan(root=root)


def _named(name: str) -> Relation:
    from pyspark.sql.connect.proto import Read as ReadRelation
    from pyspark.sql.connect.proto import Relation

    return Relation(
        read=ReadRelation(named_table=ReadRelation.NamedTable(unparsed_identifier=name))
    )


def put(relation: Relation, given: Mapping[str, Relation]) -> Relation:
    """A copy of a relation with other relations in the place of tables, by name."""

    def replace(read: Read) -> Relation | None:
        return given.get(getattr(read, "name", ""))

    return rewrite(_plan(relation), replace).root


def marks(message: Message) -> set[int]:
    """The numbers of the reads inside a relation."""
    if message.DESCRIPTOR.name == "NamedTable":
        named: Any = message
        name = named.unparsed_identifier
        return {int(name.removeprefix(MARK))} if name.startswith(MARK) else set()
    found: set[int] = set()
    for part in children(message):
        found |= marks(part)
    return found


def _split_sql(root: Message, columns: Callable[[Relation], set[str]]) -> None:
    """Takes the groupings of SQL text out into relations of their own, in place."""
    for relation in reversed(list(_texts(root))):  # innermost first: an outer one is copied
        references: list[Relation] = []
        query = relation
        if relation.WhichOneof("rel_type") == "with_relations":
            references = list(relation.with_relations.references)
            query = relation.with_relations.root
        text = query.sql.query

        def ask(query: str, references: list[Relation] = references) -> set[str]:
            return columns(_with(query, references))

        outer, groups = split_groups(text, ask)
        if not groups:
            continue
        added = [_aliased(_aggregate(group, references), group.alias) for group in groups]
        kept = _with(outer, [*references, *added])
        if relation.common.HasField("plan_id"):
            kept.common.plan_id = relation.common.plan_id
        relation.CopyFrom(kept)


def _texts(message: Message) -> Iterator[Any]:
    """Relations that are SQL text, alone or with the relations that it names; outermost first."""
    named: Any = message
    inner = list(children(message))
    if message.DESCRIPTOR.name == "Relation":
        kind = named.WhichOneof("rel_type")
        if kind == "with_relations" and named.with_relations.root.HasField("sql"):
            yield message
            inner = list(named.with_relations.references)
        elif kind == "sql":
            yield message
    for part in inner:
        yield from _texts(part)


def _with(text: str, references: list[Relation]) -> Relation:
    from pyspark.sql.connect.proto import SQL, Relation, WithRelations

    query = Relation(sql=SQL(query=text))
    used = [r for r in references if r.subquery_alias.alias.lower() in text.lower()]
    if not used:
        return query
    return Relation(with_relations=WithRelations(root=query, references=used))


def _aliased(relation: Relation, alias: str) -> Relation:
    import secrets

    from pyspark.sql.connect.proto import Relation, SubqueryAlias

    found = Relation(subquery_alias=SubqueryAlias(input=relation, alias=alias))
    found.common.plan_id = secrets.randbits(48)
    return found


def _attribute(name: str) -> Expression:
    from pyspark.sql.connect.proto import Expression

    return Expression(unresolved_attribute=Expression.UnresolvedAttribute(unparsed_identifier=name))


def _aggregate(group: Any, references: list[Relation]) -> Relation:
    from pyspark.sql.connect.proto import Aggregate, Expression, Relation

    calls = [
        Expression(
            alias=Expression.Alias(
                expr=Expression(
                    unresolved_function=Expression.UnresolvedFunction(
                        function_name=name, arguments=[_attribute(f"shoal_a{index}")]
                    )
                ),
                name=[f"shoal_f{index}"],
            )
        )
        for index, name in enumerate(group.calls)
    ]
    return Relation(
        aggregate=Aggregate(
            input=_with(group.rows, references),
            group_type=Aggregate.GroupType.GROUP_TYPE_GROUPBY,
            grouping_expressions=[_attribute(f"shoal_k{index}") for index in range(group.keys)],
            aggregate_expressions=calls,
        )
    )


class _NotFollowed(Exception):
    """No error: the grouping is computed in full."""


def _find(message: Message) -> Iterator[Grouping]:
    """The groupings that can follow changes, none inside another."""
    if message.DESCRIPTOR.name == "Relation":
        relation: Any = message
        if relation.WhichOneof("rel_type") == "aggregate":
            found = _grouping(relation)
            if found is not None:
                yield found
                return
    for part in children(message):
        yield from _find(part)


def _grouping(relation: Any) -> Grouping | None:
    aggregate = relation.aggregate
    below = shape(aggregate.input)
    if aggregate.group_type != 1 or not below.linear:
        return None
    keys = [
        key.alias.expr if key.HasField("alias") else key for key in aggregate.grouping_expressions
    ]
    if not all(repeatable(key) for key in keys):
        return None
    plain = [_plain(key) for key in keys]
    calls: list[tuple[str, Any]] = []
    try:
        made = [_attribute(f"shoal_k{index}") for index in range(len(keys))]
        made += [_fold(part, plain, calls) for part in aggregate.aggregate_expressions]
    except _NotFollowed:
        return None
    return Grouping(
        relation=relation,
        rows=aggregate.input,
        shape=below,
        keys=tuple(keys),
        calls=tuple(calls),
        outputs=tuple(made),
    )


def _plain(expression: Any) -> bytes:
    """An expression's content without what differs between equal ones."""
    copy = type(expression)()
    copy.CopyFrom(expression)
    todo: list[Any] = [copy]
    while todo:
        message = todo.pop()
        if message.DESCRIPTOR.name == "Expression":
            message.ClearField("common")
        if message.DESCRIPTOR.name == "UnresolvedAttribute":
            message.ClearField("plan_id")
            message.ClearField("is_metadata_column")
        todo += children(message)
    return bytes(copy.SerializeToString(deterministic=True))


def _fold(expression: Any, keys: list[bytes], calls: list[tuple[str, Any]]) -> Any:
    """An aggregate expression over the groups; its calls are collected."""
    plain = _plain(expression)
    if plain in keys:
        return _attribute(f"shoal_k{keys.index(plain)}")
    kind = expression.WhichOneof("expr_type")
    if kind == "unresolved_function" and aggregates(expression.unresolved_function.function_name):
        return _attribute(f"shoal_f{_noted(expression.unresolved_function, calls)}")
    allowed = {"alias", "cast", "literal", "unresolved_function", "unresolved_extract_value"}
    if kind not in allowed:
        raise _NotFollowed
    copy = type(expression)()
    copy.CopyFrom(expression)
    _fold_inside(copy, keys, calls)
    return copy


def _fold_inside(message: Any, keys: list[bytes], calls: list[tuple[str, Any]]) -> None:
    for part in list(children(message)):
        if part.DESCRIPTOR.name == "Expression":
            part.CopyFrom(_fold(part, keys, calls))
        else:
            _fold_inside(part, keys, calls)


def _noted(call: Any, calls: list[tuple[str, Any]]) -> int:
    """The number of an aggregate call, which is added if it is new."""
    from pyspark.sql.connect.proto import Expression

    name = _CALLS.get(call.function_name.lower())
    if name is None or call.is_distinct or len(call.arguments) != 1:
        raise _NotFollowed
    argument = call.arguments[0]
    if argument.HasField("unresolved_star"):
        argument = Expression(literal=Expression.Literal(integer=1))
    if not repeatable(argument):
        raise _NotFollowed
    for index, (other, given) in enumerate(calls):
        if other == name and _plain(given) == _plain(argument):
            return index
    calls.append((name, argument))
    return len(calls) - 1
