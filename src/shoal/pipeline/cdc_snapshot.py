"""AUTO CDC from snapshots: whole tables, one after another, of which the differences count.

Type 1 is the last snapshot. For type 2 each snapshot is turned into the events that lead to it
from the one before, sequenced by its version; from there on they are merged like any events.
"""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any

from shoal.engines import TableRead, dataframe, plan_of, rewrite, version_relation
from shoal.errors import PipelineError
from shoal.pipeline.cdc import rules_of
from shoal.pipeline.cdc_merge import DELETE, KIND, SEQUENCE, UPSERT, merged
from shoal.pipeline.cdc_state import before, joined, staged, write
from shoal.pipeline.frames import Built, Place, pinned

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import Column, DataFrame
    from pyspark.sql.connect.proto import Relation

    from shoal.engines import Read
    from shoal.pipeline.definitions import Cdc

__all__ = ["build"]

_SIDE = "__shoal_side"


def build(place: Place) -> Built:
    """The target's rows after the source's new snapshots.

    Raises:
        PipelineError: A snapshot has a key twice, or versions do not increase.
    """
    cdc = place.work.query.flow.cdc
    assert cdc is not None
    note: dict[str, Any] = {
        "keys": list(map(str, cdc.keys)),
        "stored_as_scd_type": cdc.scd_type,
    }
    known = before(place, note)
    version = _unpacked(known.note["version"]) if known is not None else None
    events = known.events if known is not None else None
    found = 0
    for frame, after in _snapshots(place, cdc, version):
        found, version = found + 1, after
        rules = rules_of(cdc, frame.columns)
        snapshot = staged(place, frame)
        _check_keys(snapshot, rules.keys, version)
        snapshot = _sequenced(snapshot, version)
        if cdc.scd_type == 1 or events is None:
            events = snapshot
        else:
            # Staged: each snapshot's plan would otherwise hold those of all before it.
            events = staged(place, joined(events, _changes(events, snapshot, rules.keys, version)))
    if events is None:
        raise PipelineError(
            "the source gave no snapshot at its first call.",
            hint="Return (DataFrame, version) when the latest version is None.",
        )
    if not found:
        return Built(frame=None, overwrite=False, notes=("no new snapshot",), idle=True)
    rules = rules_of(cdc, [n for n in events.columns if n not in (SEQUENCE, KIND)])
    name, stored = write(place, note, events, version=_packed(version))
    assert stored is not None
    return Built(frame=merged(stored, rules), overwrite=True, state=name)


def _snapshots(place: Place, cdc: Cdc, version: Any) -> Iterator[tuple[DataFrame, Any]]:
    if cdc.snapshots is None:
        now = dt.datetime.now(dt.UTC)
        if version is not None and now <= version:  # the clock was set back
            now = version + dt.timedelta(microseconds=1)
        yield pinned(place).drop("_metadata"), now
        return
    while not place.stopped():
        given = cdc.snapshots(version)
        if given is None:
            return
        if not (isinstance(given, tuple) and len(given) == 2):
            raise PipelineError(
                f"the snapshot function returned {type(given).__name__}.",
                hint="Return (DataFrame, version), or None when there is no newer snapshot.",
            )
        frame, after = given
        _packed(after)
        if version is not None and (type(after) is not type(version) or not after > version):
            raise PipelineError(
                f"the snapshot function gave version {after!r} after {version!r}; versions must "
                "increase.",
                hint="Return None when there is no snapshot after the version that is given.",
            )
        version = after
        yield _placed(place, frame), version


def _placed(place: Place, frame: DataFrame) -> DataFrame:
    """The function's DataFrame, with names as tables of the lake at their version now."""

    def table(read: Read) -> Relation | None:
        if not isinstance(read, TableRead):
            return None
        found = place.lake.table(place.lake.name(read.name))
        return version_relation(found.path, found.version())

    return dataframe(rewrite(plan_of(frame), table), place.engine.spark)


def _check_keys(snapshot: DataFrame, keys: tuple[str, ...], version: Any) -> None:
    from pyspark.sql import functions as F

    twice = snapshot.groupBy(*(F.col(f"`{key}`") for key in keys)).agg(
        F.count(F.lit(1)).alias("__shoal_rows")
    )
    rows = twice.filter(F.col("__shoal_rows") > 1).limit(1).collect()
    if rows:
        key = ", ".join(f"{key} = {rows[0][key]!r}" for key in keys)
        raise PipelineError(
            f"the snapshot of version {version} has {key} in {rows[0]['__shoal_rows']} rows.",
            hint="Name all columns that identify a row in keys, or leave one of the rows out.",
        )


def _sequenced(snapshot: DataFrame, version: Any) -> DataFrame:
    from pyspark.sql import functions as F

    return snapshot.withColumn(SEQUENCE, _literal(version)).withColumn(KIND, F.lit(UPSERT))


def _changes(
    events: DataFrame, snapshot: DataFrame, keys: tuple[str, ...], version: Any
) -> DataFrame:
    """The events that lead from the last known rows to those of a snapshot."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    by = [F.col(f"`{key}`") for key in keys]
    rank = F.row_number().over(Window.partitionBy(*by).orderBy(F.col(SEQUENCE).desc()))
    last = events.withColumn("__shoal_rank", rank).filter(F.col("__shoal_rank") == 1)
    last = last.filter(F.col(KIND) == UPSERT).drop("__shoal_rank")
    # The sequences tell the sides apart: those of the snapshot are the greatest.
    both = joined(last, snapshot)
    columns = both.columns
    values = [name for name in columns if name not in (SEQUENCE, KIND, *keys)]
    now = F.col(SEQUENCE) == _literal(version)
    both = both.withColumn(_SIDE, F.when(now, 1).otherwise(0))
    window = Window.partitionBy(*by).orderBy(_SIDE)
    other = F.lag(F.col(_SIDE)).over(window)
    differs = other.isNull()
    for name in values:
        column = F.col(f"`{name}`")
        differs = differs | ~column.eqNullSafe(F.lag(column).over(window))
    marked = both.withColumn("__shoal_differs", differs).withColumn(
        "__shoal_next", F.lead(F.col(_SIDE)).over(window)
    )
    wanted = ((F.col(_SIDE) == 1) & F.col("__shoal_differs")) | (
        (F.col(_SIDE) == 0) & F.col("__shoal_next").isNull()
    )
    kind = F.when(F.col(_SIDE) == 0, F.lit(DELETE)).otherwise(F.lit(UPSERT))
    kinds = {SEQUENCE: F.when(F.rand() < 2, _literal(version)), KIND: kind.cast("int")}
    return marked.filter(wanted).select(
        *(kinds.get(name, F.col(f"`{name}`")).alias(name) for name in columns)
    )


def _literal(version: Any) -> Column:
    from pyspark.sql import functions as F

    return F.lit(version).cast("bigint") if type(version) is int else F.lit(version)


def _packed(version: Any) -> list[str]:
    """A version as JSON can hold it."""
    if isinstance(version, bool) or not isinstance(
        version, (int, float, str, dt.datetime, dt.date)
    ):
        raise PipelineError(
            f"the snapshot's version {version!r} is a {type(version).__name__}.",
            hint="Return an integer, a string, a date or a timestamp.",
        )
    if isinstance(version, (dt.datetime, dt.date)):
        return [type(version).__name__, version.isoformat()]
    return ["json", json.dumps(version)]


def _unpacked(packed: list[str]) -> Any:
    kind, text = packed
    if kind == "json":
        return json.loads(text)
    return getattr(dt, kind).fromisoformat(text)
