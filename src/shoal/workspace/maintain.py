"""Care of the lake's tables: go back, compare, clone, compact, clean up, check."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from shoal.errors import TableError
from shoal.lake import (
    Cloned,
    Difference,
    Finding,
    Guard,
    Optimized,
    Restored,
    Snapshots,
    Vacuumed,
    abandoned,
    check,
    clone,
    diff,
    flows,
    optimize,
    restore,
    small_files,
    vacuum,
    version_at,
)

if TYPE_CHECKING:
    from shoal.lake import Lake, Table
    from shoal.workspace.workspace import Workspace

__all__ = ["Maintenance", "parse_duration"]

_WEEK = dt.timedelta(days=7)
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_duration(text: str) -> dt.timedelta:
    """Reads ``30m``, ``168h``, ``7d`` or ``2w``; a bare number means hours.

    Raises:
        TableError: It is none of these.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([mhdw]?)\s*", text.lower())
    if not found:
        raise TableError(
            f"'{text}' is no length of time.", hint="Write 30m, 168h, 7d or 2w, for example."
        )
    return dt.timedelta(**{_UNITS[found[2] or "h"]: float(found[1])})


class Maintenance:
    """Maintenance of a workspace's tables; see `Workspace.maintenance`.

    Args:
        space: The workspace.
    """

    def __init__(self, space: Workspace) -> None:
        self._space = space

    @property
    def _lake(self) -> Lake:
        return self._space.lake

    def version(self, name: str, *, version: int | None = None, timestamp: str = "") -> int:
        """A version by number or by time; the newest when neither is given.

        Raises:
            TableError: Both are given, or there is no such version.
        """
        table = self._lake.existing(name)
        if version is not None and timestamp:
            raise TableError("A version and a timestamp are given.", hint="Leave one of them out.")
        if timestamp:
            return version_at(table, timestamp)
        return table.version() if version is None else version

    def restore(
        self, name: str, version: int, *, rewind: bool = False, dry_run: bool = False
    ) -> tuple[Restored, tuple[str, ...]]:
        """Takes a table back to an older version.

        Args:
            name: The table.
            version: The older version.
            rewind: Also let its flows read again what they read since.
            dry_run: Change nothing.

        Returns:
            What changed, and what the next run will make of it.

        Raises:
            TableError: It cannot go back there.
            Conflict: A run is writing to the lake.
        """
        table = self._lake.existing(name)
        with self._lake.writing():
            done = restore(table, version, rewind=rewind, dry_run=dry_run)
        return done, self._consequences(table, done)

    def _consequences(self, table: Table, done: Restored) -> tuple[str, ...]:
        notes = []
        kind = _said(table, "shoal.kind").replace("_", " ").lower()
        if kind == "materialized view":
            notes.append(
                f"{table.name} is a materialized view: the next shoal run computes it anew from "
                "its inputs."
            )
        elif done.rewound:
            notes.append("The next shoal run reads again what was read since that version.")
        elif flows(table):
            notes.append(
                "The progress of its flows stays: the next shoal run adds what is new since the "
                "last run, not what was taken back. To read that again, restore with --rewind."
            )
        for other in self._lake.tables():
            if other.name != table.name and table.name in _sources(other):
                streams = "streaming" in _said(other, "shoal.kind").replace("_", " ").lower()
                notes.append(
                    f"{other.name} reads {table.name}"
                    + (
                        f" as a stream; if rows left: shoal run --full-refresh {other.name}"
                        if streams
                        else ": the next shoal run refreshes it."
                    )
                )
        return tuple(notes)

    def diff(
        self, name: str, before: int, after: int, *, key: Sequence[str] = (), limit: int = 20
    ) -> Difference:
        """The rows in which two versions differ, paired by key.

        Args:
            name: The table.
            before: A version.
            after: Another one.
            key: Key columns; by default those of the AUTO CDC flow that fills the table.
            limit: Sample rows of each kind.

        Raises:
            TableError: See `shoal.lake.diff`.
        """
        table = self._lake.existing(name)
        said = [column for column in _said(table, "shoal.key").split(",") if column]
        return diff(table, before, after, key=list(key) or said, limit=limit)

    def clone(
        self, source: str, target: str, *, version: int | None = None, deep: bool = False
    ) -> Cloned:
        """Makes a table of one version of another, without copying rows unless ``deep``.

        Raises:
            TableError: The target exists, or the source cannot be cloned.
            Conflict: A run is writing to the lake.
        """
        with self._lake.writing():
            return clone(
                self._lake.existing(source), self._lake.table(target), version=version, deep=deep
            )

    def optimize(
        self,
        name: str,
        *,
        zorder: Sequence[str] = (),
        target_size: int | None = None,
        where: str | None = None,
    ) -> Optimized:
        """Puts small files together; see `shoal.lake.optimize`."""
        return optimize(
            self._lake.existing(name), zorder=zorder, target_size=target_size, where=where
        )

    def vacuum(
        self,
        name: str | None = None,
        *,
        retain: dt.timedelta = _WEEK,
        dry_run: bool = False,
        force: bool = False,
    ) -> list[Vacuumed]:
        """Removes files that no version within the retention needs, and what killed runs left.

        Versions that a registered model was trained on, and those that another table has still to
        read on from, are kept.

        Args:
            name: One table; all of them, and abandoned folders, by default.
            retain: Keep what was part of the table within this time.
            dry_run: Remove nothing.
            force: Keep no version for models and readers, and allow a retention under a week.

        Raises:
            TableError: The retention is short and ``force`` was not given.
            Conflict: A run is writing to the lake.
        """
        if retain < _WEEK and not (force or dry_run):
            raise TableError(
                f"A retention of {retain} is shorter than a week: a reader that opened the table "
                "before may lose its files, and older versions cannot be restored.",
                hint="Add --force if no such reader exists, or --dry-run to see what would go.",
            )
        tables = [self._lake.existing(name)] if name else self._lake.tables()
        trained = {} if force else self._trained()
        with self._lake.writing():
            done = [
                vacuum(
                    table,
                    retain,
                    guards=() if force else self._guards(table, trained),
                    dry_run=dry_run,
                )
                for table in tables
            ]
            if name is None:
                done += abandoned(self._lake, dry_run=dry_run)
        return done

    def _trained(self) -> dict[tuple[str, str], list[tuple[int, str]]]:
        """Table name and id to the versions that models were trained on, and which models."""
        space = self._space
        own = space.project.database
        if not space.project.profile.tracking and not own.exists():
            return {}
        found: dict[tuple[str, str], list[tuple[int, str]]] = {}
        for model in space.tracker.models():
            for version in space.tracker.versions(model):
                tags = version.tags
                number = tags.get("shoal.table_version", "")
                if number.isdigit():
                    key = (tags.get("shoal.table", ""), tags.get("shoal.table_id", ""))
                    said = f"model {model}/{version.version} was trained on it"
                    found.setdefault(key, []).append((int(number), said))
                members = tags.get("shoal.members_version", "")
                if members.isdigit():
                    said = f"the members of model {model}/{version.version} are in it"
                    key = (tags.get("shoal.members_table", ""), "")
                    found.setdefault(key, []).append((int(members), said))
        return found

    def _guards(
        self, table: Table, trained: dict[tuple[str, str], list[tuple[int, str]]]
    ) -> list[Guard]:
        identity, newest = table.id(), table.version()
        guards = [
            Guard(versions=(version, version), reason=reason)
            for version, reason in (
                *trained.get((table.name, identity), []),
                *trained.get((table.name, ""), []),
            )
            if version <= newest
        ]
        guards += [
            Guard(versions=(kept.version, kept.version), reason=f"snapshot {kept.name} pins it")
            for kept in Snapshots(self._lake).all()
            if (kept.table, kept.table_id) == (table.name, identity)
        ]
        for other in self._lake.tables():
            seen = _sources(other).get(table.name)
            if seen is not None and seen[0] == identity and seen[1] < newest:
                reason = f"{other.name} has read it up to there"
                guards.append(Guard(versions=(seen[1], newest), reason=reason))
        return guards

    def checks(self, name: str | None = None) -> list[Finding]:
        """Checks one table, or all: log, files, statistics, progress, constraints, protocol."""
        tables = [self._lake.existing(name)] if name else self._lake.tables()
        found = [finding for table in tables for finding in check(table)]
        for table in tables:
            if any(f.broken and f.table == table.name and f.check == "log" for f in found):
                continue
            waste = vacuum(table, _WEEK, dry_run=True)
            if waste.leftovers:
                found.append(
                    Finding(
                        table=table.name,
                        check="leftovers",
                        broken=False,
                        message=f"Killed runs left {waste.leftovers} files.",
                        hint=f"shoal vacuum {table.name}",
                    )
                )
            if small := small_files(table):
                found.append(
                    Finding(
                        table=table.name,
                        check="layout",
                        broken=False,
                        message=f"{small} small files would be read faster as fewer.",
                        hint=f"shoal optimize {table.name}",
                    )
                )
        return found


def _said(table: Table, key: str) -> str:
    """What the newest commit of a flow of the table says about it."""
    return next((str(entry[key]) for entry in table.history(50) if entry.get(key)), "")


def _sources(table: Table) -> dict[str, tuple[str, int]]:
    """The tables that a table's flows read: id, and the lowest version read up to."""
    found: dict[str, tuple[str, int]] = {}
    for flow in flows(table):
        for name, seen in table.progress(flow).versions.items():
            if name not in found or seen[1] < found[name][1]:
                found[name] = seen
    return found
