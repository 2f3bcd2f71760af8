"""What a person wants to know of a table at a glance, from one look at its log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shoal.lake.reading import data_files, size

if TYPE_CHECKING:
    from shoal.lake.table import Table

__all__ = ["ColumnSummary", "FileSummary", "Summary", "file_layout", "newest", "summarise"]


@dataclass(frozen=True, kw_only=True)
class ColumnSummary:
    """One column.

    Args:
        name: Its name.
        type: Its type, as Arrow writes it.
        nullable: Whether it may hold nulls.
        comment: Its description, if it has one.
    """

    name: str
    type: str
    nullable: bool
    comment: str


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One version of a table.

    Args:
        name: ``schema.table``.
        version: The version.
        modified: When it was committed, in ms since 1970.
        rows: Rows.
        files: Data files.
        bytes: Their size.
        comment: The table's description.
        partitions: Partition columns.
        columns: The columns in order.
        said: What the newest commit says of itself.
    """

    name: str
    version: int
    modified: int
    rows: int
    files: int
    bytes: int
    comment: str
    partitions: tuple[str, ...]
    columns: tuple[ColumnSummary, ...]
    said: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class FileSummary:
    """One data file.

    Args:
        path: Below the table's folder.
        bytes: Its size.
        rows: Its rows, where the log tells.
        partition: Its partition values.
    """

    path: str
    bytes: int
    rows: int | None
    partition: dict[str, Any]


def newest(table: Table) -> tuple[str, int]:
    """Delta's id of a table and its newest version, from one look.

    Raises:
        TableNotFound: The table does not exist.
    """
    opened = table._open()
    return str(opened.metadata().id), int(opened.version())


def summarise(table: Table, version: int | None = None) -> Summary:
    """The table at a version, by default the newest.

    Raises:
        TableNotFound: The table does not exist.
        TableError: It has no such version.
    """
    import pyarrow as pa

    opened = table._open(version)
    rows, files, size_bytes = size(opened)
    meta = opened.metadata()
    said = next(iter(opened.history(1)), {})
    schema = opened.schema()
    types = {field.name: str(field.type) for field in pa.schema(schema.to_arrow())}
    columns = tuple(
        ColumnSummary(
            name=field.name,
            type=types[field.name],
            nullable=bool(field.nullable),
            comment=str((field.metadata or {}).get("comment", "")),
        )
        for field in schema.fields
    )
    return Summary(
        name=table.name,
        version=int(opened.version()),
        modified=int(said.get("timestamp", 0)),
        rows=rows,
        files=files,
        bytes=size_bytes,
        comment=meta.description or "",
        partitions=tuple(meta.partition_columns),
        columns=columns,
        said=dict(said),
    )


def file_layout(table: Table, version: int | None = None) -> list[FileSummary]:
    """The data files of a version, the largest first; see `summarise`."""
    files = data_files(table._open(version))
    found = [
        FileSummary(path=path, bytes=size, rows=rows, partition=dict(values))
        for path, (size, rows, values) in files.items()
    ]
    return sorted(found, key=lambda file: (-file.bytes, file.path))
