"""Removes what no version within the retention needs, and what killed runs left.

delta-rs 1.6 has a vacuum, but its full one lists live deletion vectors as garbage, and it knows
neither which versions somebody still needs nor Shoal's own folders. So the files are listed here.
Source: Delta protocol, "Metadata Cleanup" and "Add File and Remove File" (a removed file may be
deleted once its tombstone is older than the retention).
"""

from __future__ import annotations

import contextlib
import datetime as dt
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote

from shoal.errors import TableError
from shoal.lake.lake import OWN_FOLDERS
from shoal.lake.log import checkpoints, commit_name, commits, log_versions
from shoal.lake.progress import flow_folder, needed_documents
from shoal.lake.reading import data_files
from shoal.lake.restore import flows
from shoal.store import Store, Stored

if TYPE_CHECKING:
    from shoal.lake.lake import Lake
    from shoal.lake.table import Table

__all__ = ["Guard", "Kept", "Vacuumed", "abandoned", "vacuum"]

_STAGING = re.compile(r"part-[0-9a-f]{16}")
_HOUR = 3600
_LOG_RETENTION = dt.timedelta(days=30)


@dataclass(frozen=True, kw_only=True)
class Guard:
    """Versions of a table that somebody still needs.

    Args:
        versions: From the first to the last one, both included.
        reason: Who, for a person: ``model delay/3 was trained on it``.
    """

    versions: tuple[int, int]
    reason: str


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Files that only a guard keeps.

    Args:
        guard: Whose.
        files: How many.
        bytes: Together.
    """

    guard: Guard
    files: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Vacuumed:
    """What a vacuum removed, or would.

    Args:
        table: The table, or a folder that never became one.
        files: Data files that no version needs.
        leftovers: Files of killed runs and documents of progress that nothing points at.
        log: Old log entries that a checkpoint replaces.
        bytes: All of them together.
        kept: What guards keep.
        unreachable: Guards of versions that are already gone.
    """

    table: str
    files: int
    leftovers: int
    log: int
    bytes: int
    kept: tuple[Kept, ...] = ()
    unreachable: tuple[Guard, ...] = ()


def vacuum(
    table: Table,
    retain: dt.timedelta,
    *,
    guards: Sequence[Guard] = (),
    dry_run: bool = False,
) -> Vacuumed:
    """Removes a table's garbage. Hold `Lake.writing`, so that no run is staging files.

    Args:
        table: The table.
        retain: Keep the files of every version that was the newest within this time.
        guards: Versions to keep besides.
        dry_run: Remove nothing.

    Raises:
        TableError: The table cannot be opened, or asks of a vacuum what this one does not keep.
    """
    opened = table._open()
    features = opened.protocol().reader_features or ()
    if "vacuumProtocolCheck" in features:
        raise TableError(
            f"{table.name} is vacuumed only by writers that keep 'vacuumProtocolCheck'.",
            hint="Vacuum it with the engine that made it.",
        )
    limit = time.time() - retain.total_seconds()
    live = set(data_files(opened))
    stored = table.store.files()
    added, removed = _mentioned(table.store)
    recent = {path for path, moment in removed.items() if moment >= limit}
    garbage: dict[str, Stored] = {}
    orphans: list[Stored] = []
    for file in filter(_is_data, stored):
        name = file.name
        if name in live or name in recent:
            continue
        staged = _STAGING.fullmatch(name.split("/", 1)[0])
        if staged and name not in added and name not in removed:
            # A version whose log entry is gone may have held it: only its age then tells.
            if log_versions(table.path)[0] == 0 or file.seconds < limit:
                orphans.append(file)
        elif file.seconds < limit:
            garbage[name] = file
    names = {file.name for file in stored}
    kept, unreachable = _guarded(table, guards, garbage, names)
    for name in {name for held in kept.values() for name in held}:
        del garbage[name]
    log = _old_log(table, retain, [g.versions[0] for g in guards], stored)
    drafts = [
        file for file in filter(_is_draft, stored) if file.seconds < max(limit, time.time() - _HOUR)
    ]
    leftovers = [*orphans, *drafts, *_documents(table, limit, stored)]
    doomed = {file.name: file.size for file in (*garbage.values(), *leftovers, *log)}
    if not dry_run:
        table.store.delete(doomed)
    return Vacuumed(
        table=table.name,
        files=len(garbage),
        leftovers=len(leftovers),
        log=len(log),
        bytes=sum(doomed.values()),
        kept=tuple(
            Kept(guard=guard, files=len(held), bytes=sum(held.values()))
            for guard, held in kept.items()
            if held
        ),
        unreachable=tuple(unreachable),
    )


def _is_data(file: Stored) -> bool:
    """Whether it is a data file; names that begin with ``_`` or ``.`` are not.

    Deletion vectors of other writers are small and are left to them.
    """
    first, _, below = file.name.partition("/")
    if first.startswith(("_", ".")) and "=" not in first:
        return False
    return bool(below) or first.endswith(".parquet")


def _is_draft(file: Stored) -> bool:
    """Whether it is a commit that delta-rs was writing when it was killed."""
    folder, _, name = file.name.partition("/")
    return folder == "_delta_log" and bool(re.search(r"\.tmp$|#\d+$", name))


def _mentioned(store: Store) -> tuple[set[str], dict[str, float]]:
    """Files that the log's commits added, and when those that are gone were removed."""
    added: set[str] = set()
    removed: dict[str, float] = {}
    for _, actions in commits(store.root):
        for action in actions:
            if add := action.get("add"):
                added.add(unquote(add["path"]))
            if remove := action.get("remove"):
                removed[unquote(remove["path"])] = (remove.get("deletionTimestamp") or 0) / 1000
    return added, removed


