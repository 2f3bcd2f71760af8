"""Opens stores and single files by path or URL."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from shoal.store.base import Store
from shoal.store.local import LocalStore
from shoal.store.objects import ObjectStore
from shoal.store.url import is_url, parent_of

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["hand_on", "open_file", "open_store", "parquet_footer", "write_parquet"]


def open_store(root: str | Path) -> Store:
    """The store below a folder or URL; nothing is asked of it yet."""
    return ObjectStore(str(root)) if is_url(root) else LocalStore(root)


def open_file(path: str | Path, size: int | None = None) -> BinaryIO:
    """One file to read, by its path or URL.

    Args:
        path: The path or URL.
        size: Its size, which saves a request where it is known.

    Raises:
        FileNotFoundError: There is none.
    """
    text = str(path)
    if not is_url(text):
        return Path(path).open("rb")
    return open_store(parent_of(text)).open(text.rpartition("/")[2], size)


def parquet_footer(path: str, size: int | None = None) -> pq.FileMetaData:
    """What a Parquet file's footer says; of an object only its end is fetched."""
    import pyarrow.parquet as pq

    if not is_url(path):
        return pq.read_metadata(path)
    with open_file(path, size) as stream:
        return pq.read_metadata(stream)


def write_parquet(rows: pa.Table, path: str, *, compression: str = "snappy") -> None:
    """Writes an Arrow table as one Parquet file; makes the folders above it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not is_url(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, path, compression=compression)
        return
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression=compression)
    open_store(parent_of(path)).write(path.rpartition("/")[2], sink.getvalue().to_pybytes())


def hand_on(path: str, target: Store, name: str) -> None:
    """Moves a file into another store: by renaming or copying it there, else through here.

    Args:
        path: The file, by path or URL.
        target: Where to.
        name: Its name there.
    """
    source, own = open_store(parent_of(path)), path.rpartition("/")[2]
    if source.local and target.local:
        place = Path(target.path(name))
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, place)
        return
    if source.local:
        target.write(name, Path(path))
    elif isinstance(source, ObjectStore) and source.beside(target):
        source.copy(own, target, name)
    else:
        target.write(name, source.read(own))
    source.delete([own])
