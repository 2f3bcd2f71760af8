"""What a Delta table's log says was added between two versions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from shoal.errors import TableError
from shoal.lake.log import actions_of
from shoal.store import Store

__all__ = ["AddedFile", "Changes", "added_file", "read_changes"]


@dataclass(frozen=True, kw_only=True)
class AddedFile:
    """One Parquet file that a version added or removed.

    Args:
        path: Absolute path, or URL.
        version: The version that added or removed it.
        rows: Rows in the file, or None when the writer did not say.
        partition: Values of the partition columns as text, which the file itself does not hold.
        vector: The file has a deletion vector: not all of its rows count.
    """

    path: str
    version: int
    rows: int | None
    partition: Mapping[str, str | None] = field(default_factory=dict)
    vector: bool = False


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What happened to a table after one version, up to another.

    Args:
        files: Files whose rows are new, in commit order.
        rewrites: Versions that also removed or changed rows (delete, update, overwrite).
        removed: Files whose rows those versions took away, in commit order.
    """

    files: tuple[AddedFile, ...]
    rewrites: tuple[int, ...]
    removed: tuple[AddedFile, ...] = ()

    @property
    def append_only(self) -> bool:
        """True when no version removed or changed a row."""
        return not self.rewrites

    def appended(self) -> Changes:
        """Only the versions that removed and changed nothing."""
        kept = tuple(file for file in self.files if file.version not in self.rewrites)
        return Changes(files=kept, rewrites=())

    @property
    def rows(self) -> int:
        """Rows in the new files."""
        return sum(file.rows or 0 for file in self.files)


def read_changes(store: Store, *, after: int, until: int) -> Changes:
    """Reads versions ``after`` + 1 to ``until`` from the log of a table.

    Compaction (OPTIMIZE) commits change no data and are left out, as the Delta protocol's
    ``dataChange`` says.

    Raises:
        TableError: A version's log entry is gone (log retention is 30 days by default).
    """
    files: list[AddedFile] = []
    removed: list[AddedFile] = []
    rewrites: list[int] = []
    for version in range(after + 1, until + 1):
        try:
            actions = actions_of(store.root, version)
        except FileNotFoundError:
            raise TableError(
                f"The log of {store.root} no longer has version {version}, so what it added "
                "cannot be told.",
                hint="Refresh the reading table in full: shoal run --full-refresh TABLE",
            ) from None
        rewrote = False
        for action in actions:
            if (remove := action.get("remove")) and remove.get("dataChange", True):
                rewrote = True
                removed.append(added_file(store, version, remove))
            if (add := action.get("add")) and add.get("dataChange", True):
                files.append(added_file(store, version, add))
                rewrote |= files[-1].vector  # some of its rows do not count: not a plain addition
        if rewrote:
            rewrites.append(version)
    return Changes(files=tuple(files), rewrites=tuple(rewrites), removed=tuple(removed))


def added_file(store: Store, version: int, action: Mapping[str, Any]) -> AddedFile:
    """The file of an ``add``, ``remove`` or ``cdc`` action."""
    stats = json.loads(action["stats"]) if action.get("stats") else {}
    return AddedFile(
        path=store.path(unquote(action["path"])),
        version=version,
        rows=stats.get("numRecords"),
        partition=action.get("partitionValues") or {},
        vector=bool(action.get("deletionVector")),
    )
