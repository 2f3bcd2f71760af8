"""The lake: a root folder of Delta tables, found by name."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from shoal.errors import Conflict, TableError, TableNotFound, nearest
from shoal.lake.disk import disk_error
from shoal.lake.names import TableName
from shoal.lake.table import Table

__all__ = ["Lake"]

_FOLDER = re.compile(r"`?delta`?\.`?([^`]*[/\\:][^`]*|[.]{1,2})`?", re.IGNORECASE)


class Lake:
    """Delta tables below one root.

    Args:
        root: Folder of the lake. It need not exist yet.
        default_schema: Schema of table names that give none.
        catalog: Catalog that three-part names may give.
        folder: Where relative paths of tables begin.
    """

    def __init__(
        self,
        root: str | Path,
        default_schema: str = "default",
        *,
        catalog: str | None = None,
        folder: str | Path = "",
    ) -> None:
        self.root = Path(root).absolute()
        self.default_schema = default_schema.lower()
        self.catalog = catalog
        self.folder = Path(folder).absolute()

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
            raise TableError(
                f"The table at '{text}' is not in a local folder.",
                hint="Read a table of the lake by its name.",
            )
        path = Path(os.path.normpath(self.folder / text.removeprefix("file://")))
        if path.is_relative_to(self.root) and len(parts := path.relative_to(self.root).parts) == 2:
            return TableName(schema=parts[0], table=parts[1])
        return TableName(schema="delta", table=str(path))

    def table(self, name: str | TableName) -> Table:
        """The table of that name, which may not exist yet.

        Raises:
            TableError: It is no valid name.
        """
        parsed = name if isinstance(name, TableName) else self.name(name)
        path = parsed.path or str(self.root / parsed.schema / parsed.table)
        return Table(name=parsed, path=path)

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
        for log in self.root.glob("*/*/_delta_log"):
            schema, table = log.parent.parent.name, log.parent.name
            found.append(self.table(TableName(schema=schema, table=table)))
        return sorted((table for table in found if table.exists()), key=lambda table: table.name)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Holds the lake for one refresh; the lock goes with the process, however it ends.

        Raises:
            Conflict: Another process refreshes this lake now.
        """
        import fcntl

        with self._lock_file() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                holder = lock.read().strip() or "unknown"
                raise Conflict(
                    f"Another run (process {holder}) is writing to {self.root}.",
                    hint="Wait until it ends, then run again; nothing was changed.",
                ) from None
            with contextlib.suppress(OSError):  # on a full disk the lock holds all the same
                os.ftruncate(lock.fileno(), 0)
                os.write(lock.fileno(), str(os.getpid()).encode())
            yield

    def _lock_file(self) -> TextIO:
        path = self.root / ".shoal.lock"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            return path.open("a+")
        except OSError as error:
            raise disk_error(error, path) or error from error
