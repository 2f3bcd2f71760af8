"""What sources declare: datasets, and the flows that fill them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

from shoal.lake import TableName
from shoal.pipeline.expectations import Expectation

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

__all__ = ["Cdc", "Dataset", "Flow", "Kind", "LocalFunction"]


class Kind(StrEnum):
    """Kinds of datasets."""

    STREAMING_TABLE = "streaming table"
    MATERIALIZED_VIEW = "materialized view"
    TEMPORARY_VIEW = "temporary view"
    SINK = "sink"


@dataclass(frozen=True, kw_only=True)
class Cdc:
    """How a flow of change events, or of snapshots, is merged into its target by key.

    The words are those of ``create_auto_cdc_flow``.

    Args:
        keys: Columns that identify a row.
        sequence_by: Orders the events of one key; None for snapshots.
        ignore_null_updates: A null in an event leaves the column as it was.
        ignore_null_updates_column_list: Columns of which that is true; None means none.
        ignore_null_updates_except_column_list: Columns of which it is not; None means none.
        apply_as_deletes: Condition of events that delete their key.
        apply_as_truncates: Condition of events that delete all rows; type 1 only.
        column_list: Columns to keep; None means all.
        except_column_list: Columns to leave out.
        scd_type: 1 keeps the latest row per key, 2 the history.
        track_history_column_list: Type 2: only changes of these columns make a new version.
        track_history_except_column_list: Type 2: changes of these columns make none.
        snapshot: The source gives whole snapshots instead of events.
        snapshots: Gives ``(snapshot, version)`` after a version, or None when there is no more.
    """

    keys: tuple[str | Column, ...]
    sequence_by: str | Column | None = None
    ignore_null_updates: bool = False
    ignore_null_updates_column_list: tuple[str | Column, ...] | None = None
    ignore_null_updates_except_column_list: tuple[str | Column, ...] | None = None
    apply_as_deletes: str | Column | None = None
    apply_as_truncates: str | Column | None = None
    column_list: tuple[str | Column, ...] | None = None
    except_column_list: tuple[str | Column, ...] | None = None
    scd_type: Literal[1, 2] = 1
    track_history_column_list: tuple[str | Column, ...] | None = None
    track_history_except_column_list: tuple[str | Column, ...] | None = None
    snapshot: bool = False
    snapshots: Callable[[Any], tuple[DataFrame, Any] | None] | None = None


@dataclass(frozen=True, kw_only=True)
class LocalFunction:
    """A flow that is a plain function of tables, run in this process and not by the engine.

    Args:
        language: What the function takes and gives: ``polars``, ``arrow``, ``pandas`` or ``r``.
        inputs: The tables it reads, in the order of its arguments.
        streaming: Those of them of which it gets only the new rows.
        call: The function.
        source: Gives text that says what it does; another text is another definition.
    """

    language: Literal["polars", "arrow", "pandas", "r"]
    inputs: tuple[str, ...]
    call: Callable[..., Any]
    source: Callable[[], str]
    streaming: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Flow:
    """A query that fills a dataset.

    Args:
        name: The flow's name; its progress is kept under it.
        target: The dataset it fills.
        query: A function that gives a DataFrame, or SQL text.
        location: ``file:line`` of the declaration.
        expectations: Conditions on the rows it gives.
        cdc: How its rows are merged into the target; None means that they are appended.
        local: The function that gives its rows, where no engine does; ``query`` is not called.
        once: It runs once, over all rows of what it reads, and again at a full refresh.
    """

    name: str
    target: TableName
    query: Callable[[], Any] | str
    location: str
    expectations: tuple[Expectation, ...] = ()
    cdc: Cdc | None = None
    local: LocalFunction | None = None
    once: bool = False


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A declared table or view.

    Args:
        name: Its name.
        kind: Streaming table, materialized view, temporary view or sink.
        location: ``file:line`` of the declaration.
        comment: Description for the catalog.
        partition_by: Partition columns.
        schema: Declared columns: a ``StructType`` or DDL text.
        properties: Delta table properties.
        expectations: Conditions on all rows, whichever flow gives them.
        cluster_by: Columns by which files are kept together.
        format: Format of a sink.
        options: Options of a sink.
    """

    name: TableName
    kind: Kind
    location: str
    comment: str | None = None
    partition_by: tuple[str, ...] = ()
    schema: Any = None
    properties: Mapping[str, str] = field(default_factory=dict)
    expectations: tuple[Expectation, ...] = ()
    cluster_by: tuple[str, ...] = ()
    format: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
