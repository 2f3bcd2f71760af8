"""The manifest of an exported folder: the SHA-256 of each file, and nothing beside them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from shoal.errors import TrackingError

__all__ = ["MANIFEST", "read_checked", "write_manifest"]

MANIFEST = "manifest.json"
_FORMAT = 1
_MOST_FILES = 100_000


def write_manifest(folder: Path) -> str:
    """Writes the manifest of a folder's files.

    Returns:
        The manifest's own SHA-256, which vouches for all of them.
    """
    files = {
        name: {"sha256": _digest(folder / name), "bytes": (folder / name).stat().st_size}
        for name in sorted(_files(folder))
    }
    text = json.dumps({"format": _FORMAT, "files": files}, indent=1)
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    return _digest(folder / MANIFEST)


def read_checked(folder: Path, copy: Path, *, digest: str | None = None) -> str:
    """Copies a folder file by file, and checks the copies against the manifest.

    What is checked is what is used afterwards, whoever else can write to the folder.

    Args:
        folder: The exported folder.
        copy: An empty folder of one's own.
        digest: What the manifest's SHA-256 must be; None takes any.

    Returns:
        The manifest's SHA-256.

    Raises:
        TrackingError: A file is missing, changed, added, a link, or named outside of the folder.
    """
    names = set(_files(folder)) - {MANIFEST}
    try:
        raw = (folder / MANIFEST).read_bytes()
        told: Any = json.loads(raw)
        files: dict[str, Any] = dict(told["files"])
        if told["format"] != _FORMAT:
            raise TrackingError(
                f"{folder} has format {told['format']!r}; this version of Shoal reads {_FORMAT}."
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrackingError(
            f"{folder} is no exported version: {MANIFEST} cannot be read ({error!r}).",
            hint="shoal export MODEL/VERSION FOLDER makes one",
        ) from error
    found = hashlib.sha256(raw).hexdigest()
    if digest is not None and digest.lower() != found:
        raise _tampered(folder, f"its manifest's digest is {found[:16]}..., not {digest[:16]}...")
    for name in files:
        path = PurePosixPath(name)
        plain = str(path) == name and not path.is_absolute() and "\\" not in name
        if not plain or ".." in path.parts or "\0" in name:
            raise _tampered(folder, f"its manifest names {name!r}, which is not inside of it")
    if missing := sorted(set(files) - names):
        raise _tampered(folder, f"{missing[0]} is missing")
    if added := sorted(names - set(files)):
        raise _tampered(folder, f"{added[0]} is not in its manifest")
    for name, about in files.items():
        place = copy / name
        place.parent.mkdir(parents=True, exist_ok=True)
        # A link that came since would be followed nowhere.
        source = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(source, "rb") as theirs, place.open("wb") as ours:
            shutil.copyfileobj(theirs, ours)
        if not isinstance(about, dict) or _digest(place) != about.get("sha256"):
            raise _tampered(folder, f"{name} is not what its checksum says")
    return found


def _tampered(folder: Path, what: str) -> TrackingError:
    return TrackingError(
        f"{folder} is not as it was exported: {what}. Nothing was imported.",
        hint="export it again, and compare the digest that shoal export prints",
    )


def _files(folder: Path) -> Iterator[str]:
    """Names of a folder's files; refuses everything that is neither file nor folder."""
    count = 0
    for path, folders, files in os.walk(folder, followlinks=False):
        for name in (*folders, *files):
            each = Path(path) / name
            mode = each.lstat().st_mode
            if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                kind = "a link" if stat.S_ISLNK(mode) else "no plain file"
                raise _tampered(folder, f"{each.relative_to(folder)} is {kind}")
        for name in files:
            count += 1
            if count > _MOST_FILES:
                raise _tampered(folder, f"it has more than {_MOST_FILES:,} files")
            yield (Path(path) / name).relative_to(folder).as_posix()


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
