"""Files of a source: which exist, which are new, and which must wait."""

from __future__ import annotations

import fnmatch
import glob
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

from shoal.engines import FileRead, InputFile
from shoal.errors import PipelineError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["NewFiles", "list_files", "new_files", "relisted", "unchanged"]

# A text file that ends in the middle of a record and was touched this recently is being written.
_SETTLED_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class NewFiles:
    """What a streaming file source has to read.

    Args:
        files: Files to read now, oldest first.
        notes: Files that were left alone, and why.
    """

    files: tuple[InputFile, ...]
    notes: tuple[str, ...] = ()


def list_files(read: FileRead, root: Path) -> list[InputFile]:
    """The files that a read names, below folders at any depth; hidden ones are left out.

    Args:
        read: The read; relative paths start at the project folder.
        root: Project folder.

    Raises:
        PipelineError: A path is not on local disk, or does not exist.
    """
    pattern = read.options.get("pathglobfilter", "*")
    found: dict[str, InputFile] = {}
    for written in read.paths:
        base = _local(written, root)
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
                    found[path] = InputFile(
                        path=path, size=status.st_size, modified=status.st_mtime_ns
                    )
    return sorted(found.values(), key=lambda file: (file.modified, file.path))


def _local(written: str, root: Path) -> str:
    parsed = urlparse(written)
    if parsed.scheme == "file":
        return unquote(parsed.path)
    if "://" in written:
        raise PipelineError(
            f"The source '{written}' is not on local disk; only paths and file: URIs are "
            "supported now.",
            hint="Copy the files into a folder of the project.",
        )
    return str((root / written).absolute())


def _walk(path: str) -> Iterator[str]:
    if os.path.isfile(path):
        yield path
        return
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            # A link to nowhere or a pipe is neither; a file may also be gone since the listing.
            if not entry.name.startswith((".", "_")) and (entry.is_file() or entry.is_dir()):
                yield from _walk(entry.path)


def new_files(read: FileRead, root: Path, seen: Mapping[str, list[int]]) -> NewFiles:
    """The files that a flow has not read yet.

    Empty files and files that are still being written wait for a later run. A file that changed
    after it was read is not read again; the note says so.

    Args:
        read: The streaming read.
        root: Project folder.
        seen: The flow's progress: path to ``[size, modification time in ns]``.

    Raises:
        PipelineError: A path is not on local disk, or does not exist.
    """
    files: list[InputFile] = []
    notes: list[str] = []
    for file in list_files(read, root):
        mark = seen.get(file.path)
        if mark is not None:
            if mark != [file.size, file.modified]:
                notes.append(
                    f"{file.path} changed after it was read; its new rows are not in the table "
                    "(--full-refresh reads it again)"
                )
        elif file.size == 0:
            notes.append(f"{file.path} is empty; it waits for a later run")
        elif _growing(file, read.format.lower()):
            notes.append(f"{file.path} is still being written; it waits for a later run")
        else:
            files.append(file)
    return NewFiles(files=tuple(files), notes=tuple(notes))


def _growing(file: InputFile, kind: str) -> bool:
    if (
        kind not in {"json", "csv", "text"}
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
    for file in files:
        try:
            status = os.stat(file.path)
        except FileNotFoundError:
            continue
        kept.append(InputFile(path=file.path, size=status.st_size, modified=status.st_mtime_ns))
    return kept
