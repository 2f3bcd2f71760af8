"""The rules by which change events become the rows of a table, as DataFrame transformations.

Events have two columns besides those of the table: what orders them (`SEQUENCE`) and what they do
(`KIND`). `kept` leaves the events that can still matter, whatever comes later; the table is a
function of those (`latest`, `history`). So the result does not depend on how events were split
into runs. Of two events of one key and one sequence the delete wins, then the larger values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

__all__ = ["DELETE", "KIND", "SEQUENCE", "TRUNCATE", "UPSERT", "Rules", "kept", "merged", "parts"]

SEQUENCE = "__shoal_sequence"
KIND = "__shoal_kind"
UPSERT, DELETE, TRUNCATE = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How events are merged.

    Args:
        keys: Columns that identify a row.
        scd_type: 1 keeps the latest row per key, 2 the history.
        fills: Columns in which a null leaves the value as it was.
        tracked: Type 2: columns whose changes make a new version.
        truncates: Whether an event may delete all rows.
    """

    keys: tuple[str, ...]
    scd_type: int
    fills: frozenset[str] = frozenset()
    tracked: tuple[str, ...] = ()
    truncates: bool = False


def kept(events: DataFrame, rules: Rules) -> DataFrame:
    """The events that can still matter, with the same columns."""
    if rules.truncates:
        events = _since_truncate(events)
    if rules.scd_type == 1 and rules.fills:
        return _filling(events, rules, events=True)
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    at = _columns(rules.keys)
    if rules.scd_type == 2:
        at += parts(events)
    # Truncates have no key: they are one group of their own.
    truncate = [F.col(KIND) == TRUNCATE] if rules.truncates else []
    if truncate:
        at = [F.when(F.col(KIND) != TRUNCATE, column) for column in at]
    window = Window.partitionBy(*truncate, *at).orderBy(*(c.desc() for c in _order(events)))
    ranked = events.withColumn("__shoal_rank", F.row_number().over(window))
    return ranked.filter(F.col("__shoal_rank") == 1).select(*_columns(events.columns))


def merged(events: DataFrame, rules: Rules) -> DataFrame:
    """The table's rows, from the events that `kept` left."""
    from pyspark.sql import functions as F

    if rules.scd_type == 2:
        return _history(events, rules)
    if rules.fills:
        return _filling(events.filter(F.col(KIND) != TRUNCATE), rules, events=False)
    return events.filter(F.col(KIND) == UPSERT).select(*_table(events))


def parts(frame: DataFrame) -> list[Column]:
    """The columns that order events: the sequence, or its fields where it is a struct."""
    from pyspark.sql import functions as F
    from pyspark.sql.types import StructType

    kind = frame.schema[SEQUENCE].dataType
    if not isinstance(kind, StructType):
        return [F.col(SEQUENCE)]
    return [F.col(SEQUENCE).getField(name) for name in kind.fieldNames()]


def _columns(names: Sequence[str]) -> list[Column]:
    from pyspark.sql import functions as F

    return [F.col(f"`{name}`") for name in names]


def _table(frame: DataFrame) -> list[Column]:
    return _columns([name for name in frame.columns if not name.startswith("__shoal_")])


def _order(frame: DataFrame) -> list[Column]:
    """A total order of a key's events; values only break ties."""
    from pyspark.sql import functions as F
    from pyspark.sql.types import ArrayType, MapType, StructType

    plain = [
        field.name
        for field in frame.schema.fields
        if field.name not in (SEQUENCE, KIND)
        and not isinstance(field.dataType, (ArrayType, MapType, StructType))
    ]
    return [*parts(frame), F.col(KIND), *_columns(plain)]


