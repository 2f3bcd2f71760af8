"""Clones a table without copying rows.

Delta's shallow clone names the source's files by absolute path, which neither delta-rs 1.6, Polars
2.1 nor Sail 0.7 reads, and which a vacuum of the source breaks. A clone here is a folder of hard
links: as quick and as small, since data files never change, and each table's vacuum removes only
its own links. Object stores have no links: there the store copies the files, inside itself.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from shoal.errors import ShoalError, TableError
from shoal.lake.creating import create
from shoal.lake.disk import disk_error
from shoal.lake.protocol import refuse_unwritable, settings_of
from shoal.lake.staging import footer_stats
from shoal.store import parquet_footer

if TYPE_CHECKING:
    from shoal.lake.table import Table

__all__ = ["Cloned", "clone"]

_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class Cloned:
    """A new table with another one's rows.

    Args:
        source: The other one.
        version: Its version.
        table: The new table.
        files: Files linked or copied.
        bytes: Their size; a link takes none of it.
        copied: They were copied.
    """

    source: str
    version: int
    table: str
    files: int
    bytes: int
    copied: bool


def clone(
    source: Table, target: Table, *, version: int | None = None, deep: bool = False
) -> Cloned:
    """Makes a table of one version of another. Hold `Lake.writing`, so that no file goes away.

    Columns, partitions, properties and constraints are the source's; history and the progress of
    flows are not.

    Args:
        source: What to clone.
        target: A table that does not exist.
        version: Of the source; the newest by default.
        deep: Copy the files instead of linking them.

    Raises:
        TableError: The target exists, the source has features that cannot be written, or the two
            are on different file systems and ``deep`` was not given. Nothing is left behind.
    """
    import pyarrow as pa
    from deltalake import CommitProperties
    from deltalake.exceptions import DeltaError
    from deltalake.transaction import AddAction

    if target.exists() or target.store.files() or target.store.folders():
        raise TableError(
            f"{target.name} already exists; a clone makes a new table.",
            hint="Give another name.",
        )
    opened = source._open(version)
    refuse_unwritable(opened, target.name, overwrite=False)
    if "deletionVectors" in (opened.protocol().writer_features or ()):
        raise TableError(
            f"{source.name} has deletion vectors, which a clone cannot carry over.",
            hint="Purge them with the engine that made it, or select its rows in a view.",
        )
    adds = pa.table(opened.get_add_actions()).to_pylist()
    partitions = list(opened.metadata().partition_columns)

    def placed(add: dict[str, Any]) -> AddAction:
        path = unquote(add["path"])
        source.store.copy(path, target.store, path, linked=not deep)
        values = add.get("partition") or {}
        return AddAction(
            path,
            add["size_bytes"],
            {name: _text(values.get(name)) for name in partitions},
            int(time.time() * 1000),
            True,
            footer_stats(parquet_footer(target.store.path(path), add["size_bytes"])),
        )

    try:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            actions = list(pool.map(placed, adds))
        create(
            target.path,
            opened.schema(),
            actions,
            before=None,
            name=target.name,
            partition_by=partitions,
            comment=opened.metadata().description,
            properties=settings_of(opened),
            commit=CommitProperties(
                custom_metadata={"shoal.clone": f"{source.name}@{opened.version()}"}
            ),
        )
    except (OSError, DeltaError) as error:
        _discard(target)
        raise _refused(source, target, error) from error
    except BaseException:
        _discard(target)
        raise
    return Cloned(
        source=source.name,
        version=int(opened.version()),
        table=target.name,
        files=len(adds),
        bytes=sum(add["size_bytes"] for add in adds),
        copied=deep or not source.local,
    )


def _discard(target: Table) -> None:
    with contextlib.suppress(ShoalError):  # what stopped the clone is what counts
        target.store.remove("")


def _text(value: object) -> str | None:
    """A partition value as the log spells it."""
    if value is None:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dt.datetime):
        if value.tzinfo is not None:
            return (
                value.astimezone(dt.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
            )
        return value.isoformat(sep=" ")
    return str(value)


def _refused(source: Table, target: Table, error: Exception) -> ShoalError:
    number = getattr(error, "errno", None)
    if number in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
        return TableError(
            f"{target.path} cannot share files with {source.path} (links do not reach there).",
            hint=f"Copy them: shoal clone {source.name} {target.name} --deep",
        )
    if isinstance(error, FileNotFoundError):
        return TableError(
            f"A file of {source.name} is gone: {error.filename or error}.",
            hint=f"shoal checks {source.name}; for an older version it was vacuumed.",
        )
    return disk_error(error, target.path) or TableError(f"{target.name} was not made: {error}")
