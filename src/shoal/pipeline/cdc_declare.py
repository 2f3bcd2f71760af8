"""Declarations of AUTO CDC flows, with Databricks' arguments where open Spark has fewer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pyspark.pipelines.flow import AutoCdcFlow

from shoal.errors import PipelineError
from shoal.pipeline.definitions import Cdc, Flow

if TYPE_CHECKING:
    from pyspark.sql import Column

    from shoal.lake import Lake

__all__ = [
    "DATABRICKS_NAMES",
    "create_auto_cdc_flow",
    "create_auto_cdc_from_snapshot_flow",
    "declare",
]


@dataclass(frozen=True)
class _Declared(AutoCdcFlow):
    """pyspark's declaration, with what it has no room for."""

    cdc: Cdc
    once: bool


def declare(flow: AutoCdcFlow, lake: Lake, location: str) -> Flow:
    """The flow of a declaration.

    Args:
        flow: What pyspark's or Shoal's ``create_auto_cdc_flow`` registered.
        lake: Gives names their schema.
        location: ``file:line`` of the call.

    Raises:
        PipelineError: Its arguments do not fit together.
    """
    if isinstance(flow, _Declared):
        cdc, once = flow.cdc, flow.once
    else:
        once = False
        cdc = Cdc(
            keys=_names(flow.keys) or (),
            sequence_by=flow.sequence_by,
            apply_as_deletes=flow.apply_as_deletes,
            column_list=_names(flow.column_list),
            except_column_list=_names(flow.except_column_list),
        )
    _check(cdc, location)
    if cdc.snapshots is not None:
        query = "SELECT 1 AS version"  # the function is called in the run
    else:
        read = f"`{'`.`'.join(flow.source.replace('`', '').split('.'))}`"
        query = f"FROM {read}" if cdc.snapshot or once else f"FROM STREAM({read})"
        query = f"SELECT * {query}"
    return Flow(
        name=flow.name or flow.target,
        target=lake.name(flow.target),
        query=query,
        location=location,
        cdc=cdc,
        once=once,
    )


def _check(cdc: Cdc, location: str) -> None:
    wrong: tuple[str, str] | None = None
    if not cdc.keys:
        wrong = "keys is empty", "Name the columns that identify a row: keys=['id']"
    elif cdc.scd_type not in (1, 2):
        wrong = (
            f"stored_as_scd_type is {cdc.scd_type!r}, which Shoal does not know",
            "Write 1 (the latest row per key) or 2 (the history).",
        )
    elif cdc.column_list is not None and cdc.except_column_list is not None:
        wrong = "both column_list and except_column_list are given", "Remove one of them."
    elif len(_nulls(cdc)) > 1:
        wrong = f"both {' and '.join(_nulls(cdc)[:2])} are given", "Remove one of them."
    elif (
        cdc.track_history_column_list is not None
        and cdc.track_history_except_column_list is not None
    ):
        wrong = (
            "both track_history_column_list and track_history_except_column_list are given",
            "Remove one of them.",
        )
    elif cdc.scd_type == 1 and (
        cdc.track_history_column_list is not None
        or cdc.track_history_except_column_list is not None
    ):
        wrong = "track_history_... is for stored_as_scd_type=2", "Remove it, or keep the history."
    elif cdc.scd_type == 2 and cdc.apply_as_truncates is not None:
        wrong = "apply_as_truncates is for stored_as_scd_type=1", "Remove it."
    elif not cdc.snapshot and cdc.sequence_by is None:
        wrong = "sequence_by is missing", "Name the column that orders the events."
    if wrong:
        raise PipelineError(f"{location}: {wrong[0]}.", hint=wrong[1])


def _nulls(cdc: Cdc) -> list[str]:
    names = ("ignore_null_updates_column_list", "ignore_null_updates_except_column_list")
    listed = [name for name in names if getattr(cdc, name) is not None]
    return [*(["ignore_null_updates"] if cdc.ignore_null_updates else []), *listed]


