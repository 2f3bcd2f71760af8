"""AUTO CDC: streams of change events, merged by key into a streaming table.

A run reads the new events, joins them with those that earlier runs kept (`cdc_state`), and writes
the table anew from what can still matter of both (`cdc_merge`), in one commit with progress and
state. Expectations on the target hold for its rows after the merge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from shoal.errors import PipelineError, nearest
from shoal.pipeline.cdc_declare import DATABRICKS_NAMES, declare
from shoal.pipeline.cdc_merge import DELETE, KIND, SEQUENCE, TRUNCATE, UPSERT, Rules, kept, merged
from shoal.pipeline.cdc_merge import parts as sequence_parts
from shoal.pipeline.cdc_state import before, joined, others, staged, write
from shoal.pipeline.cdc_touched import goes_on, target, with_keys, without_keys
from shoal.pipeline.frames import Built, Place, pinned

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from shoal.pipeline.definitions import Cdc

__all__ = ["DATABRICKS_NAMES", "build", "declare", "rules_note"]


def build(place: Place) -> Built:
    """The target's rows after the new events, with the state that goes with them.

    Raises:
        PipelineError: A column is unknown, a sequence is null, or the state does not fit.
    """
    cdc = place.work.query.flow.cdc
    assert cdc is not None
    if cdc.snapshot:
        from shoal.pipeline import cdc_snapshot

        return cdc_snapshot.build(place)
    events = staged(place, _events(pinned(place).drop("_metadata"), cdc))
    _check_sequence(events, cdc)
    note = rules_note(cdc)
    known = before(place, note)
    if known is not None and known.events is not None:
        if goes_on(place, known.events, events):
            return _touched(place, cdc, known.events, events)
        events = joined(known.events, events)
    rules = _rules(cdc, events)
    name, stored = write(place, note, kept(events, rules))
    assert stored is not None
    if not place.last:
        return Built(frame=None, overwrite=True, state=name)
    beside = others(place, note)
    for more in beside:
        stored = joined(stored, more)
    rules = _rules(cdc, stored)
    rows = merged(kept(stored, rules) if beside else stored, rules)
    return Built(frame=rows, overwrite=True, state=name)


def _touched(place: Place, cdc: Cdc, known: DataFrame, events: DataFrame) -> Built:
    """The target with just the keys of the new events merged again.

    A key's rows follow from its own events, so those of other keys stay as they are.
    """
    rules = _rules(cdc, events)
    keys = events.select(*(_column(key) for key in rules.keys)).distinct()
    again = staged(place, kept(with_keys(known, keys).unionByName(events), rules))
    name, _ = write(place, rules_note(cdc), without_keys(known, keys).unionByName(again))
    rows = merged(again, rules)
    stay = without_keys(target(place), keys)
    same = [_column(field.name).cast(field.dataType).alias(field.name) for field in rows.schema]
    return Built(frame=stay.select(*same).unionAll(rows), overwrite=True, state=name)


def _column(name: str) -> Column:
    from pyspark.sql import functions as F

    return F.col(f"`{name}`")


def _rules(cdc: Cdc, events: DataFrame) -> Rules:
    return rules_of(cdc, [name for name in events.columns if name not in (SEQUENCE, KIND)])


def rules_note(cdc: Cdc) -> dict[str, Any]:
    """What must be the same of all flows, and runs, whose events are merged with each other."""
    lists = {
        name: list(map(str, columns))
        for name in ("ignore_null_updates_column_list", "ignore_null_updates_except_column_list")
        if (columns := getattr(cdc, name)) is not None
    }
    return {
        "keys": list(map(str, cdc.keys)),
        "stored_as_scd_type": cdc.scd_type,
        "ignore_null_updates": cdc.ignore_null_updates,
        **lists,
    }


def rules_of(cdc: Cdc, columns: Sequence[str]) -> Rules:
    """The rules of a flow whose rows have these columns."""
    keys = tuple(named(cdc.keys, columns, "keys"))
    rest = [name for name in columns if name not in keys]
    tracked = rest
    if cdc.track_history_column_list is not None:
        tracked = named(cdc.track_history_column_list, columns, "track_history_column_list")
    if cdc.track_history_except_column_list is not None:
        lost = named(
            cdc.track_history_except_column_list, columns, "track_history_except_column_list"
        )
        tracked = [name for name in rest if name not in lost]
    return Rules(
        keys=keys,
        scd_type=cdc.scd_type,
        fills=frozenset(_fills(cdc, columns, rest)),
        tracked=tuple(tracked),
        truncates=cdc.apply_as_truncates is not None,
    )


def _fills(cdc: Cdc, columns: Sequence[str], rest: Sequence[str]) -> Sequence[str]:
    """The columns in which a null leaves the value as it was; keys have none."""
    only, but = cdc.ignore_null_updates_column_list, cdc.ignore_null_updates_except_column_list
    if only is not None:
        wanted = named(only, columns, "ignore_null_updates_column_list")
        return [name for name in rest if name in wanted]
    if but is not None:
        lost = named(but, columns, "ignore_null_updates_except_column_list")
        return [name for name in rest if name not in lost]
    return rest if cdc.ignore_null_updates else ()


def named(wanted: Sequence[Any], columns: Sequence[str], argument: str) -> list[str]:
    """The columns that a list names, in any case, as they are spelled.

    Raises:
        PipelineError: A column is not there; the message has the nearest.
    """
    known = {name.lower(): name for name in columns}
    for name in wanted:
        if str(name).lower() not in known:
            close = nearest(str(name), list(columns))
            raise PipelineError(
                f"{argument} names '{name}', which the source does not have; it has "
                f"{', '.join(columns)}.",
                hint=f"Did you mean '{close}'?" if close else f"Mend {argument}.",
            )
    return [known[str(name).lower()] for name in wanted]


def chosen(cdc: Cdc, columns: Sequence[str]) -> list[str]:
    """The source's columns that the target has.

    Raises:
        PipelineError: A column is unknown, or a key is left out.
    """
    keys = named(cdc.keys, columns, "keys")
    found = list(columns)
    if cdc.column_list is not None:
        found = named(cdc.column_list, columns, "column_list")
    if cdc.except_column_list is not None:
        lost = named(cdc.except_column_list, columns, "except_column_list")
        found = [name for name in columns if name not in lost]
    missing = [key for key in keys if key not in found]
    if missing:
        raise PipelineError(
            f"the key '{missing[0]}' is not among the columns of the target ({', '.join(found)}).",
            hint="Add it to column_list, or take it out of except_column_list.",
        )
    return found


def _events(frame: DataFrame, cdc: Cdc) -> DataFrame:
    from pyspark.sql import functions as F

    columns = chosen(cdc, frame.columns)
    rules_of(cdc, columns)
    kind = F.lit(UPSERT)
    if cdc.apply_as_deletes is not None:
        deletes = _expression(frame, cdc.apply_as_deletes, "apply_as_deletes")
        kind = F.when(deletes, F.lit(DELETE)).otherwise(kind)
    if cdc.apply_as_truncates is not None:
        truncates = _expression(frame, cdc.apply_as_truncates, "apply_as_truncates")
        kind = F.when(truncates, F.lit(TRUNCATE)).otherwise(kind)
    assert cdc.sequence_by is not None
    sequence = _expression(frame, cdc.sequence_by, "sequence_by")
    return frame.select(
        *(F.col(f"`{name}`") for name in columns),
        sequence.alias(SEQUENCE),
        kind.cast("int").alias(KIND),
    )


def _expression(frame: DataFrame, value: str | Column, argument: str) -> Column:
    from pyspark.errors import PySparkException
    from pyspark.sql import functions as F

    column = F.expr(value) if isinstance(value, str) else value
    try:
        _ = frame.select(column.alias("value")).schema
    except PySparkException as error:
        text = value if isinstance(value, str) else str(value)
        close = nearest(text, frame.columns)
        raise PipelineError(
            f"{argument} '{text}' does not fit the source's columns "
            f"({', '.join(frame.columns)}): {str(error).splitlines()[0]}",
            hint=f"Did you mean '{close}'?" if close else f"Mend {argument}.",
        ) from error
    return column


def _check_sequence(events: DataFrame, cdc: Cdc) -> None:
    null = None
    for part in sequence_parts(events):
        null = part.isNull() if null is None else null | part.isNull()
    assert null is not None
    rows = events.filter(null).limit(1).collect()
    if rows:
        keys = ", ".join(f"{key} = {rows[0][str(key)]!r}" for key in cdc.keys if key in rows[0])
        raise PipelineError(
            f"an event has no sequence: sequence_by is null where {keys}; nothing was written.",
            hint="Leave such events out in a view, or give sequence_by a value for them.",
        )
