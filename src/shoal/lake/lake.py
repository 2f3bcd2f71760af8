"""The lake: a root folder of Delta tables, found by name."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from shoal.errors import ProjectError, TableError, TableNotFound, nearest
from shoal.lake.kept import Kept
from shoal.lake.lock import holding
from shoal.lake.names import TableName
from shoal.lake.table import Table
from shoal.store import Store, is_url, open_store, path_in, storage_url

__all__ = ["OWN_FOLDERS", "Lake"]

# Folders of the root that hold no tables.
OWN_FOLDERS = frozenset({"_artifacts", "_shoal", "_training"})

_FOLDER = re.compile(r"`?delta`?\.`?([^`]*[/\\:][^`]*|[.]{1,2})`?", re.IGNORECASE)


class Lake:
    """Delta tables below one root.

    Args:
        root: Folder or URL of the lake. A folder need not exist yet; a bucket or container must.
        default_schema: Schema of table names that give none.
        catalog: Catalog that three-part names may give.
        folder: Where relative paths of tables begin.
        here: A folder on this machine for what goes with a lake in an object store; None means a
            temporary one.
    """

    def __init__(
        self,
        root: str | Path,
        default_schema: str = "default",
        *,
        catalog: str | None = None,
        folder: str | Path = "",
        here: Path | None = None,
    ) -> None:
        self.here = here
        self.root: str | Path = storage_url(str(root)) if is_url(root) else Path(root).absolute()
        self._kept = Kept()
        self.default_schema = default_schema.lower()
        self.catalog = catalog
        self.folder = Path(folder).absolute()

    @cached_property
    def store(self) -> Store:
        """The files below the root."""
        return open_store(self.root)

    @contextlib.contextmanager
    def scratch(self, kind: str, *, shared: bool = False) -> Iterator[str]:
        """A folder for files that are needed only until it is left.

        Args:
            kind: What for, as a word.
            shared: An engine elsewhere must see it: it is then in the lake, also in a cloud.
        """
        if is_url(self.root) and shared:
            folder = f"_{kind}/{os.getpid()}-{os.urandom(6).hex()}"
            try:
                yield self.store.path(folder)
            finally:
                self.store.remove(folder)
            return
        above = None
        if not is_url(self.root):
            above = Path(self.root) / f"_{kind}"
            above.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"shoal-{kind}-", dir=above) as made:
            yield made

    def name(self, text: str) -> TableName:
        """Reads a table name, or ``delta.`path` ``, as this lake understands it.

        Raises:
            TableError: It is no valid name.
        """
        if found := _FOLDER.fullmatch(text.strip()):
            return self._by_path(found[1])
        return TableName.parse(text, default_schema=self.default_schema, catalog=self.catalog)

    def _by_path(self, text: str) -> TableName:
        """The name of a table in a folder: its own where the folder is one of this lake's."""
        if "://" in text and not text.startswith("file://"):
            try:
                url = storage_url(text)
            except ProjectError as error:
                message = error.message.replace("The storage", "The table at", 1)
                raise TableError(message, hint=error.hint) from None
            inside = url.removeprefix(f"{self.root}/").split("/")
            if url.startswith(f"{self.root}/") and len(inside) == 2:
                return TableName(schema=inside[0], table=inside[1])
            return TableName(schema="delta", table=url)
        path = Path(os.path.normpath(self.folder / text.removeprefix("file://")))
        root = Path(self.root)
        if path.is_relative_to(root) and len(parts := path.relative_to(root).parts) == 2:
            return TableName(schema=parts[0], table=parts[1])
        return TableName(schema="delta", table=str(path))

    def table(self, name: str | TableName) -> Table:
        """The table of that name, which may not exist yet.

        Raises:
            TableError: It is no valid name.
        """
        parsed = name if isinstance(name, TableName) else self.name(name)
        path = parsed.path or path_in(str(self.root), parsed.schema, parsed.table)
        return Table(name=parsed, path=path, kept=self._kept, here=self.here)

    def existing(self, name: str | TableName) -> Table:
        """The table of that name.

        Raises:
            TableNotFound: There is none; the message has the nearest name.
        """
        table = self.table(name)
        if table.exists():
            return table
        names = [found.name for found in self.tables()]
        close = nearest(table.name, names)
        raise TableNotFound(
            f"There is no table '{table.name}' in {self.root}.",
            hint=f"Did you mean '{close}'?" if close else "shoal tables lists what there is.",
        )

    def tables(self) -> list[Table]:
        """All tables, by name."""
        found = []
        for schema in self.store.folders():
            if schema not in OWN_FOLDERS:
                names = self.store.folders(schema)
                found += [self.table(TableName(schema=schema, table=name)) for name in names]
        return sorted((table for table in found if table.exists()), key=lambda table: table.name)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Holds the lake for one refresh; the lock goes with the process, however it ends.

        Raises:
            Conflict: Another process refreshes this lake now.
        """
        with holding(self.store):
            yield
