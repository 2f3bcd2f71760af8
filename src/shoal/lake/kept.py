"""Tables of an object store that were opened before, so that each use need not list their log."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from shoal.lake.log import commit_name
from shoal.store import Store

if TYPE_CHECKING:
    from deltalake import DeltaTable

__all__ = ["Kept"]

# A table that others made anew is noticed after this time at the latest.
_SECONDS = 60.0


class Kept:
    """The newest known version of each table, by its URL.

    Whether there is a newer one is one question: does the next version's commit exist?
    """

    def __init__(self) -> None:
        self._tables: dict[str, tuple[float, DeltaTable]] = {}

    def __contains__(self, path: str) -> bool:
        found = self._tables.get(path)
        return found is not None and time.monotonic() - found[0] < _SECONDS

    def newest(self, store: Store) -> DeltaTable | None:
        """A table, if it is known and has no newer version; it must not be written with."""
        if store.root not in self:
            return None
        table = self._tables[store.root][1]
        if store.stat(commit_name(table.version() + 1)) is None:
            return table
        self._tables.pop(store.root, None)
        return None

    def at(self, store: Store, version: int) -> DeltaTable | None:
        """A table at a version, if that is the one that is known."""
        found = self._tables.get(store.root) if store.root in self else None
        return found[1] if found is not None and found[1].version() == version else None

    def keep(self, store: Store, table: DeltaTable) -> None:
        """Remembers a table that was opened just now."""
        self._tables[store.root] = (time.monotonic(), table)
