"""A prefix of a bucket or container, through the Rust library that delta-rs and Sail build on."""

from __future__ import annotations

import datetime as dt
import io
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from shoal.errors import TableError
from shoal.store.base import Store, Stored, Tag
from shoal.store.refused import refused

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Client

__all__ = ["ObjectStore"]

_PREFIXES = ("AWS_", "AZURE_", "GOOGLE_")
_RETRIES: Any = {"max_retries": 8, "retry_timeout": dt.timedelta(seconds=60)}
_BUFFER = 4 * 1024 * 1024
_DELETED_AT_ONCE = 1000


class ObjectStore:
    """Objects below a URL; see `Store`. Throttled and broken requests are sent again.

    Args:
        url: The URL, in the form that `storage_url` gives.
    """

    local = False

    def __init__(self, url: str) -> None:
        scheme, _, rest = url.partition("://")
        host, _, below = rest.partition("/")  # a name may hold any character, also ? and #
        self.root = url.rstrip("/")
        self._bucket = f"{scheme}://{host}"
        self._prefix = below.strip("/")

    @property
    def _client(self) -> Client:
        environment = tuple(i for i in os.environ.items() if i[0].startswith(_PREFIXES))
        with refused(self.root):
            return _client(self._bucket, environment, os.getpid())

    def path(self, name: str) -> str:
        """The URL of a name."""
        return f"{self.root}/{name}" if name else self.root

    def name(self, path: str) -> str:
        """The name of a URL."""
        if not path.startswith(f"{self.root}/"):
            raise ValueError(f"{path} is not below {self.root}")
        return path[len(self.root) + 1 :]

    def _key(self, name: str) -> str:
        return "/".join(part for part in (self._prefix, name.strip("/")) if part)

    def _name(self, key: str) -> str:
        return key[len(self._prefix) + 1 :] if self._prefix else key

    def read(self, name: str) -> bytes:
        """An object's bytes."""
        with refused(self.root), _missing(self.path(name)):
            return bytes(self._client.get(self._key(name)).bytes())

    def read_tagged(self, name: str) -> tuple[bytes, Tag]:
        """An object's bytes, and what to give to `replace`."""
        with refused(self.root), _missing(self.path(name)):
            found = self._client.get(self._key(name))
            return bytes(found.bytes()), _tag(found.meta)

    def open(self, name: str, size: int | None = None) -> BinaryIO:
        """An object to read from; what is read is fetched in pieces."""
        if size is None:
            found = self.stat(name)
            if found is None:
                raise FileNotFoundError(self.path(name))
            size = found.size
        raw = _Ranges(self._client, self._key(name), size, self.root)
        return cast("BinaryIO", io.BufferedReader(raw, _BUFFER))

    def stat(self, name: str) -> Stored | None:
        """What is known of an object; None when there is none."""
        try:
            with refused(self.root):
                found = self._client.head(self._key(name))
        except FileNotFoundError:
            return None
        return _stored(name, found)

    def files(self, folder: str = "") -> list[Stored]:
        """All objects below a folder, by name."""
        with refused(self.root):
            found = [
                _stored(self._name(entry["path"]), entry)
                for page in self._client.list(self._key(folder) or None, chunk_size=1000)
                for entry in page
            ]
        return sorted(found, key=lambda file: file.name)

    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders right in a folder."""
        with refused(self.root):
            found = self._client.list_with_delimiter(self._key(folder) or None)
        return sorted(prefix.rstrip("/").rpartition("/")[2] for prefix in found["common_prefixes"])

    def create(self, name: str, data: bytes) -> None:
        """Writes an object if its name is free (``If-None-Match: *``)."""
        self.put_tagged(name, data)

    def put_tagged(self, name: str, data: bytes, tag: Tag | None = None) -> Tag:
        """Writes an object if it still is what its tag says; without one, if there is none.

        Raises:
            FileExistsError: It is another one now.
        """
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        mode: Any = "create" if tag is None else dict(json.loads(tag))
        with refused(self.root):
            try:
                made = self._client.put(self._key(name), data, mode=mode, use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                raise FileExistsError(self.path(name)) from None
        return _tag(made)

    def write(self, name: str, data: bytes | Path) -> None:
        """Writes an object, over one of that name; a large file in parts."""
        with refused(self.root):
            self._client.put(self._key(name), data)

    def copy(self, name: str, target: Store, new: str, *, linked: bool = False) -> None:  # noqa: ARG002  (objects have no links)
        """Copies an object inside the service."""
        if not self.beside(target):
            raise TableError(
                f"{target.path(new)} is not in the bucket of {self.path(name)}.",
                hint="Read the table and write it there: shoal sql, or a materialized view.",
            )
        assert isinstance(target, ObjectStore)
        with refused(self.root), _missing(self.path(name)):
            self._client.copy(self._key(name), target._key(new))

    def beside(self, other: Store) -> bool:
        """Whether another store is in the same bucket or container."""
        return isinstance(other, ObjectStore) and other._bucket == self._bucket

    def move(self, name: str, new: str) -> None:
        """Copies an object and removes the old one."""
        self.copy(name, self, new)
        self.delete([name])

    def delete(self, names: Iterable[str]) -> None:
        """Removes objects, up to a thousand in one request where the service can."""
        keys = [self._key(name) for name in names]
        with refused(self.root):
            for start in range(0, len(keys), _DELETED_AT_ONCE):
                try:
                    self._client.delete(keys[start : start + _DELETED_AT_ONCE])
                except FileNotFoundError:  # one by one, where a missing one is an error
                    for key in keys[start : start + _DELETED_AT_ONCE]:
                        with suppress(FileNotFoundError):
                            self._client.delete(key)

    def remove(self, folder: str) -> None:
        """Removes all objects below a folder."""
        self.delete([file.name for file in self.files(folder)])

    def check(self) -> None:
        """Lists at most one object."""
        with refused(self.root):
            next(iter(self._client.list(self._prefix or None, chunk_size=1)), None)


@lru_cache(maxsize=16)
def _client(bucket: str, environment: tuple[tuple[str, str], ...], process: int) -> Client:  # noqa: ARG001  (another environment or process is another client)
    try:
        from obstore.store import from_url
    except ImportError:
        extra = "s3" if bucket.startswith("s3") else "gcs" if bucket.startswith("gs") else "azure"
        raise TableError(
            f"'{bucket}' needs the package obstore.", hint=f"pip install 'shoal[{extra}]'"
        ) from None
    return from_url(bucket, retry_config=_RETRIES)


def _tag(meta: Any) -> Tag:
    """What an object is known by: its tag, and on Google its generation."""
    known = {"e_tag": meta["e_tag"], "version": meta["version"]}
    return json.dumps({key: value for key, value in known.items() if value is not None})


def _stored(name: str, entry: Any) -> Stored:
    modified: dt.datetime = entry["last_modified"]
    # Listings tell milliseconds, a single object's answer only seconds: both must agree.
    whole = int(modified.timestamp()) * 1_000_000_000
    return Stored(name=name, size=entry["size"], modified=whole)


@contextmanager
def _missing(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(path) from None


class _Ranges(io.RawIOBase):
    """An object as a raw stream: each read is one request for a range."""

    def __init__(self, client: Client, key: str, size: int, root: str) -> None:
        super().__init__()
        self._client, self._key, self._size, self._root, self._at = client, key, size, root, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._size - self._at)
        if length <= 0:
            return 0
        with refused(self._root):
            found = self._client.get_range(self._key, start=self._at, length=length)
        buffer[:length] = memoryview(found)
        self._at += length
        return length
