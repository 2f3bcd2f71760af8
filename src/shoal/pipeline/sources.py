"""Files of a source: which exist, which are new, and which must wait."""

from __future__ import annotations

import datetime as dt
import fnmatch
import glob
import itertools
import json
import os
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

from shoal.engines import FileRead, InputFile, byte_count, check_options, loader_option
from shoal.errors import PipelineError, ProjectError, TableError
from shoal.lake import NULL_PARTITION
from shoal.store import Stored, is_url, open_store, parent_of, path_in, storage_url

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["NewFiles", "list_files", "new_files", "relisted", "source_name", "unchanged"]

# A text file that ends in the middle of a record and was touched this recently is being written.
_SETTLED_SECONDS = 60
_FOREVER = 1 << 63
_FEW = 8


@dataclass(frozen=True, kw_only=True)
class NewFiles:
    """What a streaming file source has to read.

    Args:
        files: Files to read now, oldest first.
        notes: Files that were left alone, and why.
        passed: Files that are never read, as if they had been: path to size and time.
    """

    files: tuple[InputFile, ...]
    notes: tuple[str, ...] = ()
    passed: Mapping[str, list[int]] = field(default_factory=dict)


def list_files(read: FileRead, root: Path) -> list[InputFile]:
    """The files that a read names, below folders at any depth; hidden ones are left out.

    Args:
        read: The read; relative paths start at the project folder.
        root: Project folder.

    Raises:
        PipelineError: A path is not on local disk, or does not exist, or an option is wrong.
    """
    check_options(read.format, read.options, embedded=False)
    pattern = read.options.get("pathglobfilter", "*")
    after, before = (_moment(read, name) for name in ("modifiedAfter", "modifiedBefore"))
    columns = _partition_columns(read)
    found: dict[str, InputFile] = {}
    for written in read.paths:
        base = _located(written, root)
        if is_url(base):
            for file, match in _listed(written, base):
                if fnmatch.fnmatch(file.name.rpartition("/")[2], pattern) and (
                    (after or 0) < file.modified < (before or _FOREVER)
                ):
                    path = path_in(match, file.name) if file.name else match
                    found[path] = InputFile(
                        path=path,
                        size=file.size,
                        modified=file.modified,
                        partition=_partition(path, match, columns),
                    )
            continue
        pattern_given = glob.has_magic(base) and not os.path.exists(base)
        matches = sorted(glob.glob(base, recursive=True)) if pattern_given else [base]
        for match in matches:
            if not os.path.exists(match):
                raise PipelineError(
                    f"The source '{written}' does not exist ({match}).",
                    hint=f"Create the folder first: mkdir -p {match}",
                )
            for path in _walk(match):
                if fnmatch.fnmatch(os.path.basename(path), pattern):
                    status = os.stat(path)
                    if (after or 0) < status.st_mtime_ns < (before or _FOREVER):
                        found[path] = InputFile(
                            path=path,
                            size=status.st_size,
                            modified=status.st_mtime_ns,
                            partition=_partition(path, match, columns),
                        )
    return sorted(found.values(), key=lambda file: (file.modified, file.path))


def _located(written: str, root: Path) -> str:
    """Absolute path or URL of a source; relative ones start at the project."""
    parsed = urlparse(written)
    if parsed.scheme == "file":
        return unquote(parsed.path)
    if is_url(written):
        return written.rstrip("/")
    if "://" in written:
        try:
            return storage_url(written)
        except ProjectError as error:
            message = error.message.replace("The storage", "The source", 1)
            raise PipelineError(message, hint=error.hint) from None
    return str((root / written).absolute())


def _listed(written: str, base: str) -> list[tuple[Stored, str]]:
    """`_objects`, whose store may refuse: that is told with the flow's place in the sources."""
    try:
        return list(_objects(written, base))
    except TableError as error:
        raise PipelineError(error.message, hint=error.hint) from error


