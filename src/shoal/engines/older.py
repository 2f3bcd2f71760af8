"""Versions of a Delta table before its last checkpoint, as Sail can read them.

Sail 0.7.2 begins at the checkpoint that ``_last_checkpoint`` names also where an older version is
asked for, and then misses commits. It reads them in a folder that has everything but that file.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shoal.store import is_url

__all__ = ["OlderVersions"]

_HINT = "_last_checkpoint"


class OlderVersions:
    """Folders of links, one for each table, for as long as the process lives."""

    def __init__(self) -> None:
        self._root: Path | None = None
        self._made: dict[str, Path] = {}
        self._lock = threading.Lock()

    def found(self, messages: Iterator[Any]) -> list[tuple[Any, int]]:
        """The reads of local Delta tables at a version before their last checkpoint.

        Args:
            messages: Parts of a plan.

        Returns:
            Each ``DataSource``, and its version.
        """
        found = []
        for message in messages:
            if message.DESCRIPTOR.name != "DataSource" or message.format.lower() != "delta":
                continue
            options = {key.lower(): value for key, value in message.options.items()}
            asked, paths = options.get("versionasof", ""), list(message.paths)
            if not asked.isdigit() or len(paths) != 1 or is_url(paths[0]):
                continue
            try:
                hint = json.loads((Path(paths[0]) / "_delta_log" / _HINT).read_text("utf-8"))
            except (OSError, ValueError):
                continue
            if int(asked) < int(hint.get("version", 0)):
                found.append((message, int(asked)))
        return found

    def lead(self, reads: list[tuple[Any, int]]) -> None:
        """Lets reads that `found` gave go where Sail can read them."""
        for message, version in reads:
            table = Path(message.paths[0]).absolute()
            message.paths[:] = [str(self._folder(table, version))]

    def _folder(self, table: Path, version: int) -> Path:
        with self._lock:
            made = self._made.get(str(table))
            if made is None or not (made / "_delta_log" / f"{version:020}.json").exists():
                made = self._made[str(table)] = self._linked(table)
            return made

    def _linked(self, table: Path) -> Path:
        if self._root is None:
            self._root = Path(tempfile.mkdtemp(prefix="shoal-older-"))
            atexit.register(shutil.rmtree, self._root, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(dir=self._root))
        (folder / "_delta_log").mkdir()
        for entry in table.iterdir():
            if entry.name != "_delta_log":
                (folder / entry.name).symlink_to(entry)
        for entry in (table / "_delta_log").iterdir():
            if entry.name != _HINT:
                (folder / "_delta_log" / entry.name).symlink_to(entry)
        return folder
