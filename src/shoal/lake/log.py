"""The commits of a table's log, as the protocol's actions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from shoal.store import open_store

if TYPE_CHECKING:
    from deltalake import PostCommitHookProperties

    from shoal.lake.table import Table

__all__ = [
    "actions_of",
    "checkpoints",
    "commit_info",
    "commit_infos",
    "commit_name",
    "commits",
    "last_writers",
    "log_kept",
    "log_versions",
]

_COMMIT = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\.parquet")


def log_kept() -> PostCommitHookProperties:
    """Commits with this make checkpoints but drop no old log entries.

    Only a vacuum does, which knows what models and other tables still need.
    """
    from deltalake import PostCommitHookProperties

    return PostCommitHookProperties(cleanup_expired_logs=False)


def log_versions(table_path: str) -> list[int]:
    """Versions whose commit is still in the log, ascending."""
    return _numbers(table_path, _COMMIT)


def checkpoints(table_path: str) -> list[int]:
    """Versions that have a checkpoint of one file, ascending."""
    return _numbers(table_path, _CHECKPOINT)


def _numbers(table_path: str, pattern: re.Pattern[str]) -> list[int]:
    names = (file.name.rpartition("/")[2] for file in open_store(table_path).files("_delta_log"))
    return sorted(int(found[1]) for name in names if (found := pattern.fullmatch(name)))


def commits(table_path: str, *, newest_first: bool = False) -> Iterator[tuple[int, list[Any]]]:
    """Versions and their actions, as far back as the log goes."""
    versions = log_versions(table_path)
    for version in reversed(versions) if newest_first else versions:
        yield version, actions_of(table_path, version)


def actions_of(table_path: str, version: int) -> list[Any]:
    """The actions of one version.

    Raises:
        FileNotFoundError: The log has no such version any more.
    """
    text = open_store(table_path).read(commit_name(version)).decode()
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def commit_name(version: int) -> str:
    """The name of a version's commit below its table."""
    return f"_delta_log/{version:020}.json"


def commit_infos(table: Table, since: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Versions and what their commits say of themselves, newest first.

    Args:
        table: A table that exists.
        since: Down to this moment, in ms since 1970.
    """
    for version, actions in commits(table.path, newest_first=True):
        info: dict[str, Any] = next(
            (action["commitInfo"] for action in actions if "commitInfo" in action), {}
        )
        if info.get("timestamp", 0) < since:
            return
        yield version, info


def commit_info(table: Table, version: int) -> dict[str, Any]:
    """What one version's commit says of itself.

    Raises:
        KeyError: The log has no such version any more.
    """
    try:
        actions = actions_of(table.path, version)
    except FileNotFoundError:
        raise KeyError(version) from None
    return next((a["commitInfo"] for a in actions if "commitInfo" in a), {})


def last_writers(table_path: str) -> tuple[int, frozenset[str]] | None:
    """The newest version that changed rows, and the application ids in it.

    Compaction changes no row, nor do a table's properties. None when the log no longer tells.
    """
    for version, actions in commits(table_path, newest_first=True):
        changed = any(
            (action.get("add") or action.get("remove") or {}).get("dataChange", False)
            for action in actions
        )
        if changed:
            return version, frozenset(a["txn"]["appId"] for a in actions if "txn" in a)
    return None
