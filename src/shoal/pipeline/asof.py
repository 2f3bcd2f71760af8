"""The point-in-time correct join: each label gets the features that were known at its moment.

A plan of a union and one window: for each key, rows of both sides are sorted by time, and each row
of the left side takes the last row of the right side before it. No row of the left side is lost or
doubled, and nothing later than the label's time is ever seen. The plan has no join, so its cost is
one sort of both sides, however many rows share a key.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from shoal.errors import PipelineError, nearest

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

__all__ = ["asof_join"]

# Columns that the plan needs between; nobody's own are called so.
_SIDE, _KNOWN, _TIME, _ORDER = "__side", "__known", "__time", "__order"


def asof_join(
    left: DataFrame,
    right: DataFrame,
    *,
    on: str | None = None,
    left_on: str | None = None,
    right_on: str | None = None,
    by: str | Sequence[str] = (),
    tolerance: dt.timedelta | float | None = None,
    allow_exact_matches: bool = True,
    ties: str | Sequence[str] = (),
    suffix: str = "_right",
) -> DataFrame:
    """Join each row of ``left`` with the newest row of ``right`` that is not later.

    Example::

        training = shoal.asof_join(
            labels, features, on="time", by=["customer"], tolerance=timedelta(days=30)
        )

    Rows of ``left`` without such a row get nulls, as do those whose time or one of whose keys is
    null: null equals nothing, as in SQL. Rows of ``right`` without a time or key match nothing. Of
    several rows of ``right`` with one key and time the one that is greatest in ``ties`` counts,
    and where these are equal, too, the greatest in its other columns: the result never depends on
    how rows lie.

    Args:
        left: The labels: all of its rows are kept, in no particular order.
        right: The features, with the time from which on each row was known.
        on: The column of time in both: a date, timestamp or number.
        left_on: Its name in ``left``, where the sides differ.
        right_on: Its name in ``right``; it is kept as a column then.
        by: Columns that must be equal in both.
        tolerance: How much older a row of ``right`` may be at most: a timedelta, or a number where
            time is a number. None has no limit.
        allow_exact_matches: Whether a row of ``right`` of the very same time is known already.
        ties: Columns of ``right`` that decide between rows of one key and time, such as the time
            of ingestion.
        suffix: Follows the name of a column of ``right`` that ``left`` has, too; with ``on``, also
            the time of ``right``.

    Returns:
        The columns of ``left``, then those of ``right`` but the keys.

    Raises:
        PipelineError: A column does not exist, or two would have one name.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    first, second = left_on or on, right_on or on
    keys = [by] if isinstance(by, str) else list(by)
    groups = [F.col(f"`{key}`") for key in keys] or [F.lit(0)]
    order = [ties] if isinstance(ties, str) else list(ties)
    if first is None or second is None or (on is not None and (left_on or right_on)):
        raise PipelineError(
            "An as-of join needs the column of time of both sides.",
            hint='asof_join(labels, features, on="time"), or left_on= and right_on=.',
        )
    _check(left.columns, [first, *keys], "left")
    _check(right.columns, [second, *keys, *order], "right")
    taken = [name for name in right.columns if name not in keys]
    names = [f"{name}{suffix}" if name in left.columns else name for name in taken]
    if double := sorted({n for n in names if names.count(n) > 1 or n in left.columns}):
        raise PipelineError(
            f"Both sides of an as-of join have a column '{double[0]}'.",
            hint="Give suffix= another value, or drop the column of one side.",
        )
    kinds = {field.name: field.dataType for field in right.schema.fields}
    sorted_by = order + [n for n in taken if n not in order and _sorts(kinds[n]) and n != second]
    known = F.struct(*[F.col(f"`{n}`").alias(f"c{i}") for i, n in enumerate(taken)])
    nothing = [F.lit(None).cast(kinds[n]).alias(f"c{i}") for i, n in enumerate(taken)]
    marked = right.where(_whole([second, *keys])).select(
        *[F.col(f"`{key}`") for key in keys],
        F.col(f"`{second}`").alias(_TIME),
        # What is known at the label's own moment comes before the label, or after it.
        F.lit(0 if allow_exact_matches else 2).alias(_SIDE),
        F.row_number()
        .over(
            Window.partitionBy(*groups, F.col(f"`{second}`")).orderBy(
                *[F.col(f"`{name}`").asc_nulls_first() for name in sorted_by or [second]]
            )
        )
        .alias(_ORDER),
        known.alias(_KNOWN),
    )
    asked = left.select(
        "*",
        F.when(_whole([first, *keys]), F.col(f"`{first}`")).alias(_TIME),
        F.lit(1).alias(_SIDE),
        F.lit(0).alias(_ORDER),
        F.when(F.lit(False), F.struct(*nothing)).alias(_KNOWN),
    )
    both = asked.unionByName(marked, allowMissingColumns=True)
    before = (
        Window.partitionBy(*groups)
        .orderBy(F.col(_TIME).asc_nulls_first(), F.col(_SIDE), F.col(_ORDER))
        .rowsBetween(Window.unboundedPreceding, Window.currentRow)
    )
    found = both.withColumn(_KNOWN, F.last(_KNOWN, ignorenulls=True).over(before))
    found = found.where(F.col(_SIDE) == 1)
    seen = F.col(_KNOWN).getField(f"c{taken.index(second)}")
    fits = _whole([first, *keys])
    if tolerance is not None:
        fits &= seen >= _earliest(F.col(f"`{first}`"), tolerance)
    return found.select(
        *[F.col(f"`{name}`") for name in left.columns],
        *[
            F.when(fits, F.col(_KNOWN).getField(f"c{i}")).alias(name)
            for i, name in enumerate(names)
        ],
    )


def _check(columns: Sequence[str], asked: Sequence[str], side: str) -> None:
    for name in asked:
        if name not in columns:
            close = nearest(name, columns)
            raise PipelineError(
                f"The {side} side of an as-of join has no column '{name}'; it has "
                f"{', '.join(columns)}.",
                hint=f"Did you mean '{close}'?" if close else None,
            )


def _whole(names: Sequence[str]) -> Column:
    """No column is null."""
    from pyspark.sql import functions as F

    found = F.col(f"`{names[0]}`").isNotNull()
    for name in names[1:]:
        found &= F.col(f"`{name}`").isNotNull()
    return found


def _earliest(time: Column, tolerance: dt.timedelta | float) -> Column:
    from pyspark.sql import functions as F

    zero = dt.timedelta(0) if isinstance(tolerance, dt.timedelta) else 0
    if tolerance < zero:  # type: ignore[operator]
        raise PipelineError(f"A tolerance of {tolerance} lets no row match; expected 0 or more.")
    return time - F.lit(tolerance)


def _sorts(kind: Any) -> bool:
    """Whether values of a type have an order in Spark."""
    from pyspark.sql.types import ArrayType, MapType, StructType, VariantType

    return not isinstance(kind, (ArrayType, MapType, StructType, VariantType))
