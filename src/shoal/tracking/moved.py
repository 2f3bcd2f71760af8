"""A lake that was moved: MLflow's SQLite database names its artifacts by their whole path.

MLflow has no call that changes them, so the four columns that hold such paths are rewritten in one
transaction. Nothing else of the database is touched.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.errors import TrackingError
from shoal.tracking.places import sqlite_file
from shoal.tracking.quiet import quietly

if TYPE_CHECKING:
    from shoal.tracking.tracker import Tracker

__all__ = ["follow_move", "moved_from", "rewrite_paths"]

_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)


def follow_move(tracker: Tracker) -> int:
    """After the lake was moved: makes MLflow's SQLite database name the present folders.

    Args:
        tracker: The project's; open it anew afterwards.

    Returns:
        How many places were rewritten; 0 when nothing was moved.

    Raises:
        TrackingError: It is another kind of store, or the artifacts are not there.
    """
    with quietly("follow the moved lake"):
        found = tracker._client.get_experiment_by_name(tracker.experiment)
        now = tracker._location()
    before = moved_from(found.artifact_location or "", now) if found else None
    return 0 if before is None or now is None else rewrite_paths(tracker.uri, before, now)


def moved_from(recorded: str, now: str | None) -> str | None:
    """The folder that artifacts lay in before the lake was moved; None when it was not.

    Args:
        recorded: Where MLflow's experiment has its artifacts.
        now: Where the project has them.
    """
    if now is None or "://" in recorded or "://" in now or Path(recorded) == Path(now):
        return None
    return None if Path(recorded).exists() else recorded


def rewrite_paths(uri: str, before: str, now: str) -> int:
    """Makes MLflow's database name the folder in which the artifacts are.

    Args:
        uri: The tracking URI, of a SQLite database.
        before: The folder that it names.
        now: The folder that they are in.

    Returns:
        How many places were rewritten.

    Raises:
        TrackingError: It is another kind of store, or there is no such folder.
    """
    if not uri.startswith("sqlite"):
        raise TrackingError("Only a SQLite database names artifacts by folders of this machine.")
    if not Path(now).is_dir():
        raise TrackingError(f"There is no folder {now}.", hint="move the artifacts there first")
    count = 0
    with contextlib.closing(sqlite3.connect(sqlite_file(uri))) as database, database:
        for table, column in _COLUMNS:
            done = database.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608 (ours)
                f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                (now, len(before) + 1, before, len(before) + 1, f"{before}/"),
            )
            count += done.rowcount
    return count
