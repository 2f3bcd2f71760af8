"""When a merge can leave the rows of keys without new events as they are, and which those are."""

from __future__ import annotations

import functools
import operator
from typing import TYPE_CHECKING

from shoal.lake import flows, last_writers

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from shoal.pipeline.frames import Place

__all__ = ["goes_on", "target", "with_keys", "without_keys"]


def goes_on(place: Place, known: DataFrame, events: DataFrame) -> bool:
    """Whether the target holds exactly what the kept events gave, by the rules of the new ones.

    Args:
        place: The flow.
        known: The events that it kept.
        events: The new ones.
    """
    cdc = place.work.query.flow.cdc
    table, own = place.table, place.work.before
    if cdc is None or cdc.apply_as_truncates is not None or not place.last or place.full:
        return False
    # A row that was dropped is not there to be counted again.
    expected = (*place.node.dataset.expectations, *place.work.query.flow.expectations)
    if any(one.action == "drop" for one in expected) or set(flows(table)) != {own.flow}:
        return False
    if {f.name: f.dataType for f in known.schema} != {f.name: f.dataType for f in events.schema}:
        return False
    last = last_writers(table.path) if table.exists() else None
    return last is not None and own.application in last[1]


def target(place: Place) -> DataFrame:
    """The target's rows now."""
    from pyspark.sql.connect.proto import Plan

    from shoal.engines import dataframe, version_relation

    table = place.table
    relation = version_relation(table.path, table.version())
    return dataframe(Plan(root=relation), place.engine.spark)


def with_keys(frame: DataFrame, keys: DataFrame) -> DataFrame:
    """The rows whose key is among these."""
    return frame.alias("row").join(keys.alias("key"), _same(keys), "left_semi")


def without_keys(frame: DataFrame, keys: DataFrame) -> DataFrame:
    """The rows whose key is not among these."""
    return frame.alias("row").join(keys.alias("key"), _same(keys), "left_anti")


def _same(keys: DataFrame) -> Column:
    from pyspark.sql import functions as F

    # Null is a key like any other, as it is to a window.
    both = [F.col(f"row.`{name}`").eqNullSafe(F.col(f"key.`{name}`")) for name in keys.columns]
    return functools.reduce(operator.and_, both)
