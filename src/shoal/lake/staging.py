"""Parquet files that an engine wrote and no version holds yet."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from shoal.store import Stored, open_store, parquet_footer

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["NULL_PARTITION", "Staged", "delta_schema", "staged_files"]

_LONGEST_TEXT = 32
_AT_ONCE = 16
# The folder name of null, as Hive, Spark and every reader of partitioned files have it.
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True, kw_only=True)
class Staged:
    """One staged Parquet file.

    Args:
        path: Absolute path, or URL.
        size: Bytes.
        rows: Rows, from the file's footer.
        stats: Delta's per-file statistics as JSON (Delta protocol, "Per-file Statistics").
        partition: Values of the partition columns, read from the folder names.
    """

    path: str
    size: int
    rows: int
    stats: str
    partition: dict[str, str | None] = field(default_factory=dict)

    def count_present(self, column: str) -> int:
        """Rows in which a column is not null; 0 when the file has no such column."""
        nulls = json.loads(self.stats)["nullCount"].get(column)
        return 0 if nulls is None else self.rows - nulls


def staged_files(folder: str | Path) -> list[Staged]:
    """The Parquet files below a folder or URL with what their footers say; rows are not read."""
    store = open_store(folder)
    written = [file for file in store.files() if file.name.endswith(".parquet")]

    def staged(file: Stored) -> Staged:
        partition = _partition(file.name)
        name = _spelled(file.name, partition)
        if name != file.name:
            store.move(file.name, name)
        footer = parquet_footer(store.path(name), file.size)
        return Staged(
            path=store.path(name),
            size=file.size,
            rows=footer.num_rows,
            stats=footer_stats(footer),
            partition=partition,
        )

    if store.local or len(written) < 2:
        return [staged(file) for file in written]
    with ThreadPoolExecutor(min(_AT_ONCE, len(written))) as pool:  # it is waiting, not work
        return list(pool.map(staged, written))


def _spelled(name: str, partition: Mapping[str, str | None]) -> str:
    """A file's name below folder names that every reader understands.

    Polars takes partition values from the folders' names, not from the log, and Sail 0.7.2 writes
    null as ``x=`` and leaves ``=`` as it is.
    """
    values = iter(partition.items())
    *folders, file = name.split("/")
    parts = []
    for part in folders:
        if "=" in part:
            column, value = next(values)
            text = NULL_PARTITION if value is None else quote(value, safe="")
            parts.append(f"{quote(column, safe='')}={text}")
        else:
            parts.append(part)
    return "/".join([*parts, file])


def _partition(name: str) -> dict[str, str | None]:
    values: dict[str, str | None] = {}
    for part in name.split("/")[:-1]:
        column, equals, value = part.partition("=")
        if equals:
            text = unquote(value)
            values[unquote(column)] = None if text in ("", NULL_PARTITION) else text
    return values


def footer_stats(footer: pq.FileMetaData) -> str:
    """Row count, null counts and bounds.

    Bounds are given where they are exact and safe for file skipping: not for floating point (a
    NaN lies outside what Parquet records) and not for long text (which writers truncate).
    """
    nulls: dict[str, int] = {}
    low: dict[str, Any] = {}
    high: dict[str, Any] = {}
    for index in range(footer.num_columns):
        name = footer.schema.column(index).path
        if footer.schema.column(index).max_repetition_level or "." in name:
            continue
        groups = [
            footer.row_group(g).column(index).statistics for g in range(footer.num_row_groups)
        ]
        if not groups or any(group is None or group.null_count is None for group in groups):
            continue
        nulls[name] = sum(group.null_count for group in groups)
        bounded = [group for group in groups if group.has_min_max]
        if len(bounded) < len([g for g in groups if g.num_values]) or not bounded:
            continue
        first = _bound(min(group.min for group in bounded))
        last = _bound(max(group.max for group in bounded), up=True)
        if first is not None and last is not None:
            low[name], high[name] = first, last
    # Plain UTF-8: delta-rs 1.6 reads the escaped pair of a character past U+FFFF as another one.
    return json.dumps(
        {"numRecords": footer.num_rows, "minValues": low, "maxValues": high, "nullCount": nulls},
        ensure_ascii=False,
    )


def _bound(value: object, *, up: bool = False) -> object:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str):
        return value if len(value) <= _LONGEST_TEXT else None
    if isinstance(value, dt.datetime):
        # Delta keeps milliseconds here: round outwards so that no row lies outside the bounds.
        floor = value.replace(microsecond=value.microsecond // 1000 * 1000)
        if up and floor != value:
            floor += dt.timedelta(milliseconds=1)
        if floor.tzinfo is None:  # TIMESTAMP_NTZ: the clock time, whatever the machine's zone
            return floor.isoformat(timespec="milliseconds")
        return floor.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, dt.date):
        return value.isoformat()
    return None


def delta_schema(schema: pa.Schema) -> pa.Schema:
    """The schema as Delta can hold it: nullable, microseconds, UTC.

    Args:
        schema: An Arrow schema as an engine wrote it.
    """
    import pyarrow as pa

    return pa.schema([pa.field(f.name, _delta_type(f.type), nullable=True) for f in schema])


def _delta_type(kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    is_ = pa.types
    if is_.is_timestamp(kind):
        return pa.timestamp("us", tz="UTC" if kind.tz else None)
    if is_.is_dictionary(kind):
        return _delta_type(kind.value_type)
    if is_.is_list(kind) or is_.is_large_list(kind):
        return pa.list_(pa.field("element", _delta_type(kind.value_type)))
    if is_.is_struct(kind):
        return pa.struct([pa.field(f.name, _delta_type(f.type)) for f in kind])
    if is_.is_map(kind):
        return pa.map_(_delta_type(kind.key_type), _delta_type(kind.item_type))
    narrow = {
        pa.large_string(): pa.string(),
        pa.string_view(): pa.string(),
        pa.null(): pa.string(),
        pa.large_binary(): pa.binary(),
        pa.binary_view(): pa.binary(),
        pa.uint8(): pa.int16(),
        pa.uint16(): pa.int32(),
        pa.uint32(): pa.int64(),
        pa.uint64(): pa.int64(),
    }
    return narrow.get(kind, kind)