def _objects(written: str, base: str) -> Iterator[tuple[Stored, str]]:
    """The objects below a URL, and the URL that they were found below; hidden ones are left out."""
    head, parts = base, list[str]()
    if glob.has_magic(base):
        start = next(i for i, part in enumerate(base.split("/")) if glob.has_magic(part))
        head, parts = "/".join(base.split("/")[:start]), base.split("/")[start:]
    store = open_store(head)
    files = store.files()
    if not parts and not files:
        above, own = parent_of(base), base.rpartition("/")[2]
        found = None if above.endswith("/") else open_store(above).stat(own)
        if found is None:
            raise PipelineError(
                f"The source '{written}' does not exist: no object's name begins with it.",
                hint="Correct the URL, or put a file there first.",
            )
        yield replace(found, name=""), base
        return
    for file in files:
        folders = file.name.split("/")
        lengths = (n for n in range(len(folders) + 1) if path_matches(folders[:n], parts))
        length = next(lengths, None)
        below = [] if length is None else folders[length:]
        if length is None or any(part.startswith((".", "_")) for part in below):
            continue
        if file.name and not file.name.endswith("/"):
            yield replace(file, name="/".join(below)), path_in(head, *folders[:length])


def path_matches(folders: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a path fit those of a glob pattern; ``**`` is any number of folders."""
    if not pattern:
        return not folders
    if pattern[0] == "**":
        return any(path_matches(folders[n:], pattern[1:]) for n in range(len(folders) + 1))
    return (
        bool(folders)
        and fnmatch.fnmatchcase(folders[0], pattern[0])
        and path_matches(folders[1:], pattern[1:])
    )


def _walk(path: str) -> Iterator[str]:
    if os.path.isfile(path):
        yield path
        return
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            # A link to nowhere or a pipe is neither; a file may also be gone since the listing.
            if not entry.name.startswith((".", "_")) and (entry.is_file() or entry.is_dir()):
                yield from _walk(entry.path)


def _moment(read: FileRead, name: str) -> int | None:
    """A time that an option gives, in nanoseconds since 1970."""
    text = read.options.get(name.lower())
    if text is None:
        return None
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise PipelineError(
            f"The reader option {name} is '{text}', which is no time.",
            hint=f'Write it like .option("{name}", "2026-01-31T12:00:00")',
        ) from None
    zoned = moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
    return int(zoned.timestamp() * 1e9)


def _partition_columns(read: FileRead) -> Collection[str] | None:
    """The names to look for in folders (``name=value``); None means all that there are."""
    named = read.options.get("cloudfiles.partitioncolumns")
    if named is not None:
        return [name.strip() for name in named.split(",")]
    flat = read.options.get("recursivefilelookup", "false").lower() == "true"
    return [] if flat and "cloudfiles.format" not in read.options else None


def _partition(
    path: str, base: str, columns: Collection[str] | None
) -> tuple[tuple[str, str | None], ...]:
    """The values in the names of the folders between a source's path and a file."""
    found = {}
    for folder in os.path.dirname(path)[len(base) :].split("/"):
        name, equals, text = folder.partition("=")
        if equals and name and (columns is None or name in columns):
            value = unquote(text)
            found[unquote(name)] = None if value == NULL_PARTITION else value
    return tuple(found.items())


def new_files(
    read: FileRead, root: Path, seen: Mapping[str, list[int]], *, first: bool = False
) -> NewFiles:
    """The files that a flow has not read yet.

    Empty files and files that are still being written wait for a later run. A file that changed
    after it was read is read again only with ``cloudFiles.allowOverwrites``; else the note says so.

    Args:
        read: The streaming read.
        root: Project folder.
        seen: The flow's progress: path to ``[size, modification time in ns]``.
        first: The flow never read anything.

    Raises:
        PipelineError: A path is not on local disk, or does not exist.
    """
    files: list[InputFile] = []
    notes: list[str] = []
    again = read.options.get("cloudfiles.allowoverwrites", "false").lower() == "true"
    found = list_files(read, root)
    if first and read.options.get("cloudfiles.includeexistingfiles", "true").lower() == "false":
        notes = [f"{len(found)} files were there before (includeExistingFiles)"] if found else []
        passed = {file.path: [file.size, file.modified] for file in found}
        return NewFiles(files=(), notes=tuple(notes), passed=passed)
    for file in found:
        mark = seen.get(file.path)
        if mark is not None and (mark == [file.size, file.modified] or not again):
            if mark != [file.size, file.modified]:
                notes.append(
                    f"{file.path} changed after it was read; its new rows are not in the table "
                    "(--full-refresh reads it again)"
                )
        elif file.size == 0:
            notes.append(f"{file.path} is empty; it waits for a later run")
        elif _growing(file, read):
            notes.append(f"{file.path} is still being written; it waits for a later run")
        else:
            files.append(file)
    if read.options.get("latestfirst", "false").lower() == "true":
        files.reverse()
    most = _portion(read, files)
    if len(files) > most:
        notes.append(f"{len(files) - most} files wait for a later run, as asked")
    return NewFiles(files=tuple(files[:most]), notes=tuple(notes))


def _portion(read: FileRead, files: Sequence[InputFile]) -> int:
    """How many of the files one run takes: at least one."""
    most = int(loader_option(read.options, "maxFilesPerTrigger") or len(files))
    limit = loader_option(read.options, "maxBytesPerTrigger")
    if limit is not None:
        room = byte_count(limit)
        sums = itertools.accumulate(file.size for file in files)
        most = min(most, max(sum(total <= room for total in sums), 1))
    return most


def source_name(read: FileRead) -> str:
    """The name under which a flow keeps a source's columns from run to run."""
    name = f"{read.format.lower()}:{','.join(read.paths)}"
    only = read.options.get("pathglobfilter")
    return name if only is None else f"{name}:{only}"


def _growing(file: InputFile, read: FileRead) -> bool:
    kind = read.format.lower()
    whole = read.options.get("multiline", read.options.get("wholetext", "false"))
    if (
        is_url(file.path)  # an object is there when it is whole
        or kind not in {"json", "csv", "text"}
        or whole.lower() == "true"
        or time.time_ns() - file.modified > _SETTLED_SECONDS * 1e9
    ):
        return False
    with open(file.path, "rb") as stream:
        stream.seek(max(0, file.size - 1024 * 1024))
        tail = stream.read().rsplit(b"\n", 1)
    last = tail[-1].strip()
    if not last or file.path.endswith((".gz", ".bz2", ".zst")):
        return False
    if kind == "json":
        try:
            json.loads(last)
        except ValueError:
            return True
        return False
    return True


def unchanged(files: Sequence[InputFile]) -> list[InputFile]:
    """Those of the files that are still as they were listed."""
    now = set(relisted(files))
    return [file for file in files if file in now]


def relisted(files: Sequence[InputFile]) -> list[InputFile]:
    """The files as they are now; those that are gone are left out."""
    kept = []
    stored = _stored([file.path for file in files if is_url(file.path)])
    for file in files:
        if is_url(file.path):
            if (found := stored.get(file.path)) is not None:
                kept.append(replace(file, size=found.size, modified=found.modified))
            continue
        try:
            status = os.stat(file.path)
        except FileNotFoundError:
            continue
        kept.append(replace(file, size=status.st_size, modified=status.st_mtime_ns))
    return kept


def _stored(urls: Sequence[str]) -> dict[str, Stored]:
    """What is known of objects, by URL; one listing of their folder where they are many."""
    found: dict[str, Stored] = {}
    if len(urls) > _FEW:
        folders = [parent_of(url).split("/") for url in urls]
        shared = itertools.takewhile(
            lambda parts: len(set(parts)) == 1, zip(*folders, strict=False)
        )
        store = open_store("/".join(parts[0] for parts in shared))
        return {store.path(file.name): file for file in store.files()}
    for url in urls:
        one = open_store(parent_of(url)).stat(url.rpartition("/")[2])
        if one is not None:
            found[url] = one
    return found