def _since_truncate(events: DataFrame) -> DataFrame:
    """The last truncate, and what came after it."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    cut = F.when(F.col(KIND) == TRUNCATE, 1).otherwise(0)
    back = Window.partitionBy(F.lit(1)).orderBy(
        *(part.desc() for part in parts(events)), F.col(KIND).desc()
    )
    seen = F.sum(cut).over(back.rowsBetween(Window.unboundedPreceding, Window.currentRow))
    marked = events.withColumn("__shoal_cuts", seen)
    since = (F.col("__shoal_cuts") == 0) | (
        (F.col("__shoal_cuts") == 1) & (F.col(KIND) == TRUNCATE)
    )
    return marked.filter(since).select(*_columns(events.columns))


def _filling(frame: DataFrame, rules: Rules, *, events: bool) -> DataFrame:
    """Type 1 with nulls that leave values as they were: the events that give values, or the rows.

    A key's row is made of the last value of each column since the key's last delete, so an event
    matters while it is the last one, the last delete, or the last to give some column a value.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    truncate = [F.col(KIND) == TRUNCATE] if rules.truncates else []
    keys = _columns(rules.keys)
    if truncate:
        keys = [F.when(F.col(KIND) != TRUNCATE, key) for key in keys]
    group = Window.partitionBy(*truncate, *keys)
    order = group.orderBy(*_order(frame))
    every = order.rowsBetween(Window.unboundedPreceding, Window.unboundedFollowing)
    columns = frame.columns
    place, last, cut = (F.col(f"__shoal_{name}") for name in ("place", "last", "cut"))
    ranked = frame.withColumn("__shoal_place", F.row_number().over(order))
    ranked = ranked.withColumn("__shoal_last", F.max(place).over(group)).withColumn(
        "__shoal_cut", F.coalesce(F.max(F.when(F.col(KIND) == DELETE, place)).over(group), F.lit(0))
    )
    fills = [name for name in columns if name in rules.fills]
    if events:
        gives = (place == last) | (place == cut)
        for index, name in enumerate(fills):
            value = F.col(f"`{name}`").isNotNull() & (place > cut)
            ranked = ranked.withColumn(
                f"__shoal_give_{index}", F.max(F.when(value, place)).over(group)
            )
            gives = gives | F.coalesce(F.col(f"__shoal_give_{index}") == place, F.lit(False))
        return ranked.filter(gives).select(*_columns(columns))
    for name in fills:
        value = F.when(place > cut, F.col(f"`{name}`"))
        ranked = ranked.withColumn(name, F.last(value, ignorenulls=True).over(every))
    return ranked.filter((place == last) & (F.col(KIND) == UPSERT)).select(*_table(frame))


def _history(events: DataFrame, rules: Rules) -> DataFrame:
    """Type 2: one row per version of a key, with the interval in which it held."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    keys, order = _columns(rules.keys), parts(events)
    window = Window.partitionBy(*keys).orderBy(*order)
    so_far = window.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    kind, frame = F.col(KIND), events
    if rules.fills:
        deletes = F.sum(F.when(kind == DELETE, 1).otherwise(0)).over(so_far)
        frame = frame.withColumn("__shoal_life", deletes)
        life = Window.partitionBy(*keys, F.col("__shoal_life")).orderBy(*order)
        life = life.rowsBetween(Window.unboundedPreceding, Window.currentRow)
        values = {
            name: F.last(F.when(kind == UPSERT, F.col(f"`{name}`")), ignorenulls=True).over(life)
            for name in events.columns
            if name in rules.fills
        }
        frame = frame.select(
            *(values.get(n, F.col(f"`{n}`")).alias(n) for n in events.columns), "__shoal_life"
        )
    before = F.lag(kind).over(window)
    changed = before.isNull() | (before == DELETE)
    for column in _columns(rules.tracked):
        changed = changed | ~column.eqNullSafe(F.lag(column).over(window))
    edge = F.when((kind == DELETE) | changed, 1).otherwise(0)
    frame = frame.withColumn("__shoal_edge", edge)
    start = F.when(F.col("__shoal_edge") == 1, F.col(SEQUENCE))
    frame = (
        frame.withColumn("__START_AT", F.last(start, ignorenulls=True).over(so_far))
        .withColumn("__shoal_next", F.lead(F.col("__shoal_edge")).over(window))
        .withColumn("__END_AT", F.lead(F.col(SEQUENCE)).over(window))
    )
    ends = F.coalesce(F.col("__shoal_next"), F.lit(1)) == 1
    return frame.filter((kind == UPSERT) & ends).select(*_table(events), "__START_AT", "__END_AT")
