"""Named versions of tables, kept in ``shoal.snapshots``: a training set that stays as it is.

The table is a log: a name was created, or dropped. Each entry is one numbered commit, so of two
that begin at the same number one wins.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shoal.errors import Conflict, TableError, nearest
from shoal.lake.restore import version_asked, version_at

if TYPE_CHECKING:
    from shoal.lake.lake import Lake
    from shoal.lake.table import Table

__all__ = ["SNAPSHOTS", "Snapshot", "Snapshots", "pinned_version", "split_pin"]

SNAPSHOTS = "shoal.snapshots"
_APPLICATION = "shoal-snapshots"

# No name may look like a version or a time, which stand in the same place.
_NAME = re.compile(r"(?!v\d+\Z)[A-Za-z_][\w-]{0,99}", re.ASCII)
_VERSION = re.compile(r"v?(\d{1,16})", re.ASCII)
_MOMENT = re.compile(r"\d{17}", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d.*", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A named version of a table.

    Attributes:
        name: Its name, one of the lake.
        table: The table.
        version: The version.
        table_id: Delta's id of the table, which another one has when it was made anew.
        rows: Rows of that version.
        comment: What it is for.
        user: Who made it.
        at: When, UTC.
    """

    name: str
    table: str
    version: int
    table_id: str
    rows: int
    comment: str
    user: str
    at: dt.datetime


class Snapshots:
    """The named versions of a lake's tables.

    Args:
        lake: The lake.
    """

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._log = lake.table(SNAPSHOTS)

    def all(self) -> list[Snapshot]:
        """Every name that was not dropped, by name."""
        if not self._log.exists():
            return []
        found: dict[str, Snapshot] = {}
        for row in self._log.scan().sort("number").collect().iter_rows(named=True):
            dropped = row.pop("dropped")
            row.pop("number")
            if dropped:
                found.pop(row["name"], None)
            else:
                found[row["name"]] = Snapshot(**row)
        return [found[name] for name in sorted(found)]

    def create(self, name: str, table: str, *, comment: str = "", user: str = "") -> Snapshot:
        """Gives a version of a table a name, under which vacuum keeps it.

        Args:
            name: Letters, digits, ``_`` and ``-``, not beginning with a digit.
            table: ``schema.table``, its newest version, or with ``@v12``, ``@2026-01-01`` or
                ``@another_snapshot``.
            comment: What it is for.
            user: Who makes it.

        Raises:
            TableError: The name is wrong or taken, or the table has no such version.
            TableNotFound: There is no such table.
            Conflict: Another process made or dropped one at this moment.
        """
        if not _NAME.fullmatch(name):
            raise TableError(
                f"'{name}' cannot name a snapshot: it is letters, digits, _ and -, does not begin "
                "with a digit, and is no version such as v12."
            )
        known = {snapshot.name: snapshot for snapshot in self.all()}
        if name in known:
            raise TableError(
                f"The snapshot '{name}' is {known[name].table}@v{known[name].version} already.",
                hint=f"Choose another name, or: shoal snapshot drop {name}",
            )
        plain, pin = split_pin(table)
        found = self._lake.existing(plain)
        version = found.version() if pin is None else pinned_version(self._lake, found, pin)
        made = Snapshot(
            name=name,
            table=found.name,
            version=version,
            table_id=found.id(),
            rows=found.size(version)[0],
            comment=comment,
            user=user,
            at=dt.datetime.now(dt.UTC),
        )
        self._append(made, dropped=False)
        return made

    def find(self, name: str) -> Snapshot:
        """The snapshot of a name.

        Raises:
            TableError: There is none; the message has the nearest.
        """
        known = {snapshot.name: snapshot for snapshot in self.all()}
        if name not in known:
            close = nearest(name, known)
            raise TableError(
                f"There is no snapshot '{name}'.",
                hint=f"Did you mean '{close}'?" if close else "shoal snapshot list",
            )
        return known[name]

    def drop(self, name: str) -> Snapshot:
        """Forgets a name; the version's files go with a later vacuum.

        Raises:
            TableError: There is no such snapshot.
            Conflict: Another process made or dropped one at this moment.
        """
        found = self.find(name)
        self._append(found, dropped=True)
        return found

    def _append(self, snapshot: Snapshot, *, dropped: bool) -> None:
        import pyarrow as pa

        number = (self._log.transaction(_APPLICATION) or 0) + 1
        row = vars(snapshot) | {"number": number, "dropped": dropped}
        kinds = {
            "version": pa.int64(),
            "rows": pa.int64(),
            "number": pa.int64(),
            "dropped": pa.bool_(),
            "at": pa.timestamp("us", "UTC"),
        }
        schema = pa.schema([(key, kinds.get(key, pa.string())) for key in row])
        rows = pa.Table.from_pylist([row], schema)
        try:
            self._log.append(rows, app=(_APPLICATION, number))
        except Conflict as error:
            raise Conflict(
                "Another process made or dropped a snapshot at this moment; nothing was changed.",
                hint="Try again.",
            ) from error


def split_pin(text: str) -> tuple[str, str | None]:
    """A table's name, and what follows its ``@``: a version, a time or a snapshot's name."""
    if "`" in text or "/" in text:
        return text, None
    name, sign, pin = text.partition("@")
    return name, pin.strip() if sign else None


def pinned_version(lake: Lake, table: Table, pin: str) -> int:
    """The version of a table that a pin means.

    Args:
        lake: Where snapshots are.
        table: The table.
        pin: ``v12`` or ``12``; ``2026-01-01``, ``2026-01-01 18:30`` or Delta's
            ``yyyyMMddHHmmssSSS``: the newest version at that time, in UTC; or a snapshot's name.

    Raises:
        TableError: It is none of these, the table has no such version, or the snapshot is another
            table's.
    """
    if _MOMENT.fullmatch(pin):
        try:
            moment = dt.datetime.strptime(pin + "000", "%Y%m%d%H%M%S%f").replace(tzinfo=dt.UTC)
        except ValueError:
            raise TableError(f"'{pin}' is no time.", hint="It is yyyyMMddHHmmssSSS.") from None
        return version_at(table, moment.isoformat())
    if found := _VERSION.fullmatch(pin):
        asked = version_asked(table, {"versionasof": found[1]})
        assert asked is not None
        return asked
    if _DATE.fullmatch(pin):
        return version_at(table, pin)
    if not _NAME.fullmatch(pin):
        raise TableError(
            f"'{pin}' names no version of {table.name}.",
            hint=f"Write {table.name}@v12, @2026-01-01, or a snapshot's name.",
        )
    snapshot = Snapshots(lake).find(pin)
    if snapshot.table != table.name:
        raise TableError(
            f"The snapshot '{pin}' is one of {snapshot.table}, not of {table.name}.",
            hint="shoal snapshot list",
        )
    if snapshot.table_id != table.id():
        raise TableError(
            f"{table.name} was made anew since the snapshot '{pin}' was taken.",
            hint=f"shoal snapshot drop {pin}",
        )
    return snapshot.version
