"""Takes a table back to an older version, as a new version."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import unquote

from shoal.errors import Conflict, TableError
from shoal.lake.log import log_kept
from shoal.lake.progress import Progress, flow_folder, read_progress, write_progress
from shoal.lake.reading import data_files, size

if TYPE_CHECKING:
    from deltalake import DeltaTable

    from shoal.lake.table import Table

__all__ = ["Restored", "flows", "restore", "version_asked", "version_at"]


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What a restore does to a table.

    Args:
        table: Its name.
        target: The older version.
        before: The newest version before.
        version: The version made; None when nothing was to be done or it was only asked.
        rows: Rows before and after.
        added: Files that come back.
        removed: Files that leave.
        columns: Columns that come back or leave, as ``+name`` and ``-name``.
        rewound: Flows whose progress goes back too: they read again what they read since.
    """

    table: str
    target: int
    before: int
    version: int | None
    rows: tuple[int, int]
    added: int
    removed: int
    columns: tuple[str, ...]
    rewound: tuple[str, ...] = ()


def version_asked(table: Table, options: Mapping[str, str]) -> int | None:
    """The version that reader options ask for: ``versionasof`` or ``timestampasof``, if any.

    Raises:
        TableError: The table has no such version.
    """
    if moment := options.get("timestampasof"):
        return version_at(table, moment)
    if not (asked := options.get("versionasof")):
        return None
    if not asked.isdigit():
        raise TableError(f"'{asked}' is no version of {table.name}.", hint="Write a whole number.")
    return int(table._open(int(asked)).version())


def version_at(table: Table, time: str) -> int:
    """The version that was the newest at a time.

    Args:
        table: The table.
        time: ISO 8601; without a zone it is UTC.

    Raises:
        TableError: It is no time, or the table, or its log, begins later.
    """
    try:
        moment = dt.datetime.fromisoformat(time.strip())
    except ValueError:
        raise TableError(
            f"'{time}' is no time.", hint="Write 2026-11-23, or '2026-11-23 18:30:00'."
        ) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
    limit = moment.timestamp() * 1000
    history = table.history()
    for entry in history:
        if entry["timestamp"] <= limit:
            return int(entry["version"])
    first = dt.datetime.fromtimestamp(history[-1]["timestamp"] / 1000, dt.UTC)
    raise TableError(
        f"{table.name} has no version as old as {moment:%Y-%m-%d %H:%M:%S %Z}; its log begins at "
        f"{first:%Y-%m-%d %H:%M:%S} UTC with version {history[-1]['version']}.",
        hint=f"shoal history {table.name}",
    )


def flows(table: Table) -> list[str]:
    """The flows that keep documents beside a table."""
    return sorted(unquote(folder) for folder in table.store.folders("_shoal"))


def restore(table: Table, version: int, *, rewind: bool = False, dry_run: bool = False) -> Restored:
    """Makes a new version whose rows and columns are those of an older one.

    The progress of the table's flows stays where it is, so that a streaming table does not read
    again what it has read, unless ``rewind`` is given.

    Args:
        table: The table.
        version: The older version.
        rewind: Also take the progress of the table's flows back to that version, in the same
            commit: what they read since is read again by the next run.
        dry_run: Change nothing.

    Raises:
        TableError: There is no such version, its files were vacuumed, or the rows that a flow
            needs to go on from there are gone.
        Conflict: Another writer changed the table meanwhile.
    """
    from deltalake import CommitProperties, Transaction
    from deltalake.exceptions import CommitFailedError, DeltaError

    old, now = table._open(version), table._open(fresh=True)
    have, want = data_files(now), data_files(old)
    missing = table.gone(table.store.path(path) for path in want)
    if missing:
        raise TableError(
            f"{table.name} cannot go back to version {version}: {len(missing)} of its "
            f"{len(want)} files are gone, for example {table.store.name(missing[0])}.",
            hint=f"They were vacuumed. shoal history {table.name} lists newer versions.",
        )
    changes = _rewound(table, old) if rewind else []
    names = [f.name for f in now.schema().fields], [f.name for f in old.schema().fields]
    plan = Restored(
        table=table.name,
        target=version,
        before=int(now.version()),
        version=None,
        rows=(size(now)[0], size(old)[0]),
        added=len(want.keys() - have.keys()),
        removed=len(have.keys() - want.keys()),
        columns=(
            *(f"+{name}" for name in names[1] if name not in names[0]),
            *(f"-{name}" for name in names[0] if name not in names[1]),
        ),
        rewound=tuple(after.flow for _, after in changes),
    )
    if dry_run or (version == plan.before and not changes):
        return plan
    written = [write_progress(table.store, before, after) for before, after in changes]
    transactions = [Transaction(after.application, after.number) for after in written]
    try:
        now.restore(
            version,
            commit_properties=CommitProperties(app_transactions=transactions),
            post_commithook_properties=log_kept(),
        )
    except CommitFailedError as error:
        raise Conflict(
            f"Another writer changed {table.name} at the same time ({error}).",
            hint="Restore it again: nothing was changed.",
        ) from error
    except DeltaError as error:
        raise TableError(
            f"{table.name} cannot go back to version {version}: {error}",
            hint=f"shoal history {table.name}",
        ) from error
    return replace(plan, version=table.version())


def _rewound(table: Table, old: DeltaTable) -> list[tuple[Progress, Progress]]:
    """Each flow's progress now, and the next one that says what the older version's said."""
    found = []
    for flow in flows(table):
        known = table.progress(flow)
        number = old.transaction_version(known.application)
        if known.number < 0 or number == known.number:
            continue
        then = read_progress(table.store, flow, number)
        if then.state and not table.store.files(f"{flow_folder(flow)}/{then.state}"):
            raise TableError(
                f"The flow '{flow}' of {table.name} cannot go on from there: the rows that it "
                f"kept for itself (state '{then.state}') were removed by a later commit.",
                hint=f"Leave --rewind out, or rebuild it: shoal run --full-refresh {table.name}",
            )
        # Without files before, the document is written whole: it must not add to the one before.
        start = Progress(flow=flow, number=known.number)
        found.append((start, replace(then, number=known.number + 1)))
    return found
