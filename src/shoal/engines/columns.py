"""Which columns a query's columns are made of, told by the engine itself.

The embedded engine explains a query as a tree in which every column has a number of its own
(``#7``), after it has resolved all names, stars and aliases. So no name is resolved here: the tree
is read from its leaves up. What stands in the way of telling, a function of Python or an operator
that is not known here, makes its columns depend on everything below it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shoal.errors import EngineError

if TYPE_CHECKING:
    from pyspark.sql.connect.proto import Plan, Relation
    from pyspark.sql.connect.session import SparkSession

__all__ = ["ColumnSources", "Origin", "leaf", "trace"]

_MARK = "shoal-read:"
_ID = re.compile(r"#(\d+)\b")
_DEFINED = re.compile(r" AS #(\d+)$")
_INNER = re.compile(r" AS #\d+")
_PLAIN = re.compile(r"(\S+\.)?#\d+")
_LITERAL = re.compile(r'(Utf8|LargeUtf8|Utf8View|Binary|LargeBinary)\(".*?"\)', re.DOTALL)
_PASSING = {
    *("Distinct", "EmptyRelation", "ExplicitRepartition", "Limit", "Repartition"),
    *("SortWithinPartitions", "SubqueryAlias", "Subquery", "Values", "WindowAggr"),
}
_DECIDING = {"Aggregate", "DistinctOn", "Filter", "Sort", "Unnest"}


@dataclass(frozen=True, kw_only=True, order=True)
class Origin:
    """A column of something that a query reads.

    Args:
        read: Position of the read in the query.
        column: Its name.
    """

    read: int
    column: str


@dataclass(frozen=True, kw_only=True)
class ColumnSources:
    """What a query's columns are made of.

    Args:
        direct: By output column, in order: the columns whose values are in it.
        indirect: Columns that decide which rows there are, or how they are put together: of
            filters, join conditions, groupings.
        opaque: Output columns of functions that cannot be looked into; they count every column
            below them as direct.
    """

    direct: Mapping[str, frozenset[Origin]]
    indirect: frozenset[Origin]
    opaque: frozenset[str]


def leaf(read: int, relation: Relation) -> Relation:
    """A relation that `trace` recognises as the query's read of that number."""
    from pyspark.sql.connect.proto import Expression, Filter, Relation

    text = Expression(literal=Expression.Literal(string=f"{_MARK}{read}"))
    call = Expression.UnresolvedFunction(function_name="isnotnull", arguments=[text])
    condition = Expression(unresolved_function=call)
    return Relation(filter=Filter(input=relation, condition=condition))


def trace(
    spark: SparkSession, plan: Plan, leaves: Sequence[Sequence[str]], names: Sequence[str]
) -> ColumnSources:
    """Asks the engine what each column of a query is made of. Nothing is executed.

    Args:
        spark: A session on the embedded engine.
        plan: The query over relations that `leaf` made.
        leaves: Column names of each of them, by number.
        names: The query's own columns, in order.

    Raises:
        EngineError: The engine explains itself in another way than is known here.
    """
    from shoal.engines.plan import dataframe

    frame: Any = dataframe(plan, spark).select("*")
    tree = _tree(frame._explain_string(extended=True))
    walk = _Walk(leaves)
    top = walk.node(tree)
    if top.outputs is None or len(top.outputs) != len(names):
        raise EngineError(
            f"The engine's plan has {0 if top.outputs is None else len(top.outputs)} columns "
            f"where the query has {len(names)}."
        )
    found = {
        name: walk.sources(column, top) for name, column in zip(names, top.outputs, strict=True)
    }
    return ColumnSources(
        direct={name: sources for name, (sources, _) in found.items()},
        indirect=frozenset(top.indirect),
        opaque=frozenset(name for name, (_, known) in found.items() if not known),
    )


@dataclass(kw_only=True)
class _Node:
    """A line of the explained plan and the lines below it."""

    depth: int
    kind: str
    text: str
    below: list[_Node] = field(default_factory=list)


