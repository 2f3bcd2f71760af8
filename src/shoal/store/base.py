"""What every store can do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

__all__ = ["Store", "Stored", "Tag"]

# What an object was when it was read; another one means that somebody wrote it since.
Tag = str


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One file of a store.

    Args:
        name: Its name below the store's root, with ``/`` between folders.
        size: Bytes.
        modified: When it was last written, in ns since 1970.
    """

    name: str
    size: int
    modified: int

    @property
    def seconds(self) -> float:
        """When it was last written, in seconds since 1970."""
        return self.modified / 1e9


class Store(Protocol):
    """Files below one root. Names are relative, with ``/`` between folders; "" is the root.

    A file that does not exist raises ``FileNotFoundError``; a store that refuses or does not answer
    raises ``TableError`` or ``Unavailable``.
    """

    @property
    def root(self) -> str:
        """Absolute folder, or URL without a slash at its end."""

    @property
    def local(self) -> bool:
        """Whether the root is a folder of this machine."""

    def path(self, name: str) -> str:
        """The full path or URL of a name."""

    def name(self, path: str) -> str:
        """The name of a full path or URL."""

    def read(self, name: str) -> bytes:
        """A file's bytes."""

    def open(self, name: str, size: int | None = None) -> BinaryIO:
        """A file to read from, anywhere in it; its size, where it is known, saves a request."""

    def stat(self, name: str) -> Stored | None:
        """What is known of a file; None when there is none."""

    def files(self, folder: str = "") -> list[Stored]:
        """All files below a folder at any depth, by name."""

    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders right in a folder, sorted, each without what is above it."""

    def create(self, name: str, data: bytes) -> None:
        """Writes a new file durably, whole or not at all.

        Raises:
            FileExistsError: The name is taken; nothing was written.
        """

    def write(self, name: str, data: bytes | Path) -> None:
        """Writes a file from bytes or from a local file, over one of that name."""

    def copy(self, name: str, target: Store, new: str, *, linked: bool = False) -> None:
        """Copies a file within the store's service, so that no byte passes through here.

        Args:
            name: The file.
            target: Where to; a store of the same kind.
            new: Its name there.
            linked: Local folders share the file instead (a hard link).
        """

    def move(self, name: str, new: str) -> None:
        """Gives a file another name; object stores copy it and remove the old one."""

    def delete(self, names: Iterable[str]) -> None:
        """Removes files, and folders that become empty; names that do not exist are left out."""

    def remove(self, folder: str) -> None:
        """Removes a folder with all that is in it, if there is one."""

    def check(self) -> None:
        """Asks whether the store can be reached and read.

        Raises:
            TableError: The bucket or container does not exist, or the credentials are refused.
            Unavailable: The service does not answer.
        """
