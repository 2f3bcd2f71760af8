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
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from shoal.errors import TableError
from shoal.lake.log import checkpoints, commits, log_versions
from shoal.lake.progress import flow_folder, needed_documents
from shoal.lake.reading import data_files
from shoal.lake.restore import flows

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
    added, removed = _mentioned(table.path)
    recent = {path for path, moment in removed.items() if moment >= limit}
    garbage: dict[str, Path] = {}
    orphans: list[Path] = []
    for path in _stored(table.path):
        name = str(path.relative_to(table.path))
        if name in live or name in recent:
            continue
        staged = _STAGING.fullmatch(name.split("/", 1)[0])
        if staged and name not in added and name not in removed:
            # A version whose log entry is gone may have held it: only its age then tells.
            if log_versions(table.path)[0] == 0 or path.stat().st_mtime < limit:
                orphans.append(path)
        elif path.stat().st_mtime < limit:
            garbage[name] = path
    kept, unreachable = _guarded(table, guards, garbage)
    for name in {name for names in kept.values() for name in names}:
        del garbage[name]
    log = _old_log(table, retain, [g.versions[0] for g in guards])
    drafts = [f for f in _drafts(table.path) if f.stat().st_mtime < max(limit, time.time() - _HOUR)]
    leftovers = [*orphans, *drafts, *_documents(table, limit)]
    doomed = [*garbage.values(), *leftovers, *log]
    sizes = {path: path.stat().st_size for path in doomed}
    if not dry_run:
        _remove(doomed, Path(table.path))
    return Vacuumed(
        table=table.name,
        files=len(garbage),
        leftovers=len(leftovers),
        log=len(log),
        bytes=sum(sizes.values()),
        kept=tuple(
            Kept(guard=guard, files=len(names), bytes=sum(names.values()))
            for guard, names in kept.items()
            if names
        ),
        unreachable=tuple(unreachable),
    )


def _stored(folder: str) -> Iterator[Path]:
    """Data files of a table's folder; names that begin with ``_`` or ``.`` are not data.

    Deletion vectors of other writers are small and are left to them.
    """
    for path in Path(folder).iterdir():
        hidden = path.name.startswith(("_", "."))
        if hidden and "=" not in path.name:
            continue
        if path.is_dir():
            inside = (file for file in path.rglob("*") if file.is_file())
            yield from inside
        elif path.suffix == ".parquet":
            yield path


def _drafts(folder: str) -> Iterator[Path]:
    """Commits that delta-rs was writing when it was killed."""
    for path in Path(folder, "_delta_log").iterdir():
        if path.suffix == ".tmp" or re.search(r"#\d+$", path.name):
            yield path


def _mentioned(folder: str) -> tuple[set[str], dict[str, float]]:
    """Files that the log's commits added, and when those that are gone were removed."""
    added: set[str] = set()
    removed: dict[str, float] = {}
    for _, actions in commits(folder):
        for action in actions:
            if add := action.get("add"):
                added.add(unquote(add["path"]))
            if remove := action.get("remove"):
                removed[unquote(remove["path"])] = (remove.get("deletionTimestamp") or 0) / 1000
    return added, removed


def _guarded(
    table: Table, guards: Sequence[Guard], garbage: dict[str, Path]
) -> tuple[dict[Guard, dict[str, int]], list[Guard]]:
    """What each guard keeps of the garbage, as sizes by name; and guards that come too late."""
    kept: dict[Guard, dict[str, int]] = {}
    gone = []
    needed: dict[int, frozenset[str] | None] = {}
    for guard in guards:
        first, last = guard.versions
        for version in range(first, last + 1):
            if version not in needed:
                needed[version] = _whole(table, version)
            names = needed[version]
            if names is None:
                gone.append(guard)
                break
            sizes = {n: path.stat().st_size for n, path in garbage.items() if n in names}
            kept.setdefault(guard, {}).update(sizes)
    return kept, gone


def _whole(table: Table, version: int) -> frozenset[str] | None:
    """The files of a version; None when it, or one of them, is gone."""
    try:
        names = frozenset(data_files(table._open(version)))
    except TableError:
        return None
    return names if all(Path(table.path, name).exists() for name in names) else None


def _old_log(table: Table, retain: dt.timedelta, guarded: Iterable[int]) -> list[Path]:
    """Log entries older than the log's retention that the last checkpoint before it replaces."""
    limit = time.time() - max(_LOG_RETENTION, retain).total_seconds()
    log = Path(table.path) / "_delta_log"
    old = [
        version
        for version in log_versions(table.path)
        if (log / f"{version:020}.json").stat().st_mtime < limit
    ]
    if not old:
        return []
    last = min([old[-1], *guarded])
    at = max((version for version in checkpoints(table.path) if version <= last), default=None)
    if at is None:
        return []
    return [file for file in log.iterdir() if file.name[:20].isdigit() and int(file.name[:20]) < at]


def _documents(table: Table, limit: float) -> Iterator[Path]:
    """Documents and states of flows that the table's progress no longer points at."""
    for flow in flows(table):
        number = table.transaction(f"shoal:{flow}")
        documents, state = needed_documents(table.path, flow, number)
        for path in flow_folder(table.path, flow).iterdir():
            current = path in documents or path.name == state
            # Older ones serve a restore that takes the progress back with the rows.
            older = path.suffix == ".json" and number is not None and int(path.stem) < number
            if not current and (not older or path.stat().st_mtime < limit):
                yield from (
                    (file for file in path.rglob("*") if file.is_file())
                    if path.is_dir()
                    else [path]
                )


def _remove(paths: Iterable[Path], top: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
        for folder in path.parents:
            if folder == top or not folder.is_relative_to(top):
                break
            with contextlib.suppress(OSError):
                folder.rmdir()


def abandoned(lake: Lake, *, dry_run: bool = False) -> list[Vacuumed]:
    """Removes what killed runs left of tables that they never made. Hold `Lake.writing`."""
    found = []
    for folder in sorted(lake.root.glob("*/*")):
        if not folder.is_dir() or (folder / "_delta_log").exists():
            continue
        parts = [part for part in folder.iterdir() if part.is_dir() and _ours(part)]
        files = [file for part in parts for file in part.rglob("*") if file.is_file()]
        if not parts:
            continue
        sizes = sum(file.stat().st_size for file in files)
        if not dry_run:
            for part in parts:
                shutil.rmtree(part, ignore_errors=True)
            for empty in (folder, folder.parent):
                with contextlib.suppress(OSError):
                    empty.rmdir()
        name = f"{folder.parent.name}.{folder.name}"
        found.append(Vacuumed(table=name, files=0, leftovers=len(files), log=0, bytes=sizes))
    return found


def _ours(part: Path) -> bool:
    return bool(_STAGING.fullmatch(part.name)) or part.name == "_shoal"
