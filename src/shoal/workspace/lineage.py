"""Where a column comes from, and where it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

from shoal.errors import TableNotFound, nearest

if TYPE_CHECKING:
    from shoal.pipeline import Edge
    from shoal.workspace.workspace import Workspace

__all__ = ["Branch", "Lineage"]

_Place: TypeAlias = tuple[str, str | None]
_Step: TypeAlias = tuple[str, str | None, str]


@dataclass(frozen=True, kw_only=True)
class Branch:
    """A step of lineage, as a tree.

    Args:
        source: A table, ``files:<path>`` or ``topic:<name>``.
        column: Its column; None for all of it.
        kind: How it is connected with the step before: ``direct``, ``indirect`` or ``opaque``.
        below: The next steps.
        again: It stands elsewhere in the tree with its steps, which are left out here.
    """

    source: str
    column: str | None
    kind: str
    below: tuple[Branch, ...] = ()
    again: bool = False


class Lineage:
    """The edges between the columns of a lake.

    Args:
        edges: All of them.
    """

    def __init__(self, edges: Iterable[Edge]) -> None:
        self.edges = tuple(edges)

    @classmethod
    def of(cls, space: Workspace) -> Lineage:
        """The project's lineage: what its runs kept, and what is declared and never ran."""
        from shoal.pipeline import lineage_edges, stored_edges

        edges = stored_edges(space.lake)
        told = {edge.table for edge in edges}
        nodes = [node for node in space.graph.tables if str(node.name) not in told]
        for node in nodes:
            edges += lineage_edges(node, space.graph, space.lake)
        return cls(edges)

    @cached_property
    def columns(self) -> dict[str, set[str]]:
        """Every table, folder and topic with the columns that are known of it."""
        found: dict[str, set[str]] = {}
        for edge in self.edges:
            for name, column in ((edge.table, edge.column), (edge.source, edge.source_column)):
                found.setdefault(name, set()).update([column] if column else [])
        return found

    @cached_property
    def _into(self) -> dict[str, list[Edge]]:
        found: dict[str, list[Edge]] = {}
        for edge in self.edges:
            found.setdefault(edge.table, []).append(edge)
        return found

    @cached_property
    def _out(self) -> dict[str, list[Edge]]:
        found: dict[str, list[Edge]] = {}
        for edge in self.edges:
            found.setdefault(edge.source, []).append(edge)
        return found

    def find(self, text: str) -> tuple[str, str | None]:
        """The table, and the column if one is named, that a person means by ``schema.t.column``.

        Raises:
            TableNotFound: There is no such table or column; the message has the nearest.
        """
        if text in self.columns:
            return text, None
        table, _, column = text.rpartition(".")
        if table in self.columns:
            if column in self.columns[table]:
                return table, column
            close = nearest(column, self.columns[table])
            raise TableNotFound(
                f"'{table}' has no column '{column}' that a query reads or makes.",
                hint=f"Did you mean '{table}.{close}'?" if close else f"shoal lineage {table}",
            )
        whole = [f"{name}.{column}" for name, columns in self.columns.items() for column in columns]
        close = nearest(text, [*self.columns, *whole])
        raise TableNotFound(
            f"No lineage is known of '{text}'.",
            hint=f"Did you mean '{close}'?" if close else "shoal tables lists the lake.",
        )

    def upstream(self, text: str, *, depth: int | None = None) -> Branch:
        """What a table or column comes from.

        Args:
            text: ``schema.table`` or ``schema.table.column``.
            depth: At most so many steps.
        """
        source, column = self.find(text)
        return self._tree(source, column, "direct", depth, set(), self._sources)

    def downstream(self, text: str, *, depth: int | None = None) -> Branch:
        """What comes from a table or column; see `upstream`."""
        source, column = self.find(text)
        return self._tree(source, column, "direct", depth, set(), self._uses)

    def _tree(
        self,
        source: str,
        column: str | None,
        kind: str,
        depth: int | None,
        seen: set[_Place],
        step: Callable[[str, str | None], Iterator[_Step]],
    ) -> Branch:
        again = (source, column) in seen
        seen.add((source, column))
        below: list[Branch] = []
        if not again and depth != 0:
            left = None if depth is None else depth - 1
            for name, inner, how in sorted(step(source, column), key=str):
                # What only decides about rows is a leaf: its own history is the table's.
                further = 0 if how == "indirect" and column is not None else left
                below.append(self._tree(name, inner, how, further, seen, step))
        return Branch(source=source, column=column, kind=kind, below=tuple(below), again=again)

    def _sources(self, table: str, column: str | None) -> Iterator[_Step]:
        found: dict[tuple[str, str | None], str] = {}
        for edge in self._into.get(table, ()):
            if column is None:
                found[edge.source, None] = "direct"
            elif edge.column in (column, None):
                key = (edge.source, edge.source_column)
                found[key] = min(found.get(key, "zzz"), edge.kind)
        for (name, inner), kind in found.items():
            yield name, inner, kind

    def _uses(self, source: str, column: str | None) -> Iterator[_Step]:
        found: dict[tuple[str, str | None], str] = {}
        for edge in self._out.get(source, ()):
            if column is None:
                found[edge.table, None] = "direct"
            elif edge.source_column in (column, None):
                key = (edge.table, edge.column)
                found[key] = min(found.get(key, "zzz"), edge.kind)
        for (name, inner), kind in found.items():
            yield name, inner, kind
