"""What all pages of one server share: the workspace, and what was read of it."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from shoal.errors import ShoalError, TableError, TableNotFound, nearest
from shoal.lake import Summary, newest, summarise
from shoal.store import is_url
from shoal.ui.cache import Cache, stamp_of
from shoal.ui.looks import Looks

if TYPE_CHECKING:
    from shoal.engines import Engine
    from shoal.lake import Table
    from shoal.models import Fleet, ModelDeclaration
    from shoal.tracking import ModelVersion, Pointers
    from shoal.workspace import Workspace

T = TypeVar("T")

__all__ = ["Desk"]


class Desk:
    """Reads a workspace for pages, and keeps what it read by the tables' versions.

    Safe to use from many threads.

    Args:
        space: The workspace.

    Attributes:
        space: The workspace.
        cache: What was read.
        waiting: The libraries that pages need are still being loaded.
    """

    def __init__(self, space: Workspace) -> None:
        self.space = space
        self.cache = Cache()
        self._fleets = Cache(8)
        self._rows = Cache(40)
        self._looks = Looks()
        self._starting = threading.Lock()
        self._planning = threading.RLock()
        self.waiting = False
        self._sources: dict[str, tuple[tuple[str, int], ...]] = {}

    def warm(self) -> None:
        """Begins to read what the first pages need, and to start the engine, in a thread."""
        self.waiting = True
        threading.Thread(target=self._warm, name="shoal-warm", daemon=True).start()

    def _warm(self) -> None:
        try:
            with contextlib.suppress(ShoalError):  # the page that needs it will say it
                self.summaries()
                for model in self.pointers():
                    self.versions(model)
        finally:
            # What is loaded by now stays: no page waits while all of it is looked through again.
            gc.collect()
            gc.freeze()
            self.waiting = False
        with contextlib.suppress(ShoalError):
            self.engine()

    @property
    def name(self) -> str:
        """The project's name."""
        return self.space.project.name

    def engine(self) -> Engine:
        """The engine, started by the first who needs it."""
        with self._starting:
            return self.space.engine

    def alone(self) -> AbstractContextManager[bool]:
        """Held by what must not happen twice at once: loading sources, moving aliases."""
        return self._planning

    def names(self) -> list[str]:
        """The names of all tables."""
        return list(self._by_name())

    def tables(self) -> list[Table]:
        """All tables, by name."""
        return list(self._by_name().values())

    def _by_name(self) -> dict[str, Table]:
        lake, root = self.space.lake, self.space.lake.root
        if not isinstance(root, Path):
            return self._looks.of("tables", lambda: {t.name: t for t in lake.tables()})
        schemas = [path for path in root.glob("*") if path.is_dir()] if root.is_dir() else []
        stamp = (tuple(map(str, schemas)), stamp_of(root, *schemas))
        kept = None if stamp[1] is None else stamp
        return self.cache.get("tables", kept, lambda: {t.name: t for t in lake.tables()})

    def table(self, name: str) -> Table:
        """One of these tables, by exactly its name: no path is made of what a request says.

        Raises:
            TableNotFound: There is none.
        """
        found = self.find(name)
        if found is not None:
            return found
        close = nearest(name, self.names())
        raise TableNotFound(
            f"There is no table '{name}' in this lake.",
            hint=f"Did you mean '{close}'?" if close else "shoal tables lists what there is.",
        )

    def find(self, name: str) -> Table | None:
        """One of these tables, or None."""
        return self._by_name().get(name)

    def kept(self, key: Hashable, make: Callable[[], T], *tables: str) -> T:
        """What is read from tables, as long as these have no new version.

        Args:
            key: What it is.
            make: Reads it.
            tables: Their names; those that do not exist yet count as they come.
        """
        found = [self.find(name) for name in tables]
        there = [table for table in found if table is not None]
        return self.cache.get(key, self._stamp(there), make)

    def changed(self) -> None:
        """Says that something was changed from here, which pages then show at once."""
        self._looks.forget()

    def rows(self, table: Table, key: Hashable, make: Callable[[], T]) -> T:
        """Rows that a page shows, of which only the last pages' are kept: they may be large."""
        return self._rows.get((table.name, key), self._stamp([table]), make)

    def summary(self, table: Table) -> Summary:
        """A table's newest version."""
        key = ("summary", table.name)
        return self.cache.get(key, self._stamp([table]), lambda: summarise(table))

    def summaries(self) -> list[Summary]:
        """All tables' newest versions, by name; a table that cannot be read is left out."""

        def one(table: Table) -> Summary | None:
            try:
                return self.summary(table)
            except TableError:
                return None

        tables = self.tables()
        stamps = self._stamps(tables)

        def read() -> list[Summary]:
            if not tables:
                return []
            with ThreadPoolExecutor(8) as pool:
                return [found for found in pool.map(one, tables) if found is not None]

        return self.cache.get("summaries", None if None in stamps else tuple(stamps), read)

    def _stamps(self, tables: list[Table]) -> list[Hashable]:
        if not tables or not is_url(self.space.lake.root):
            return [self._stamp([table]) for table in tables]
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(lambda table: self._stamp([table]), tables))

    def _stamp(self, tables: list[Table]) -> Hashable:
        """What changes when one of these tables gets a version."""
        logs = tuple(f"{table.path}/_delta_log" for table in tables)
        if any(is_url(table.path) for table in tables):
            return logs, tuple(self._looks.of(t.path, partial(_newest, t)) for t in tables)
        times = stamp_of(*logs)
        return None if times is None else (logs, times)

    def tracked(self) -> bool:
        """Whether there is a registry to read; none is made by looking."""
        space = self.space
        return bool(space.project.profile.tracking) or space.project.database.exists()

    def tracking_stamp(self) -> Hashable:
        """What changes when the registry does, or, of a server, every few seconds."""
        import time

        if self.space.project.profile.tracking:
            return int(time.monotonic() / 5)
        own = self.space.project.database
        return stamp_of(own, own.with_name("mlflow.db-wal"))

    def pointers(self) -> dict[str, Pointers]:
        """Where the aliases of all registered models point."""
        if not self.tracked():
            return {}
        stamp = self.tracking_stamp()

        def read() -> dict[str, Pointers]:
            return {found.name: found for found in self.space.tracker.pointers()}

        if self.space.project.profile.tracking:
            return self._looks.of("pointers", read)
        return self.cache.get("pointers", stamp, read)

    def versions(self, model: str) -> list[ModelVersion]:
        """The versions of a registered model, newest first; none of an unknown one."""
        if model not in self.pointers():
            return []
        key = ("versions", model)
        if self.space.project.profile.tracking:
            return self._looks.of(key, lambda: self.space.tracker.versions(model))
        stamp = self.tracking_stamp()
        return self.cache.get(key, stamp, lambda: self.space.tracker.versions(model))

    def models(self) -> dict[str, ModelDeclaration]:
        """The declared models, read again when their files changed.

        Raises:
            ProjectError: A file raises.
        """
        with self._planning:
            self._reread("models", [file.path for file in self.space.project.models()])
            return self.space.models

    def graph_space(self) -> Workspace:
        """The workspace with its engine, and its declared tables as the files are now.

        Raises:
            ProjectError: A file raises.
        """
        self.engine()
        with self._planning:
            project = self.space.project
            self._reread("graph", [file.path for file in project.transformations()])
            self._reread("models", [file.path for file in project.models()])
            _ = self.space.graph, self.space.models
        return self.space

    def _reread(self, what: str, files: list[Path]) -> None:
        """Lets the workspace read its sources again if they changed."""
        stamp = tuple((str(path), path.stat().st_mtime_ns) for path in files)
        if self._sources.get(what, stamp) != stamp:
            self.space.__dict__.pop(what, None)
        self._sources[what] = stamp

    def fleet(self, model: str, version: int) -> Fleet:
        """A version opened for prediction; nothing pickled is opened.

        Raises:
            ModelError: It cannot be opened.
        """
        ref = f"{model}/{version}"
        return self._fleets.get(("fleet", ref), "opened", lambda: self.space.tracker.fleet(ref))


def _newest(table: Table) -> Hashable:
    try:
        return newest(table)
    except TableError:
        return "unreadable"
