"""What a flow of change events keeps beside its progress: the events that can still matter."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shoal.engines import engine_path
from shoal.errors import PipelineError
from shoal.lake import flows
from shoal.store import open_store, path_in

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.types import DataType, StructType

    from shoal.pipeline.frames import Place

__all__ = ["Kept", "before", "joined", "others", "staged", "write"]

_FORMAT = 1
_NUMBERS = ("tinyint", "smallint", "int", "bigint", "float", "double")


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What an earlier run left.

    Args:
        events: Its events; None when it has none.
        note: What else it wrote down.
    """

    events: DataFrame | None
    note: Mapping[str, Any]


def before(place: Place, rules: Mapping[str, Any]) -> Kept | None:
    """What the last run left; None when the table is made from the start.

    Raises:
        PipelineError: It was made by other rules, or is gone.
    """
    known = place.work.before
    if place.full or known.state is None:
        return None
    return _kept(place, known.flow, known.state, rules)


def others(place: Place, rules: Mapping[str, Any]) -> list[DataFrame]:
    """The events that the table's other flows keep: as of this run, or of their last.

    A flow that is declared no more keeps its events until the table is made anew.

    Raises:
        PipelineError: They were made by other rules, or are gone.
    """
    own = place.work.before.flow
    names = {} if place.full else dict.fromkeys(flows(place.table), "")
    found = []
    for name in sorted(names | dict(place.states)):
        state = place.states.get(name) or place.table.progress(name).state
        if name != own and state is not None:
            found.append(_kept(place, name, state, rules).events)
    return [events for events in found if events is not None]


def _kept(place: Place, flow: str, state: str, rules: Mapping[str, Any]) -> Kept:
    folder = place.table.state_path(flow, state)
    again = f"shoal run --full-refresh {place.node.name}"
    try:
        note: dict[str, Any] = json.loads(open_store(folder).read("state.json"))
    except (OSError, ValueError):
        raise PipelineError(
            f"the events that '{place.node.name}' was made from are gone ({folder}).",
            hint=f"Read them again: {again}",
        ) from None
    if note["format"] != _FORMAT or note.get("rules") != dict(rules):
        was = {
            name: value for name, value in note.get("rules", {}).items() if rules.get(name) != value
        }
        raise PipelineError(
            f"'{place.node.name}' was made with {was or 'another format'}; what it kept does not "
            "fit the declaration now.",
            hint=f"Make it anew: {again}",
        )
    events = _read(place, path_in(folder, "events"), note["schema"]) if note["schema"] else None
    return Kept(events=events, note=note)


def write(
    place: Place, rules: Mapping[str, Any], events: DataFrame | None, **more: Any
) -> tuple[str, DataFrame | None]:
    """Keeps events for the next run; gives the state's name, and the events as stored."""
    name, path = place.table.new_state(place.work.before.flow, place.work.before.number + 1)
    folder, schema = path, None
    if events is not None:
        schema = events.schema.jsonValue()
        events.write.parquet(engine_path(path_in(folder, "events"), place.engine.spark))
        events = _read(place, path_in(folder, "events"), schema)
    note = {"format": _FORMAT, "rules": dict(rules), "schema": schema, **more}
    open_store(folder).write("state.json", json.dumps(note).encode())
    return name, events


def staged(place: Place, frame: DataFrame) -> DataFrame:
    """The rows of a query, computed once."""
    folder = place.handed(f"events-{uuid.uuid4().hex[:8]}")
    schema = frame.schema
    frame.write.parquet(folder)
    return _read(place, folder, schema.jsonValue())


def joined(old: DataFrame, new: DataFrame) -> DataFrame:
    """The rows of both; a column that only one has is null in the other's.

    Raises:
        PipelineError: A column changed to a type that does not fit.
    """
    from pyspark.sql import functions as F

    kinds: dict[str, DataType] = {field.name: field.dataType for field in old.schema.fields}
    for field in new.schema.fields:
        kinds[field.name] = _common(field.name, kinds.get(field.name), field.dataType)

    def cast(frame: DataFrame) -> DataFrame:
        # Sail 0.7.2 loses columns when it folds a filter over a constant column in a union.
        null = F.when(F.rand() > 2, F.lit(1))
        return frame.select(
            *(
                (F.col(f"`{name}`") if name in frame.columns else null.cast("string"))
                .cast(kind)
                .alias(name)
                if name not in frame.columns or frame.schema[name].dataType != kind
                else F.col(f"`{name}`")
                for name, kind in kinds.items()
            )
        )

    return cast(old).unionAll(cast(new))


def _common(name: str, old: DataType | None, new: DataType) -> DataType:
    if old is None or old == new or old.simpleString() == new.simpleString():
        return new if old is None else old
    words = (old.simpleString(), new.simpleString())
    if all(word in _NUMBERS for word in words):
        return max((old, new), key=lambda kind: _NUMBERS.index(kind.simpleString()))
    raise PipelineError(
        f"the column '{name}' was {words[0]} in earlier events and is {words[1]} now.",
        hint="Cast it in a view that the flow reads, or rebuild the table with --full-refresh.",
    )


def _read(place: Place, folder: str, schema: Any) -> DataFrame:
    from pyspark.sql.types import StructType

    columns: StructType = StructType.fromJson(schema)
    if not any(file.name.endswith(".parquet") for file in open_store(folder).files()):
        return place.engine.spark.createDataFrame([], columns)
    return place.engine.spark.read.schema(columns).parquet(engine_path(folder, place.engine.spark))
