"""Reads a version of a table whatever its protocol, or says which feature is in the way.

Polars reads tables with deletion vectors; delta-rs also those with column mapping and version 2
checkpoints. The embedded engine, and so ``shoal sql``, reads all that Spark 4.1 writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from shoal.errors import TableError
from shoal.lake.protocol import unreadable_files

if TYPE_CHECKING:
    import polars as pl
    from deltalake import DeltaTable

__all__ = ["DataFile", "data_files", "scan", "size"]

_BY_POLARS = {"deletionVectors", "timestampNtz"}
_BY_DELTA_RS = _BY_POLARS | {"columnMapping", "v2Checkpoint"}

# Path below the table's folder to size in bytes, rows or None, and partition values.
DataFile = tuple[int, int | None, Mapping[str, Any]]


def scan(table: DeltaTable, name: str) -> pl.LazyFrame:
    """A lazy Polars frame over the table's version.

    Raises:
        TableError: A feature of the table is understood by the engine only.
    """
    import polars as pl
    import pyarrow as pa

    asks = set(table.protocol().reader_features or ())
    if unreadable_files(table):
        asks.add("columnMapping")
    if strange := sorted(asks - _BY_DELTA_RS):
        raise TableError(
            f"{name} uses {', '.join(strange)}, which is read by the engine only.",
            hint=f"shoal sql reads it: SELECT * FROM {name}",  # noqa: S608  (a hint)
        )
    if asks <= _BY_POLARS:
        return pl.scan_delta(table, credential_provider=None)  # the environment, as delta-rs
    from deltalake import QueryBuilder

    rows = QueryBuilder().register("rows", table).execute("SELECT * FROM rows")
    frame = pl.from_arrow(pa.table(rows))
    assert isinstance(frame, pl.DataFrame)
    return frame.lazy()


def size(table: DeltaTable) -> tuple[int, int, int]:
    """Rows, files and bytes, without reading rows."""
    files = data_files(table)
    rows = sum(count or 0 for _, count, _ in files.values())
    return rows - _deleted(table), len(files), sum(size for size, _, _ in files.values())


def data_files(table: DeltaTable) -> dict[str, DataFile]:
    """The data files of the table's version, by path below its folder."""
    import pyarrow as pa

    adds = pa.table(table.get_add_actions())
    names = ("path", "size_bytes", "num_records", "partition")
    columns = [
        adds.column(name).to_pylist() if name in adds.column_names else [None] * adds.num_rows
        for name in names
    ]
    return {
        unquote(path): (size, rows, values or {})
        for path, size, rows, values in zip(*columns, strict=True)
    }


def _deleted(table: DeltaTable) -> int:
    """Rows that deletion vectors hide."""
    if "deletionVectors" not in (table.protocol().reader_features or ()):
        return 0
    import pyarrow as pa

    vectors = pa.table(table.deletion_vectors()).column("selection_vector").to_pylist()
    return sum(vector.count(False) for vector in vectors if vector)
