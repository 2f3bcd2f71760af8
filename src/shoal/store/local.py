"""A folder of this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from shoal.store.base import Store, Stored

__all__ = ["LocalStore"]


class LocalStore:
    """Files below a local folder, which need not exist yet; see `Store`.

    Args:
        root: The folder.
    """

    local = True

    def __init__(self, root: str | Path) -> None:
        self._top = Path(root).absolute()
        self.root = str(self._top)

    def path(self, name: str) -> str:
        """The full path of a name."""
        return str(self._top / name)

    def name(self, path: str) -> str:
        """The name of a full path."""
        return Path(os.path.relpath(path, self._top)).as_posix()

    def read(self, name: str) -> bytes:
        """A file's bytes."""
        return (self._top / name).read_bytes()

    def open(self, name: str, size: int | None = None) -> BinaryIO:  # noqa: ARG002  (the system knows it)
        """A file to read from."""
        return (self._top / name).open("rb")

    def stat(self, name: str) -> Stored | None:
        """What is known of a file; None when there is none."""
        try:
            found = (self._top / name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Stored(name=name, size=found.st_size, modified=found.st_mtime_ns)

    def files(self, folder: str = "") -> list[Stored]:
        """All files below a folder, by name."""
        found = []
        for above, _, names in os.walk(self._top / folder):
            for name in names:
                whole = Path(above, name)
                with contextlib.suppress(FileNotFoundError):  # gone since it was listed
                    status = whole.stat()
                    found.append(
                        Stored(
                            name=whole.relative_to(self._top).as_posix(),
                            size=status.st_size,
                            modified=status.st_mtime_ns,
                        )
                    )
        return sorted(found, key=lambda file: file.name)

    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders right in a folder."""
        try:
            return sorted(path.name for path in (self._top / folder).iterdir() if path.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def create(self, name: str, data: bytes) -> None:
        """Writes a new file durably, or raises ``FileExistsError``."""
        path = self._top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as stream:
            try:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            except OSError:
                path.unlink(missing_ok=True)
                raise

    def write(self, name: str, data: bytes | Path) -> None:
        """Writes a file, over one of that name."""
        path = self._top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(data, Path):
            shutil.copyfile(data, path)
        else:
            path.write_bytes(data)

    def copy(self, name: str, target: Store, new: str, *, linked: bool = False) -> None:
        """Copies or links a file into another local folder."""
        place = Path(target.path(new))
        place.parent.mkdir(parents=True, exist_ok=True)
        if linked:
            os.link(self._top / name, place)
        else:
            shutil.copy2(self._top / name, place)

    def move(self, name: str, new: str) -> None:
        """Renames a file."""
        place = self._top / new
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(self._top / name, place)

    def delete(self, names: Iterable[str]) -> None:
        """Removes files, and folders below the root that become empty."""
        for name in names:
            path = self._top / name
            path.unlink(missing_ok=True)
            for folder in path.parents:
                if folder == self._top or not folder.is_relative_to(self._top):
                    break
                with contextlib.suppress(OSError):
                    folder.rmdir()

    def remove(self, folder: str) -> None:
        """Removes a folder with all that is in it."""
        shutil.rmtree(self._top / folder, ignore_errors=True)

    def check(self) -> None:
        """A folder is made when it is needed."""
