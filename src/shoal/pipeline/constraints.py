"""Constraints of a table, checked as expectations that fail the update: in the same pass.

Delta leaves constraints to the writer. Declared ones are NOT NULL columns of the table's schema and
``delta.constraints.<name>`` properties; another writer may have added more to the table itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from shoal.pipeline.expectations import Expectation

if TYPE_CHECKING:
    from shoal.engines import Engine
    from shoal.lake import Table, TableName
    from shoal.pipeline.definitions import Dataset
    from shoal.pipeline.graph import Graph, Node, Query

__all__ = ["not_null", "required", "row_key", "row_key_of"]

_CHECK = "delta.constraints."


def required(dataset: Dataset, table: Table, engine: Engine) -> tuple[Expectation, ...]:
    """What every row of a table must meet, besides its declared expectations.

    Args:
        dataset: The table's declaration.
        table: The table, which may not exist yet.
        engine: Reads a schema that is written as text.
    """
    taken = {expected.name for expected in dataset.expectations}
    found: dict[str, Expectation] = {}
    for name, condition in _conditions(dataset, table, engine):
        if condition not in found:
            said = name if name not in taken else f"constraint {name}"
            found[condition] = Expectation(name=said, condition=condition, action="fail")
    return tuple(found.values())


def _conditions(dataset: Dataset, table: Table, engine: Engine) -> Iterator[tuple[str, str]]:
    for column in not_null(dataset, engine):
        yield f"NOT NULL {column}", f"`{column}` IS NOT NULL"
    for key, condition in dataset.properties.items():
        if key.startswith(_CHECK):
            yield key.removeprefix(_CHECK), condition
    for rule in table.constraints():
        yield rule.name, rule.condition


def not_null(dataset: Dataset, engine: Engine) -> list[str]:
    """The columns that a table's declared schema says are never null."""
    declared = dataset.schema
    if isinstance(declared, str):
        if not re.search(r"\bNOT\s+NULL\b", declared, re.IGNORECASE):
            return []
        declared = engine.spark._parse_ddl(declared)
    if declared is None:
        return []
    return [field.name for field in declared.fields if not field.nullable]


def row_key(node: Node) -> str:
    """The columns that name a row of a table kept by AUTO CDC, separated by commas; else empty."""
    for query in node.queries:
        cdc = query.flow.cdc
        if cdc is not None:
            names = [str(key).removeprefix("Column<'").removesuffix("'>") for key in cdc.keys]
            return ",".join([*names, "__START_AT"] if cdc.scd_type == 2 else names)
    return ""


def row_key_of(name: TableName, query: Query, graph: Graph) -> tuple[str, ...]:
    """Columns that name a row of an input: those of the AUTO CDC flow that fills it, or reads it.

    Args:
        name: The input.
        query: The flow that reads it.
        graph: Its graph.
    """
    if name in graph.nodes and (known := row_key(graph.nodes[name])):
        return tuple(known.split(","))
    return tuple(map(str, query.flow.cdc.keys)) if query.flow.cdc is not None else ()
