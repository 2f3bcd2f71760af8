"""What a disk that refuses to be written says to a person."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from shoal.errors import ShoalError, TableError
from shoal.store import is_url, store_error

__all__ = ["disk_error"]

_HINTS = {
    errno.ENOSPC: "Make room on that disk, then run again.",
    errno.EDQUOT: "Make room within your quota on that disk, then run again.",
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f), then run again.",
    errno.EROFS: "Mount that file system for writing, or use another storage, then run again.",
}
_PERMISSION = {errno.EACCES, errno.EPERM}


def disk_error(error: BaseException, path: str | Path) -> ShoalError | None:
    """The error for a person, where an error came from a disk that could not be written; else None.

    Engines and delta-rs tell the system's error number in their text ("os error 28").

    Args:
        error: What was raised, with its causes.
        path: The file, folder or URL that was to be written.
    """
    if is_url(path):
        return store_error(error, str(path))
    for number in _numbers(error):
        hint = _HINTS.get(number)
        if number in _PERMISSION and _closed(error, path):
            hint = "Give this user the right to write there, then run again."
        if hint is not None:
            return TableError(
                f"{path} could not be written: {os.strerror(number)}. Nothing was committed.",
                hint=hint,
            )
    return None


def _numbers(error: BaseException | None) -> Iterator[int]:
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            yield error.errno
        yield from map(int, re.findall(r"\(os error (\d+)\)", str(error)))
        error = error.__cause__ or error.__context__


def _closed(error: BaseException | None, path: str | Path) -> bool:
    """Whether the place, or one that an error names, may not be written."""
    named = [str(path)]
    while error is not None:
        named += re.findall(r"/[^\s'\"#:]+", str(error))
        error = error.__cause__ or error.__context__
    return any(not os.access(_nearest(Path(place)), os.W_OK) for place in named)


def _nearest(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next((place for place in (path, *path.parents) if place.exists()), path)
