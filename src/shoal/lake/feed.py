"""A table's change data feed: per version, what the log says was inserted, deleted or updated.

Source: Delta protocol, "Add CDC File": where a commit has ``cdc`` actions, they are its changes;
where it has none, its changes are the rows of the files that it added and removed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shoal.errors import TableError
from shoal.lake.changes import AddedFile, added_file
from shoal.lake.log import actions_of, commit_name, log_kept
from shoal.lake.protocol import FEED, settings_of, unreadable_files

if TYPE_CHECKING:
    from shoal.lake.table import Table

__all__ = ["FEED", "Feed", "FeedCommit", "feed_on", "read_feed", "record_changes"]


@dataclass(frozen=True, kw_only=True)
class FeedCommit:
    """What one version changed.

    Args:
        version: The version.
        moment: When it was committed.
        recorded: Files of changes, with a column ``_change_type``; they count alone if any is here.
        added: Files whose rows are new.
        removed: Files whose rows left.
    """

    version: int
    moment: dt.datetime
    recorded: tuple[AddedFile, ...]
    added: tuple[AddedFile, ...]
    removed: tuple[AddedFile, ...]


@dataclass(frozen=True, kw_only=True)
class Feed:
    """Changes of a table, version by version.

    Args:
        commits: The versions that changed rows, ascending.
        start: A version whose rows all count as inserted, before the commits; None for none.
    """

    commits: Sequence[FeedCommit]
    start: tuple[int, dt.datetime] | None = None

    @property
    def files(self) -> int:
        """Files to read."""
        return sum(len(c.recorded or (*c.added, *c.removed)) for c in self.commits)

    @property
    def rows(self) -> int:
        """Rows of those files, as far as the log tells."""
        files = (f for c in self.commits for f in (c.recorded or (*c.added, *c.removed)))
        return sum(file.rows or 0 for file in files)


def feed_on(table: Table, version: int | None = None) -> bool:
    """Whether a table records its changes at a version (default: the newest)."""
    return settings_of(table._open(version)).get(FEED, "").lower() == "true"


def record_changes(table: Table) -> None:
    """Turns the change data feed of a table on, from its next version on."""
    table._open(fresh=True).alter.set_table_properties(
        {FEED: "true"}, post_commithook_properties=log_kept()
    )


def read_feed(table: Table, *, after: int, until: int, start: int | None = None) -> Feed:
    """The changes of versions ``after`` + 1 to ``until``.

    Args:
        table: The table.
        after: The version before the first.
        until: The last version.
        start: A version whose rows all count as inserted too.

    Raises:
        TableError: A version did not record its changes, or its log or a file is gone, or its
            files cannot be read by themselves.
    """
    begun = [] if start is None else [(start, _commit(table, start).moment)]
    commits = [_commit(table, version) for version in range(after + 1, until + 1)]
    commits = [c for c in commits if c.recorded or c.added or c.removed]
    unrecorded = [c.version for c in commits[:1] + commits[-1:] if not feed_on(table, c.version)]
    if unrecorded:
        raise TableError(
            f"{table.name} did not record its changes in version {unrecorded[0]} ({FEED}).",
            hint="Read it from the start with --full-refresh, or with a later startingVersion.",
        )
    if commits and (why := unreadable_files(table._open(until))):
        raise TableError(f"{table.name} uses {why}: its changes cannot be read by themselves.")
    for commit in commits:
        files = commit.recorded or (*commit.added, *commit.removed)
        if any(file.vector for file in files):
            raise TableError(
                f"{table.name} deleted rows by deletion vector in version {commit.version} without "
                "recording them.",
                hint="Read it from the start with --full-refresh.",
            )
        gone = table.gone(file.path for file in files)
        if gone:
            raise TableError(
                f"{table.name} no longer has {gone[0]}, which version {commit.version} changed.",
                hint="A vacuum removed it. Read the table from the start with --full-refresh.",
            )
    return Feed(commits=commits, start=begun[0] if begun else None)


def _commit(table: Table, version: int) -> FeedCommit:
    stamp = 0.0
    try:
        actions = actions_of(table.path, version)
    except FileNotFoundError:
        raise TableError(
            f"The log of {table.name} no longer has version {version}, so what it changed cannot "
            "be told.",
            hint="Read it from the start with --full-refresh.",
        ) from None
    found: dict[str, list[AddedFile]] = {"cdc": [], "add": [], "remove": []}
    for action in actions:
        ((kind, body),) = action.items()
        if kind == "commitInfo":
            stamp = body.get("inCommitTimestamp") or body.get("timestamp") or 0.0
        elif kind == "cdc" or (kind in found and body.get("dataChange", True)):
            found[kind].append(added_file(table.store, version, body))
    if not stamp and (entry := table.store.stat(commit_name(version))):
        stamp = entry.seconds * 1000
    return FeedCommit(
        version=version,
        moment=dt.datetime.fromtimestamp(stamp / 1000, dt.UTC),
        recorded=tuple(found["cdc"]),
        added=tuple(found["add"]),
        removed=tuple(found["remove"]),
    )