def _tree(text: str) -> _Node:
    _, _, rest = text.partition("== Parsed Logical Plan ==\n")
    root = _Node(depth=-1, kind="", text="")
    path = [root]
    for line in _lines(rest.partition("\n== ")[0]):
        body = line.lstrip(" ")
        depth = (len(line) - len(body)) // 2
        kind, _, said = body.partition(":")
        if " Join" in f" {kind}" or kind.startswith(("CrossJoin", "Cross Join")):
            kind = "Join"
        node = _Node(depth=depth, kind=kind.strip(), text=_LITERAL.sub("?", said.strip()))
        if mark := re.search(rf'"{_MARK}(\d+)"', said):
            node.kind, node.text = "Leaf", mark.group(1)
        while path[-1].depth >= depth:
            path.pop()
        path[-1].below.append(node)
        path.append(node)
    if len(root.below) != 1:
        raise EngineError("The engine's plan has no single root.")
    return root.below[0]


def _lines(text: str) -> Iterator[str]:
    """Lines that begin an operator; a literal with line ends makes one operator many lines."""
    held = ""
    for line in text.split("\n"):
        if held and not re.match(r" *[A-Z][A-Za-z ]*(:|$)", line):
            held += " " + line
            continue
        if held:
            yield held
        held = line
    if held.strip():
        yield held


@dataclass(kw_only=True)
class _Seen:
    """What is known of a subtree's columns.

    Args:
        columns: By number.
        outputs: The numbers in order, where the operator tells.
        indirect: See `ColumnSources`.
        blurred: Sources of the columns that no operator defined: those of an opaque function.
    """

    columns: dict[int, tuple[frozenset[Origin], bool]] = field(default_factory=dict)
    outputs: list[int] | None = None
    indirect: set[Origin] = field(default_factory=set)
    blurred: frozenset[Origin] | None = None


