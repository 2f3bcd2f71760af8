"""Sums, counts and extremes per group, kept so that new rows can be added and old ones taken away.

A grouping's *state* has one row a group: the keys ``shoal_k<i>``, ``shoal_n`` (rows of the group)
and per aggregate call its parts: ``shoal_c<j>`` (values that are not null), ``shoal_s<j>`` (their
sum) or ``shoal_m<j>`` (their least or greatest).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal.engines import dataframe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyspark.sql import Column, DataFrame
    from pyspark.sql.connect.proto import Expression, Relation
    from pyspark.sql.connect.session import SparkSession
    from pyspark.sql.types import StructType

    from shoal.engines import Grouping

__all__ = ["finished", "merged", "partial", "subtractable"]


def _column(expression: Expression) -> Column:
    """A column over an expression of the protocol."""
    from pyspark.sql.connect.column import Column
    from pyspark.sql.connect.expressions import Expression as ClientExpression

    class Given(ClientExpression):
        def to_plan(self, session: Any) -> Expression:
            del session
            return expression

        def __repr__(self) -> str:
            return "given"

    return Column(Given())


def _frame(root: Relation, spark: SparkSession) -> DataFrame:
    from pyspark.sql.connect.proto import Plan

    return dataframe(Plan(root=root), spark)


def _keys(grouping: Grouping) -> list[str]:
    return [f"shoal_k{index}" for index in range(len(grouping.keys))]


def partial(grouping: Grouping, rows: Relation, spark: SparkSession) -> DataFrame | None:
    """The state of some rows alone; None when a call cannot be kept as parts.

    Args:
        grouping: The grouping.
        rows: Rows as the grouping gets them, with real tables in the place of numbered reads.
        spark: The session.
    """
    from pyspark.sql import functions as F

    keys = _keys(grouping)
    columns = [_column(key).alias(name) for name, key in zip(keys, grouping.keys, strict=True)]
    columns += [_column(call[1]).alias(f"shoal_a{i}") for i, call in enumerate(grouping.calls)]
    taken = _frame(rows, spark).select(*columns) if columns else _frame(rows, spark)
    parts = [F.count(F.lit(1)).alias("shoal_n")]
    kinds = {field.name: field.dataType.typeName() for field in taken.schema.fields}
    for index, (call, _) in enumerate(grouping.calls):
        value = F.col(f"shoal_a{index}")
        kind = kinds[f"shoal_a{index}"]
        if call in {"min", "max"}:
            least = F.min(value) if call == "min" else F.max(value)
            parts.append(least.alias(f"shoal_m{index}"))
            continue
        parts.append(F.count(value).alias(f"shoal_c{index}"))
        if call == "count":
            continue
        if call == "avg" and kind in {"decimal", "string", "void"}:
            return None  # how the engine rounds such a mean cannot be told from sum and count
        if call == "avg" and kind == "long":
            value = value.cast("decimal(38,0)")
        parts.append(F.sum(value).alias(f"shoal_s{index}"))
    return taken.groupBy(*keys).agg(*parts)


def subtractable(grouping: Grouping, state: StructType) -> bool:
    """Whether rows can be taken away from a state again and leave exactly the rest.

    Args:
        grouping: The grouping.
        state: The state's columns.
    """
    if any(call in {"min", "max"} for call, _ in grouping.calls):
        return False
    sums = [f.dataType.typeName() for f in state.fields if f.name.startswith("shoal_s")]
    return not {"float", "double"} & set(sums)


def merged(
    grouping: Grouping, state: DataFrame, plus: Sequence[DataFrame], minus: Sequence[DataFrame]
) -> DataFrame:
    """A state with the states of new rows added and those of removed rows taken away."""
    from pyspark.sql import functions as F

    keys = _keys(grouping)
    fields = state.schema.fields
    everything = state
    for frame in plus:
        everything = everything.unionByName(frame)
    for frame in minus:
        negative = [
            F.col(f.name) if f.name in keys else (-F.col(f.name)).cast(f.dataType).alias(f.name)
            for f in fields
        ]
        everything = everything.unionByName(frame.select(*negative))
    parts = []
    for field in fields:
        if field.name in keys:
            continue
        value = F.col(field.name)
        if field.name.startswith("shoal_m"):
            call = grouping.calls[int(field.name.removeprefix("shoal_m"))][0]
            part = F.min(value) if call == "min" else F.max(value)
        else:
            part = F.sum(value)
        parts.append(part.cast(field.dataType).alias(field.name))
    found = everything.groupBy(*keys).agg(*parts)
    return found.filter(F.col("shoal_n") > 0) if keys else found


def finished(grouping: Grouping, state: DataFrame, like: StructType) -> DataFrame:
    """What the grouping gives, made from its state.

    Args:
        grouping: The grouping.
        state: Its state.
        like: The columns that the grouping itself has.
    """
    from pyspark.sql import functions as F

    values: list[Column] = [F.col(name) for name in _keys(grouping)]
    for index, (call, _) in enumerate(grouping.calls):
        count, total = F.col(f"shoal_c{index}"), F.col(f"shoal_s{index}")
        if call == "count":
            value = count
        elif call == "sum":
            value = F.when(count > 0, total)
        elif call == "avg":
            value = F.when(count > 0, total.cast("double") / count)
        else:
            value = F.col(f"shoal_m{index}")
        values.append(value.alias(f"shoal_f{index}"))
    made = state.select(*values).select(
        *(_column(output).alias(f"shoal_o{i}") for i, output in enumerate(grouping.outputs))
    )
    columns = [
        F.col(f"shoal_o{index}").cast(field.dataType).alias(field.name)
        for index, field in enumerate(like.fields)
    ]
    return made.select(*columns)
