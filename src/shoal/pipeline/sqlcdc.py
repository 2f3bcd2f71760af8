"""``APPLY CHANGES INTO`` and ``AUTO CDC INTO``: flows of change events in SQL.

Grammar: Databricks' ``AUTO CDC ... INTO``; ``APPLY CHANGES`` is its old name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shoal.errors import PipelineError
from shoal.pipeline.definitions import Cdc, Flow

if TYPE_CHECKING:
    from shoal.lake import TableName
    from shoal.pipeline.sqltext import Reader

__all__ = ["read_cdc"]

_CLAUSES = (
    "KEYS (",
    "WHERE",
    "IGNORE NULL UPDATES",
    "APPLY AS DELETE WHEN",
    "APPLY AS TRUNCATE WHEN",
    "SEQUENCE BY",
    "COLUMNS",
    "STORED AS",
    "TRACK HISTORY ON",
)


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """A list of columns, or all except some."""

    only: tuple[str, ...] | None = None
    but: tuple[str, ...] | None = None


def read_cdc(reader: Reader, target: TableName, name: str, *, once: bool = False) -> Flow:
    """Reads what follows the target: ``FROM STREAM(source) KEYS (...) SEQUENCE BY ...``.

    Args:
        reader: Stands behind the target's name.
        target: The table that the events are merged into.
        name: The flow's name.
        once: The source is read as a whole, once.

    Raises:
        PipelineError: A clause is wrong, missing, or written twice.
    """
    if not reader.take("FROM"):
        raise reader.error("FROM STREAM(source)")
    source = reader.written(reader.until(*_CLAUSES))
    if not once and not re.match(r"STREAM\b", source, re.IGNORECASE):
        source = f"STREAM({source})"
    given = _clauses(reader)
    where = f" WHERE {given['WHERE']}" if "WHERE" in given else ""
    columns, history = (given.get(key, _Columns()) for key in ("COLUMNS", "TRACK HISTORY ON"))
    some = given.get("IGNORE NULL UPDATES")
    nulls = some if isinstance(some, _Columns) else _Columns()
    cdc = Cdc(
        keys=given["KEYS ("],
        sequence_by=given["SEQUENCE BY"],
        ignore_null_updates=given.get("IGNORE NULL UPDATES") is True,
        ignore_null_updates_column_list=nulls.only,
        ignore_null_updates_except_column_list=nulls.but,
        apply_as_deletes=given.get("APPLY AS DELETE WHEN"),
        apply_as_truncates=given.get("APPLY AS TRUNCATE WHEN"),
        column_list=columns.only,
        except_column_list=columns.but,
        scd_type=given.get("STORED AS", 1),
        track_history_column_list=history.only,
        track_history_except_column_list=history.but,
    )
    if cdc.scd_type == 1 and "TRACK HISTORY ON" in given:
        raise _misfit(reader, "TRACK HISTORY ON needs STORED AS SCD TYPE 2")
    if cdc.scd_type == 2 and cdc.apply_as_truncates is not None:
        raise _misfit(reader, "APPLY AS TRUNCATE WHEN goes with STORED AS SCD TYPE 1 only")
    query = f"SELECT * FROM {source}{where}"  # noqa: S608 - the person's own text
    return Flow(name=name, target=target, query=query, location=reader.location, cdc=cdc, once=once)


def _clauses(reader: Reader) -> dict[str, Any]:
    given: dict[str, Any] = {}
    while not reader.ended:
        clause = next((clause for clause in _CLAUSES if reader.sees(clause)), None)
        if clause is None:
            raise reader.error("KEYS, SEQUENCE BY or another clause of AUTO CDC")
        if clause in given:
            raise reader.error(f"{clause.rstrip(' (')} only once")
        reader.take(clause.rstrip(" ("))  # the bracket belongs to the list
        given[clause] = _value(reader, clause)
    for clause in ("KEYS (", "SEQUENCE BY"):
        if not given.get(clause):
            raise reader.error(f"{clause.rstrip(' (')} ...")
    return given


def _value(reader: Reader, clause: str) -> Any:
    if clause == "KEYS (":
        return tuple(reader.list_())
    if clause == "IGNORE NULL UPDATES":
        return _columns(reader) if reader.take("ON") else True
    if clause == "STORED AS":
        for kind in (1, 2):
            if reader.take(f"SCD TYPE {kind}"):
                return kind
        raise reader.error("SCD TYPE 1 or SCD TYPE 2")
    if clause in {"COLUMNS", "TRACK HISTORY ON"}:
        return _columns(reader)
    return reader.written(reader.until(*_CLAUSES))


def _columns(reader: Reader) -> _Columns:
    if reader.take("*"):
        if not reader.take("EXCEPT"):
            raise reader.error("EXCEPT (columns)")
        return _Columns(but=tuple(reader.list_()))
    if reader.word() == "(":
        return _Columns(only=tuple(reader.list_()))
    names = "".join(token.text for token in reader.until(*_CLAUSES))
    return _Columns(only=tuple(names.split(",")))


def _misfit(reader: Reader, what: str) -> PipelineError:
    return PipelineError(f"{reader.location}: {what}.", hint="Mend or remove the clause.")
