"""SQL text with GROUP BY, taken apart into the rows that are grouped and what the groups become.

``SELECT day, sum(x) / count(*) AS mean FROM t WHERE x > 0 GROUP BY day`` becomes the rows ``SELECT
day AS shoal_k0, x AS shoal_a0, ... FROM t WHERE x > 0``, the groups ``sum(shoal_a0)`` and
``count(shoal_a1)`` by ``shoal_k0``, and the text ``SELECT shoal_k0 AS day, shoal_f0 / shoal_f1 AS
mean FROM shoal_group_0``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shoal.engines.sql import parse_sql

if TYPE_CHECKING:
    from sqlglot import exp

__all__ = ["Group", "split_groups"]


@dataclass(frozen=True, kw_only=True)
class Group:
    """One grouping in a SQL text.

    Args:
        alias: The name that stands for its result in the rewritten text.
        rows: SQL of the rows that are grouped: columns ``shoal_k<i>`` and ``shoal_a<j>``.
        keys: Number of keys.
        calls: Names of the aggregate functions; number ``j`` is over ``shoal_a<j>``.
    """

    alias: str
    rows: str
    keys: int
    calls: tuple[str, ...]


class _Not(Exception):
    """No error: the grouping is left as it is."""


def split_groups(text: str, columns: Callable[[str], set[str]]) -> tuple[str, list[Group]]:
    """Takes the groupings out of a query that stand directly over its tables.

    Args:
        text: One query.
        columns: Gives the column names, in lower case, of ``SELECT * FROM ...``.

    Returns:
        The query with a name in the place of each grouping, and the groupings. A grouping that
        uses anything but count, sum, avg, min and max is left in the text.
    """
    from sqlglot import exp

    tree: Any = parse_sql(text)
    groups: list[Group] = []
    for select in [node for node in tree.find_all(exp.Select) if _groups(node)]:
        if any(_groups(n) or n.args.get("distinct") for n in _below(select)):
            continue
        if not _placed(select):
            continue
        try:
            groups.append(_split(select, f"shoal_group_{len(groups)}", columns))
        except _Not:
            continue
    return (_tidy(tree).sql(dialect="databricks") if groups else text), groups


def _groups(node: exp.Select) -> bool:
    from sqlglot import exp

    if node.args.get("group"):
        return True
    own = (found for found in node.find_all(exp.AggFunc) if found.parent_select is node)
    return any(found.find_ancestor(exp.Window, exp.Select) is node for found in own)


def _below(select: exp.Select) -> list[exp.Select]:
    """The queries that a query reads: in its FROM, and through common table expressions."""
    from sqlglot import exp

    found: list[Any] = []
    todo: list[Any] = [select]
    ctes = _visible(select)
    while todo:
        node = todo.pop()
        inner = [s for s in node.find_all(exp.Select, exp.SetOperation) if s is not node]
        for name in {table.name.lower() for table in node.find_all(exp.Table)}:
            if name in ctes:
                body = ctes.pop(name)
                todo.append(body)
                inner.append(body)
        found += inner
    return [node for node in found if isinstance(node, exp.Select)]


def _visible(select: exp.Select) -> dict[str, Any]:
    """Common table expressions by name that a query may use."""
    found: dict[str, Any] = {}
    node: Any = select
    while node is not None:
        clause = node.args.get("with_")
        if clause is not None:
            for table in clause.expressions:
                if table.this is not select:
                    found.setdefault(table.alias.lower(), table.this)
        node = node.parent
    return found


def _placed(select: exp.Select) -> bool:
    """Whether a query stands where its rows are read: not inside an expression."""
    from sqlglot import exp

    node: Any = select
    while node.parent is not None:
        if not isinstance(node.parent, exp.CTE | exp.With | exp.Union | exp.Subquery):
            in_from = isinstance(node, exp.Subquery) and isinstance(
                node.parent, exp.From | exp.Join
            )
            in_query = isinstance(node, exp.From | exp.Join | exp.With)
            if not in_from and not in_query:
                return False
        node = node.parent
    return True


def _split(select: Any, alias: str, columns: Callable[[str], set[str]]) -> Group:
    """Takes one grouping out of a query, which is changed in place."""
    from sqlglot import exp

    source = {k: select.args.get(k) for k in ("from_", "joins", "laterals", "where")}
    if source["from_"] is None:
        raise _Not
    if select.parent is not None and not all(_named(item) for item in select.expressions):
        raise _Not
    rewriting = _Rewriting(select, _keys(select, columns))
    changed = rewriting.changed()
    rows = exp.Select()
    for index, key in enumerate(rewriting.keys):
        rows.append("expressions", exp.alias_(key.copy(), f"shoal_k{index}"))
    for index, (_, argument) in enumerate(rewriting.calls):
        rows.append("expressions", exp.alias_(argument.copy(), f"shoal_a{index}"))
    if not rows.expressions:
        raise _Not
    _fill(rows, source)
    text = _with_ctes(rows, select)
    for name in ("joins", "laterals", "group", "having"):
        select.set(name, None)
    for name, part in changed.items():
        select.set(name, part)
    select.set("from_", exp.From(this=exp.to_table(alias)))
    calls = tuple(name for name, _ in rewriting.calls)
    return Group(alias=alias, rows=text, keys=len(rewriting.keys), calls=calls)


def _fill(rows: Any, parts: Mapping[str, Any]) -> None:
    for name, part in parts.items():
        if part:
            rows.set(name, [p.copy() for p in part] if isinstance(part, list) else part.copy())


class _Rewriting:
    """Expressions of a grouping query, written over its groups instead of its rows."""

    def __init__(self, select: Any, keys: list[Any]) -> None:
        self.select = select
        self.keys = keys
        self.calls: list[tuple[str, Any]] = []
        self.shown = {item.alias.lower(): item.this for item in select.expressions if item.alias}

    def changed(self) -> dict[str, Any]:
        """The parts of the query that read the groups."""
        from sqlglot import exp

        projections = []
        for item in self.select.expressions:
            inner = item.this if isinstance(item, exp.Alias) else item
            made = self.over(inner)
            label = item.alias or (inner.name if isinstance(inner, exp.Column) else "")
            projections.append(exp.alias_(made, label, quoted=True) if label else made)
        having = self.select.args.get("having")
        found = {
            "expressions": projections,
            "where": exp.Where(this=self.named(having.this)) if having is not None else None,
        }
        for name in ("order", "qualify"):
            part = self.select.args.get(name)
            found[name] = self.named(part) if part is not None else None
        return found

    def over(self, node: Any) -> Any:
        """An expression over the groups; columns that are no key are refused."""
        from sqlglot import exp

        if node in self.keys:
            return exp.column(f"shoal_k{self.keys.index(node)}")
        found = _call(node)
        if found is not None:
            if found not in self.calls:
                self.calls.append(found)
            return exp.column(f"shoal_f{self.calls.index(found)}")
        if isinstance(node, exp.AggFunc | exp.Query | exp.Star | exp.Column):
            raise _Not
        if isinstance(node, exp.Window) and isinstance(node.this, exp.AggFunc):
            # sum(sum(x)) OVER (...): the outer call works on groups, its argument on rows.
            kept = node.copy()
            kept.this.set("this", self.over(node.this.this) if node.this.this else None)
            for part in ("partition_by", "order"):
                _each(kept, part, self.over)
            return kept
        copy = node.copy()
        for name in list(copy.args):
            _each(copy, name, self.over)
        return copy

    def named(self, node: Any) -> Any:
        """As `over`, where aliases of the SELECT may be used too."""
        from sqlglot import exp

        if isinstance(node, exp.Column) and not node.table and node not in self.keys:
            if node.name.lower() not in self.shown:
                raise _Not
            return self.over(self.shown[node.name.lower()])
        if node in self.keys or _call(node) is not None:
            return self.over(node)
        copy = node.copy()
        for name in list(copy.args):
            _each(copy, name, self.named)
        return copy


def _named(item: Any) -> bool:
    from sqlglot import exp

    return bool(item.alias) or isinstance(item, exp.Column)


def _each(node: Any, name: str, change: Callable[[Any], Any]) -> None:
    from sqlglot import exp

    value = node.args.get(name)
    if isinstance(value, exp.Expression) and not isinstance(value, exp.DataType | exp.Identifier):
        node.set(name, change(value))
    elif isinstance(value, list):
        node.set(name, [change(v) if isinstance(v, exp.Expression) else v for v in value])


def _keys(select: Any, columns: Callable[[str], set[str]]) -> list[Any]:
    from sqlglot import exp

    group = select.args.get("group")
    if group is None:
        return []
    if {key for key, value in group.args.items() if value} - {"expressions"}:
        raise _Not  # ROLLUP, CUBE, GROUPING SETS, ALL
    shown = {item.alias.lower(): item.this for item in select.expressions if item.alias}
    keys = []
    for written in group.expressions:
        key = written
        if isinstance(key, exp.Literal) and key.is_int:
            if not 0 < int(key.this) <= len(select.expressions):
                raise _Not
            key = select.expressions[int(key.this) - 1].unalias()
        elif isinstance(key, exp.Column) and not key.table and key.name.lower() in shown:
            # A column of the input goes before an alias of the SELECT.
            meant = shown[key.name.lower()]
            if meant != key and key.name.lower() not in _input(select, columns):
                key = meant
        if key.find(exp.AggFunc, exp.Query):
            raise _Not
        keys.append(key)
    return keys


def _input(select: Any, columns: Callable[[str], set[str]]) -> set[str]:
    from sqlglot import exp

    everything = exp.Select(expressions=[exp.Star()])
    _fill(everything, {name: select.args.get(name) for name in ("from_", "joins", "laterals")})
    return columns(_with_ctes(everything, select))


def _call(node: Any) -> tuple[str, Any] | None:
    """The aggregate function and its argument, if it is one that can be followed."""
    from sqlglot import exp

    condition: Any = None
    argument: Any
    if isinstance(node, exp.Filter):
        condition, node = node.expression.this, node.this
    names = {exp.Sum: "sum", exp.Count: "count", exp.Avg: "avg", exp.Min: "min", exp.Max: "max"}
    names |= {exp.LogicalOr: "max", exp.LogicalAnd: "min"}
    if type(node) is exp.CountIf:
        counted = exp.If(this=node.this.copy(), true=exp.Literal.number(1))
        name, argument = "count", exp.Case(ifs=[counted])
    elif type(node) in names:
        name, argument = names[type(node)], node.this
    else:
        return None
    if argument is None or isinstance(argument, exp.Distinct) or node.expressions:
        return None
    if isinstance(node.parent, exp.Window) and node.arg_key == "this":
        return None
    if isinstance(argument, exp.Star):
        argument = exp.Literal.number(1)
    if argument.find(exp.AggFunc, exp.Query, exp.Window, exp.Star):
        return None
    if condition is not None:
        argument = exp.Case(ifs=[exp.If(this=condition.copy(), true=argument.copy())])
    return name, argument


def _with_ctes(rows: Any, select: Any) -> str:
    """The text of a query with the common table expressions of its surroundings that it uses."""
    from sqlglot import exp

    ctes = _visible(select)
    used: dict[str, Any] = {}
    todo = [rows]
    while todo:
        for table in todo.pop().find_all(exp.Table):
            name = table.name.lower()
            if name in ctes and name not in used:
                used[name] = ctes[name]
                todo.append(ctes[name])
    for name in [name for name in ctes if name in used]:
        rows = rows.with_(name, as_=used[name].copy(), copy=False)
    return str(rows.sql(dialect="databricks"))


def _tidy(tree: Any) -> Any:
    """Leaves out common table expressions that nothing uses any more."""
    from sqlglot import exp

    while True:
        used = {table.name.lower() for table in tree.find_all(exp.Table)}
        dead = [cte for cte in tree.find_all(exp.CTE) if cte.alias.lower() not in used]
        if not dead:
            return tree
        for cte in dead:
            clause = cte.parent
            cte.pop()
            if not clause.expressions:
                clause.parent.set("with_", None)