def create_auto_cdc_flow(  # noqa: PLR0917 - pyspark's own order
    target: str,
    source: str,
    keys: Sequence[str | Column],
    sequence_by: str | Column,
    apply_as_deletes: str | Column | None = None,
    column_list: Sequence[str | Column] | None = None,
    except_column_list: Sequence[str | Column] | None = None,
    stored_as_scd_type: int | str | None = None,
    name: str | None = None,
    *,
    ignore_null_updates: bool = False,
    ignore_null_updates_column_list: Sequence[str | Column] | None = None,
    ignore_null_updates_except_column_list: Sequence[str | Column] | None = None,
    apply_as_truncates: str | Column | None = None,
    track_history_column_list: Sequence[str | Column] | None = None,
    track_history_except_column_list: Sequence[str | Column] | None = None,
    once: bool = False,
) -> None:
    """Declares a flow that merges a stream of change events into a streaming table.

    Late events never overwrite newer ones, in whichever run they come. Of two events of one key
    and one sequence the delete wins, then the larger values.

    Args:
        target: The streaming table.
        source: What is streamed: a table or a temporary view.
        keys: Columns that identify a row.
        sequence_by: Orders the events of one key; may be ``struct(...)``; never null.
        apply_as_deletes: Condition of events that delete their key.
        column_list: Columns to keep.
        except_column_list: Columns to leave out.
        stored_as_scd_type: 1 (default) keeps the latest row per key; 2 the history, with
            ``__START_AT`` and ``__END_AT``.
        name: The flow's name; the target's when it is None.
        ignore_null_updates: A null in an event leaves the column as it was.
        ignore_null_updates_column_list: Only in these columns.
        ignore_null_updates_except_column_list: In all columns but these.
        apply_as_truncates: Condition of events that delete all rows; type 1 only.
        track_history_column_list: Type 2: only changes of these columns make a new version.
        track_history_except_column_list: Type 2: changes of these columns make none.
        once: The source is read as a whole, once, and again at a full refresh.

    Raises:
        PipelineError: The arguments do not fit together.
    """
    _register(
        target,
        source,
        name,
        Cdc(
            keys=_names(keys) or (),
            sequence_by=sequence_by,
            ignore_null_updates=ignore_null_updates,
            ignore_null_updates_column_list=_names(ignore_null_updates_column_list),
            ignore_null_updates_except_column_list=_names(ignore_null_updates_except_column_list),
            apply_as_deletes=apply_as_deletes,
            apply_as_truncates=apply_as_truncates,
            column_list=_names(column_list),
            except_column_list=_names(except_column_list),
            scd_type=_scd(stored_as_scd_type),
            track_history_column_list=_names(track_history_column_list),
            track_history_except_column_list=_names(track_history_except_column_list),
        ),
        once=once,
    )


def create_auto_cdc_from_snapshot_flow(
    target: str,
    source: str | Callable[[Any], Any],
    keys: Sequence[str | Column],
    stored_as_scd_type: int | str | None = None,
    track_history_column_list: Sequence[str | Column] | None = None,
    track_history_except_column_list: Sequence[str | Column] | None = None,
    name: str | None = None,
) -> None:
    """Declares a flow that merges whole snapshots into a streaming table.

    Args:
        target: The streaming table.
        source: A table or view, of which each run that finds it changed takes one snapshot, with
            the run's time as its version; or a function that is given the last version (None at
            first) and returns ``(DataFrame, version)``, or None when there is no newer one.
        keys: Columns that identify a row; unique in each snapshot.
        stored_as_scd_type: 1 (default) keeps the latest rows; 2 the history.
        track_history_column_list: Type 2: only changes of these columns make a new version.
        track_history_except_column_list: Type 2: changes of these columns make none.
        name: The flow's name; the target's when it is None.

    Raises:
        PipelineError: The arguments do not fit together.
    """
    function = source if callable(source) else None
    _register(
        target,
        "" if callable(source) else source,
        name,
        Cdc(
            keys=_names(keys) or (),
            scd_type=_scd(stored_as_scd_type),
            track_history_column_list=_names(track_history_column_list),
            track_history_except_column_list=_names(track_history_except_column_list),
            snapshot=True,
            snapshots=function,
        ),
    )


def _register(target: str, source: str, name: str | None, cdc: Cdc, *, once: bool = False) -> None:
    from pyspark.pipelines.graph_element_registry import get_active_graph_element_registry
    from pyspark.pipelines.source_code_location import get_caller_source_code_location

    get_active_graph_element_registry().register_auto_cdc_flow(
        _Declared(
            name=name or target,
            target=target,
            source=source,
            keys=[],
            sequence_by=None,  # type: ignore[arg-type]
            apply_as_deletes=None,
            column_list=None,
            except_column_list=None,
            stored_as_scd_type=None,
            source_code_location=get_caller_source_code_location(stacklevel=2),
            cdc=replace(cdc),
            once=once,
        )
    )


def _scd(value: int | str | None) -> Any:
    known: dict[Any, int] = {None: 1, "1": 1, "2": 2}
    return known.get(value, value)


def _names(columns: Sequence[str | Column] | None) -> tuple[str, ...] | None:
    if columns is None:
        return None
    if isinstance(columns, str):
        columns = [columns]
    return tuple(
        (c if isinstance(c, str) else str(c).removeprefix("Column<'").removesuffix("'>")).strip("`")
        for c in columns
    )


DATABRICKS_NAMES: dict[str, Callable[..., None]] = {
    "create_auto_cdc_flow": create_auto_cdc_flow,
    "create_auto_cdc_from_snapshot_flow": create_auto_cdc_from_snapshot_flow,
    "apply_changes": create_auto_cdc_flow,
    "apply_changes_from_snapshot": create_auto_cdc_from_snapshot_flow,
}