class _Walk:
    def __init__(self, leaves: Sequence[Sequence[str]]) -> None:
        self.leaves = leaves

    def sources(self, column: int, seen: _Seen) -> tuple[frozenset[Origin], bool]:
        """What a column is made of, and whether that is known exactly."""
        found = seen.columns.get(column)
        if found is not None:
            return found
        return (seen.blurred or frozenset(), False)

    def node(self, node: _Node) -> _Seen:
        if node.kind == "Leaf":
            return self._leaf(node)
        below = [self.node(inner) for inner in node.below]
        seen = _Seen(outputs=below[0].outputs if below else [])
        for inner in below:
            seen.columns.update(inner.columns)
            seen.indirect |= inner.indirect
            if inner.blurred is not None:
                seen.blurred = (seen.blurred or frozenset()) | inner.blurred
        if node.kind == "Projection":
            self._project(node, seen, below)
        elif node.kind == "Union":
            self._union(seen, below)
        elif node.kind == "Join":
            outputs = [inner.outputs for inner in below]
            seen.outputs = [n for part in outputs for n in part or ()] if all(outputs) else None
            self._decide(node, seen)
        elif node.kind in _DECIDING:
            self._decide(node, seen)
            if "<subquery>" in node.text:
                seen.indirect |= self._beside(node, seen, below)[0]
                seen.outputs = below[-1].outputs
        elif node.kind not in _PASSING:
            self._blur(seen, below)
        return seen

    def _leaf(self, node: _Node) -> _Seen:
        """A read's columns; the engine names them in their order."""
        read = int(node.text)
        own = [frozenset({Origin(read=read, column=name)}) for name in self.leaves[read]]
        named = node.below[0].text if node.below else ""
        numbers = [int(number) for number in re.findall(r" AS #(\d+)", named)]
        if len(numbers) != len(own):
            return _Seen(blurred=frozenset().union(*own))
        columns = {n: (origin, True) for n, origin in zip(numbers, own, strict=True)}
        return _Seen(columns=columns, outputs=numbers)

    def _project(self, node: _Node, seen: _Seen, below: Sequence[_Seen]) -> None:
        outputs = []
        for part in _parts(node.text):
            defined = _DEFINED.search(part)
            if defined is None:
                if not _PLAIN.fullmatch(part):  # a name that looks like more than a name
                    self._blur(seen, below)
                    return
                outputs.append(int(part.rpartition("#")[2]))
                continue
            body = _INNER.sub("", part[: defined.start()])
            sources, known = self._made_of([int(n) for n in _ID.findall(body)], seen)
            if "<subquery>" in body:
                more, exact = self._beside(node, seen, below)
                sources, known = sources | more, known and exact
            number = int(defined.group(1))
            seen.columns[number] = (sources, known)
            outputs.append(number)
        seen.outputs = outputs

    def _beside(
        self, node: _Node, seen: _Seen, below: Sequence[_Seen]
    ) -> tuple[frozenset[Origin], bool]:
        """The columns of an operator's subqueries: of all its operands but the last."""
        outer = " ".join(_outer(inner) for inner in node.below[:-1])
        found, exact = self._made_of([int(number) for number in _ID.findall(outer)], seen)
        for inner in below[:-1]:
            sources, known = self._made_of(inner.outputs or (), inner)
            found |= sources | (inner.blurred or frozenset())
            exact = exact and known
        return found, exact

    def _made_of(self, numbers: Sequence[int], seen: _Seen) -> tuple[frozenset[Origin], bool]:
        found: set[Origin] = set()
        exact = True
        for number in numbers:
            sources, known = self.sources(number, seen)
            found |= sources
            exact = exact and known
        return frozenset(found), exact

    def _decide(self, node: _Node, seen: _Seen) -> None:
        numbers = [int(number) for number in _ID.findall(_conditions(node))]
        seen.indirect |= self._made_of(numbers, seen)[0]
        if node.kind == "Aggregate":
            calls = node.text.partition("]], aggr=[[")[2].removesuffix("]]")
            for part in _parts(calls):
                if defined := _DEFINED.search(part):
                    made_of = [int(n) for n in _ID.findall(part[: defined.start()])]
                    seen.columns[int(defined.group(1))] = self._made_of(made_of, seen)

    def _union(self, seen: _Seen, below: Sequence[_Seen]) -> None:
        first = below[0].outputs
        if first is None or any(
            inner.outputs is None or len(inner.outputs) != len(first) for inner in below
        ):
            self._blur(seen, below)
            return
        for at, number in enumerate(first):
            parts = [self.sources((inner.outputs or [])[at], inner) for inner in below]
            sources = frozenset().union(*(part for part, _ in parts))
            seen.columns[number] = (sources, all(known for _, known in parts))

    def _blur(self, seen: _Seen, below: Sequence[_Seen]) -> None:
        """What comes out may depend on all that goes in."""
        found: set[Origin] = set(seen.indirect)
        for inner in below:
            found |= inner.blurred or frozenset()
            for column in inner.outputs if inner.outputs is not None else inner.columns:
                found |= self.sources(column, inner)[0]
        seen.blurred, seen.columns, seen.outputs = frozenset(found), {}, None


def _conditions(node: _Node) -> str:
    """The part of an operator that decides about rows: of a grouping, its keys."""
    if node.kind == "Aggregate":
        return node.text.partition("]], aggr=")[0]
    if node.kind == "DistinctOn":
        return node.text.partition("select_expr=")[0]
    return node.text


def _outer(node: _Node) -> str:
    """What a subquery says of columns outside of it."""
    own = " ".join(re.findall(r"outer_ref\([^)]*\)", node.text))
    return " ".join([own, *(_outer(inner) for inner in node.below)])


def _parts(text: str) -> Iterator[str]:
    """The expressions of a list, split at its own commas."""
    depth, start = 0, 0
    for at, letter in enumerate(text):
        if letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        elif letter == "," and depth == 0:
            yield text[start:at].strip()
            start = at + 1
    yield text[start:].strip()