def _guarded(
    table: Table, guards: Sequence[Guard], garbage: dict[str, Stored], stored: set[str]
) -> tuple[dict[Guard, dict[str, int]], list[Guard]]:
    """What each guard keeps of the garbage, as sizes by name; and guards that come too late."""
    kept: dict[Guard, dict[str, int]] = {}
    gone = []
    needed: dict[int, frozenset[str] | None] = {}
    for guard in guards:
        first, last = guard.versions
        for version in range(first, last + 1):
            if version not in needed:
                needed[version] = _whole(table, version, stored)
            names = needed[version]
            if names is None:
                gone.append(guard)
                break
            sizes = {n: file.size for n, file in garbage.items() if n in names}
            kept.setdefault(guard, {}).update(sizes)
    return kept, gone


def _whole(table: Table, version: int, stored: set[str]) -> frozenset[str] | None:
    """The files of a version; None when it, or one of them, is gone."""
    try:
        names = frozenset(data_files(table._open(version)))
    except TableError:
        return None
    return names if names <= stored else None


def _old_log(
    table: Table, retain: dt.timedelta, guarded: Iterable[int], stored: Sequence[Stored]
) -> list[Stored]:
    """Log entries older than the log's retention that the last checkpoint before it replaces."""
    limit = time.time() - max(_LOG_RETENTION, retain).total_seconds()
    log = {
        file: int(number)
        for file in stored
        if file.name.startswith("_delta_log/") and (number := file.name[11:31]).isdigit()
    }
    old = sorted(
        number
        for file, number in log.items()
        if file.name == commit_name(number) and file.seconds < limit
    )
    if not old:
        return []
    last = min([old[-1], *guarded])
    at = max((version for version in checkpoints(table.path) if version <= last), default=None)
    if at is None:
        return []
    return [file for file, number in log.items() if number < at]


def _documents(table: Table, limit: float, stored: Sequence[Stored]) -> Iterator[Stored]:
    """Documents and states of flows that the table's progress no longer points at."""
    for flow in flows(table):
        number = table.transaction(f"shoal:{flow}")
        documents, state = needed_documents(table.store, flow, number)
        folder = f"{flow_folder(flow)}/"
        for file in stored:
            if not file.name.startswith(folder):
                continue
            first, _, below = file.name.removeprefix(folder).partition("/")
            current = file.name in documents or first == state
            # Older ones serve a restore that takes the progress back with the rows.
            path = PurePosixPath(first)
            older = (
                not below
                and path.suffix == ".json"
                and number is not None
                and int(path.stem) < number
            )
            if not current and (not older or file.seconds < limit):
                yield file


def abandoned(lake: Lake, *, dry_run: bool = False) -> list[Vacuumed]:
    """Removes what killed runs left of tables that they never made. Hold `Lake.writing`."""
    found = []
    for schema in lake.store.folders():
        for name in lake.store.folders(schema) if schema not in OWN_FOLDERS else ():
            folder = f"{schema}/{name}"
            below = lake.store.folders(folder)
            parts = [part for part in below if _STAGING.fullmatch(part) or part == "_shoal"]
            if "_delta_log" in below or not parts:
                continue
            files = [file for part in parts for file in lake.store.files(f"{folder}/{part}")]
            if not dry_run:
                for part in parts:
                    lake.store.remove(f"{folder}/{part}")
                if lake.store.local:
                    for empty in (Path(lake.store.path(folder)), Path(lake.store.path(schema))):
                        with contextlib.suppress(OSError):
                            empty.rmdir()
            found.append(
                Vacuumed(
                    table=f"{schema}.{name}",
                    files=0,
                    leftovers=len(files),
                    log=0,
                    bytes=sum(file.size for file in files),
                )
            )
    return found
