"""Which rows lie in which row group of which Parquet file of a table's version."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from shoal.errors import TableError
from shoal.lake.protocol import unreadable_files
from shoal.lake.reading import data_files

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable

    from shoal.lake.table import Table

__all__ = ["row_groups"]


def row_groups(
    table: Table, version: int, columns: Sequence[str]
) -> Iterator[tuple[str, int, pa.Table]]:
    """Some columns of each row group of a version's files.

    Args:
        table: The table.
        version: Its version.
        columns: Which columns; partition columns are given, too.

    Yields:
        The file's path below the table's folder, the row group's number from 0, and its rows.

    Raises:
        TableError: The version or one of its files is gone, or the files name columns otherwise.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    opened = table._open(version)
    if why := unreadable_files(opened):
        raise TableError(f"{table.name} uses {why}: its files cannot be read by themselves.")
    schema = pa.schema(opened.schema().to_arrow())
    hidden = _hidden(opened)
    for name, (_, _, partition) in sorted(data_files(opened).items()):
        try:
            stream = table.store.open(name)
        except FileNotFoundError:
            raise TableError(
                f"The file {name} of {table.name} version {version} is gone; it was vacuumed."
            ) from None
        with stream, pq.ParquetFile(stream) as file:
            inside = [column for column in columns if column in file.schema_arrow.names]
            seen = 0
            for number in range(file.num_row_groups):
                rows = file.read_row_group(number, columns=inside)
                count = file.metadata.row_group(number).num_rows
                for column in columns:
                    if column not in inside:
                        kind = schema.field(column).type
                        value = pa.scalar(partition.get(column)).cast(kind)
                        rows = rows.append_column(column, pa.repeat(value, count))
                if (mask := hidden.get(name)) is not None:
                    rows = rows.filter(pa.array(mask[seen : seen + count], pa.bool_()))
                seen += count
                yield name, number, rows.select(list(columns))


def _hidden(table: DeltaTable) -> dict[str, list[bool]]:
    """Of files with a deletion vector: whether each row still counts."""
    if "deletionVectors" not in (table.protocol().reader_features or ()):
        return {}
    import pyarrow as pa

    vectors = pa.table(table.deletion_vectors())
    names = list(data_files(table))
    found = {}
    for path, mask in zip(*(vectors.column(i).to_pylist() for i in (0, 1)), strict=True):
        name = next((name for name in names if path.endswith(name)), None)
        if name is not None and mask:
            size = next(rows for n, (_, rows, _) in data_files(table).items() if n == name) or 0
            found[name] = [*mask, *[True] * (size - len(mask))]
    return found
