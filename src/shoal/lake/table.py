"""One Delta table: its versions, commits and progress."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.errors import Conflict, ShoalError, TableError, TableNotFound
from shoal.lake import reading
from shoal.lake.changes import Changes, read_changes
from shoal.lake.constraints import refuse_broken
from shoal.lake.creating import create
from shoal.lake.kept import Kept
from shoal.lake.log import commit_name, log_kept, log_versions
from shoal.lake.names import TableName
from shoal.lake.options import delta_options
from shoal.lake.progress import Progress, flow_folder, read_progress, write_progress
from shoal.lake.protocol import Constraint, constraints_of, refuse_unwritable, unreadable_files
from shoal.lake.staging import Staged, delta_schema
from shoal.store import Store, is_url, open_store, refused, store_error

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa
    from deltalake import DeltaTable

__all__ = ["Table"]

_FEW = 8


class Table:
    """A Delta table by name and folder; it may not exist yet.

    Args:
        name: Its two-part name.
        path: Its folder, or URL.
        kept: What its lake opened before.
        here: Where its lake keeps what goes with a table in an object store but must be on a disk.
    """

    def __init__(
        self, *, name: TableName, path: str, kept: Kept | None = None, here: Path | None = None
    ) -> None:
        self.table_name = name
        self.path = path
        self._here = here
        self._kept = kept if kept is not None and is_url(path) else None

    @property
    def name(self) -> str:
        """``schema.table``."""
        return str(self.table_name)

    @cached_property
    def store(self) -> Store:
        """The files of its folder."""
        return open_store(self.path)

    @property
    def here(self) -> Path:
        """A folder on this machine for what goes with the table: its own, if it is on a disk."""
        if self.local:
            return Path(self.path)
        above = self._here or Path(tempfile.gettempdir()) / f"shoal-{os.getuid()}"
        return above / self.table_name.schema / self.table_name.table

    @property
    def local(self) -> bool:
        """Whether its files are on a disk of this machine."""
        return self.store.local

    def __repr__(self) -> str:
        return f"Table({self.name!r})"

    def _repr_html_(self) -> str:
        from shoal.html import card, grid
        from shoal.lake.summary import summarise

        if not self.exists():
            return card(f"{self.name} (it does not exist yet)", {})
        found = summarise(self)
        facts = {"rows": found.rows, "version": found.version, "files": found.files}
        columns = [(column.name, column.type, column.comment) for column in found.columns]
        return card(self.name, facts, grid(["column", "type", "comment"], columns))

    def exists(self) -> bool:
        """True when the folder holds a Delta log."""
        from deltalake import DeltaTable

        if self._kept is not None and self.path in self._kept:
            return True
        with refused(self.path):
            return DeltaTable.is_deltatable(self.path, delta_options(self.path))

    def _open(self, version: int | None = None, *, fresh: bool = False) -> DeltaTable:
        """The table at a version; ``fresh`` gives one of the caller's own, to write with."""
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError

        kept = None if fresh else self._kept
        if kept is not None:
            known = kept.newest(self.store) if version is None else kept.at(self.store, version)
            if known is not None:
                return known
        try:
            with refused(self.path):
                opened = DeltaTable(
                    self.path, version=version, storage_options=delta_options(self.path)
                )
        except DeltaError as error:
            unknown = isinstance(error, TableNotFoundError)
            if version is not None and self.exists() and (unknown or version > self.version()):
                raise TableError(
                    f"{self.name} has no version {version}; the newest is {self.version()}.",
                    hint=f"shoal history {self.name}",
                ) from None
            if unknown:
                raise TableNotFound(
                    f"There is no table '{self.name}' at {self.path}.", hint="shoal tables"
                ) from None
            raise TableError(
                f"{self.name} cannot be opened"
                f"{'' if version is None else f' at version {version}'}: {error}",
                hint=f"shoal history {self.name}",
            ) from error
        if kept is not None and version is None:
            kept.keep(self.store, opened)
        return opened

    def version(self) -> int:
        """The newest version.

        Raises:
            TableNotFound: The table does not exist.
        """
        return int(self._open().version())

    def id(self) -> str:
        """Delta's own id of the table; another one means that the table was made anew."""
        return str(self._open().metadata().id)

    def schema(self, version: int | None = None) -> pa.Schema:
        """The columns as an Arrow schema, at a version (default: the newest)."""
        import pyarrow as pa

        return pa.schema(self._open(version).schema().to_arrow())

    def partitions(self) -> tuple[str, ...]:
        """The partition columns."""
        return tuple(self._open().metadata().partition_columns)

    def comment(self) -> str | None:
        """The table's description."""
        return self._open().metadata().description

    def constraints(self) -> tuple[Constraint, ...]:
        """Conditions that every row meets; none while the table does not exist."""
        return constraints_of(self._open()) if self.exists() else ()

    def size(self, version: int | None = None) -> tuple[int, int, int]:
        """Rows, files and bytes at a version, from the log alone."""
        return reading.size(self._open(version))

    def scan(
        self, version: int | None = None, columns: Sequence[str] | None = None
    ) -> pl.LazyFrame:
        """A lazy Polars frame over one version (default: the newest at this moment).

        Raises:
            TableError: The table uses a feature that only the engine reads.
        """
        frame = reading.scan(self._open(version), self.name)
        return frame if columns is None else frame.select(list(columns))

    def history(self, limit: int | None = None) -> list[dict[str, Any]]:
        """The commits, newest first, as Delta's ``DESCRIBE HISTORY`` names them."""
        return [dict(entry) for entry in self._open().history(limit)]

    def changes(self, *, after: int, until: int) -> Changes:
        """What versions ``after`` + 1 to ``until`` added.

        Raises:
            TableError: The log no longer reaches back that far, or the files' columns have other
                names than the table's.
        """
        found = read_changes(self.store, after=after, until=until)
        if found.files and (why := unreadable_files(self._open())):
            raise TableError(
                f"{self.name} uses {why}: its new rows cannot be read by themselves.",
                hint="Read it with spark.read.table, as a whole, in a materialized view.",
            )
        return found

    def gone(self, paths: Iterable[str]) -> list[str]:
        """Those of the table's files, by full path, that do not exist any more."""
        wanted = list(paths)
        if not self.local and len(wanted) > _FEW:  # one listing tells of a thousand
            have = {self.store.path(file.name) for file in self.store.files()}
            return [path for path in wanted if path not in have]
        return [path for path in wanted if self.store.stat(self.store.name(path)) is None]

    def transaction(self, application: str) -> int | None:
        """The last number that this application id committed, or None."""
        if not self.exists():
            return None
        number = self._open().transaction_version(application)
        return None if number is None else int(number)

    def progress(self, flow: str) -> Progress:
        """How far a flow has come in this table."""
        number = self.transaction(Progress(flow=flow).application)
        return read_progress(self.store, flow, number)

    def state_path(self, flow: str, state: str) -> str:
        """The folder of a flow's state, by the name that its progress gives."""
        return self.store.path(f"{flow_folder(flow)}/{state}")

    def new_state(self, flow: str, number: int) -> tuple[str, str]:
        """Name and path of a folder for the state that goes with progress document ``number``.

        Whoever fills the folder before the commit may put its name into the progress to commit:
        rows, progress and state then change together or not at all. The flow's next commit
        removes its other states.
        """
        name = f"state-{number:012}-{uuid.uuid4().hex[:8]}"
        return name, self.state_path(flow, name)

    def _drop_states(self, flow: str, kept: str | None) -> None:
        above = flow_folder(flow)
        with contextlib.suppress(OSError):  # what stays, a vacuum removes
            for folder in self.store.folders(above):
                if folder.startswith("state-") and folder != kept:
                    self.store.remove(f"{above}/{folder}")

    @contextlib.contextmanager
    def staging(self) -> Iterator[str]:
        """A new folder inside the table for an engine to write Parquet into.

        Files that no commit took are removed at the end, also after an error.
        """
        folder = f"part-{uuid.uuid4().hex[:16]}"
        committed_before = self.exists()
        try:
            yield self.store.path(folder)
        finally:
            with contextlib.suppress(OSError, ShoalError):  # the error inside is what counts
                if not self._holds(folder):
                    self.store.remove(folder)
            if self.local and not committed_before:
                for empty in (Path(self.path), Path(self.path).parent):
                    with contextlib.suppress(OSError):
                        empty.rmdir()

    def _holds(self, folder: str) -> bool:
        """Whether some version names a file of this folder; when in doubt, it does."""
        if not self.exists():
            return False
        needle = f'"path":"{folder}/'.encode()
        return any(
            needle in self.store.read(commit_name(version))
            for version in log_versions(self.path)[-20:]
        )

    def commit(
        self,
        files: Sequence[Staged],
        schema: pa.Schema,
        *,
        overwrite: bool = False,
        progress: Sequence[tuple[Progress, Progress]] = (),
        partition_by: Sequence[str] = (),
        not_null: Collection[str] = (),
        comment: str | None = None,
        properties: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
        checked: Collection[str] = (),
    ) -> int:
        """Makes one version of staged files, with the flow's progress in the same transaction.

        New columns are added to the table; an overwrite may change types too.

        Args:
            files: Staged Parquet files inside the table's folder; may be empty.
            schema: Arrow schema of the rows, with the partition columns.
            overwrite: Replace all rows instead of appending.
            progress: For each flow, the progress as it was read at the start and the one to
                commit under the next number, or a later one if a document has that already.
            partition_by: Partition columns of a new table.
            not_null: Columns that a new table, or an overwritten one, holds no null in.
            comment: Description of a new table.
            properties: Delta table properties of a new table.
            metadata: Text to keep in the commit's information.
            checked: Conditions that an engine found every row to meet.

        Returns:
            The version made.

        Raises:
            Conflict: Another writer committed the same progress first; nothing was changed.
            TableError: The rows do not fit the table's columns or break a constraint, or the table
                has features that Shoal cannot write; nothing was changed.
        """
        import pyarrow as pa
        from deltalake import CommitProperties, Schema, Transaction
        from deltalake.exceptions import CommitFailedError, DeltaError
        from deltalake.transaction import AddAction

        opened = self._open() if self.exists() else None
        if opened is not None:
            refuse_unwritable(opened, self.name, overwrite=overwrite)
            refuse_broken(opened, self.name, files, checked)
        wanted = delta_schema(schema)
        strict = pa.schema([f.with_nullable(f.name not in not_null) for f in wanted])
        moment = int(time.time() * 1000)
        actions = [
            AddAction(
                self.store.name(file.path),
                file.size,
                {column: file.partition.get(column) for column in partition_by},
                moment,
                True,
                file.stats,
            )
            for file in files
        ]
        for before, _ in progress:
            self.refuse_past(before.application, before.number)
        written = [write_progress(self.store, before, after) for before, after in progress]
        commit = CommitProperties(
            custom_metadata=dict(metadata or {}),
            app_transactions=[Transaction(after.application, after.number) for after in written],
        )
        try:
            if opened is None or (overwrite and not self._fits(strict, partition_by)):
                create(
                    self.path,
                    Schema.from_arrow(strict),
                    actions,
                    before=opened,
                    name=self.name,
                    partition_by=partition_by,
                    comment=comment,
                    properties=properties or {},
                    commit=commit,
                )
            else:
                if not overwrite:
                    self._widen(wanted)
                now = self._open(fresh=True)
                for before, _ in progress:  # what this very snapshot holds no conflict will tell
                    self.refuse_past(before.application, before.number, now)
                now.create_write_transaction(
                    list(actions),
                    "overwrite" if overwrite else "append",
                    now.schema(),  # its own: the one of the rows would take NOT NULL away
                    list(partition_by) or None,
                    commit_properties=commit,
                    post_commithook_properties=log_kept(),
                )
        except CommitFailedError as error:
            raise Conflict(
                f"Another writer changed {self.name} at the same time ({error}).",
                hint="Run again: nothing of this attempt was kept.",
            ) from error
        except (DeltaError, OSError) as error:
            if not (told := store_error(error, self.path)) and isinstance(error, OSError):
                raise
            raise told or TableError(f"{self.name} refused the commit: {error}") from error
        for after in written:
            self._drop_states(after.flow, after.state)
        return self.version()

    def refuse_past(self, application: str, number: int, at: DeltaTable | None = None) -> None:
        """Raises Conflict if ``application`` has gone on from a number (in the snapshot ``at``)."""
        newest = at.transaction_version(application) if at else self.transaction(application)
        if newest is not None and newest > number:
            raise Conflict(
                f"Another writer already committed number {newest} of '{application}' to "
                f"{self.name}; this one started after {number}.",
                hint="Run again: nothing of this attempt was kept.",
            )

    def _fits(self, wanted: pa.Schema, partition_by: Sequence[str]) -> bool:
        have = self.schema()
        if delta_schema(have) != delta_schema(wanted):
            return False
        # A constraint may have come from elsewhere: only one that is missing needs another table.
        looser = [f.name for f in wanted if not f.nullable and have.field(f.name).nullable]
        return not looser and self.partitions() == tuple(partition_by)

    def _widen(self, wanted: pa.Schema) -> None:
        """Adds the columns that are new; refuses a changed type."""
        from deltalake import Schema

        table = self._open(fresh=True)
        have = {field.name: field for field in delta_schema(self.schema())}
        for field in wanted:
            if field.name in have and have[field.name].type != field.type:
                raise TableError(
                    f"Column '{field.name}' of {self.name} is {have[field.name].type}; "
                    f"the new rows have {field.type}.",
                    hint=f"Cast it, or rebuild the table: shoal run --full-refresh {self.name}",
                )
        missing = [field.name for field in wanted if field.name not in have]
        if missing:
            fields = {field.name: field for field in Schema.from_arrow(wanted).fields}
            added = [fields[name] for name in missing]
            table.alter.add_columns(added, post_commithook_properties=log_kept())

    def append(
        self,
        rows: pa.Table,
        *,
        app: tuple[str, int] | None = None,
        metadata: Mapping[str, str] | None = None,
        partition_by: Sequence[str] = (),
        overwrite: bool = False,
    ) -> int:
        """Commits an Arrow table as one version; makes the table when it is missing.

        Args:
            rows: The rows, of any number.
            app: Delta application transaction, ``(id, number)``.
            metadata: Text to keep in the commit's information.
            partition_by: Partition columns of a new table.
            overwrite: Replace all rows instead of appending.

        Returns:
            The version made.

        Raises:
            Conflict: Another writer committed the same transaction first.
            TableError: The rows do not fit the table's columns.
        """
        from deltalake import CommitProperties, Transaction, write_deltalake
        from deltalake.exceptions import CommitFailedError

        clean = rows.cast(delta_schema(rows.schema))
        if app is not None and not self.exists():
            # Two that make it at once could both succeed; two that append to it cannot.
            self._make(clean.schema, partition_by)
        opened = self._open(fresh=True) if self.exists() else None
        if app is not None and opened is not None:
            self.refuse_past(app[0], app[1] - 1, opened)
        try:
            write_deltalake(
                opened or self.path,
                clean,
                mode="overwrite" if overwrite else "append",
                schema_mode="overwrite" if overwrite else "merge",
                partition_by=list(partition_by) or None,
                name=None if opened else self.name,
                storage_options=None if opened else delta_options(self.path),
                commit_properties=CommitProperties(
                    custom_metadata=dict(metadata or {}),
                    app_transactions=[Transaction(*app)] if app else [],
                ),
                post_commithook_properties=log_kept(),
            )
        except CommitFailedError as error:
            raise Conflict(
                f"Another writer changed {self.name} at the same time ({error}).",
                hint="Run again: nothing of this attempt was kept.",
            ) from error
        except Exception as error:  # a value that cannot be cast is no DeltaError but a bare one
            told = store_error(error, self.path)
            raise told or TableError(f"{self.name} refused the rows: {error}") from error
        return self.version()

    def _make(self, schema: pa.Schema, partition_by: Sequence[str]) -> None:
        """Makes the table without rows; another may do so at the same time."""
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        try:
            DeltaTable.create(
                self.path,
                schema,
                name=self.name,
                partition_by=list(partition_by) or None,
                storage_options=delta_options(self.path),
            )
        except DeltaError:
            if not self.exists():
                raise

    def restore(self, version: int) -> int:
        """Makes a new version that equals an older one; returns it. See `shoal.lake.restore`."""
        from shoal.lake.restore import restore

        done = restore(self, version)
        return done.before if done.version is None else done.version
