"""Where a tracking database, server or artifact is, and whether it answers."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
from pathlib import Path
from urllib.parse import urlsplit

from shoal.errors import TrackingError, Unavailable

__all__ = ["check_file", "check_server", "local_folder", "sqlite_file"]

_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
_CONNECT_SECONDS = 5.0


def sqlite_file(uri: str) -> Path:
    """The database file as SQLAlchemy finds it, which reads ``#`` and ``%`` as they are."""
    return Path(uri.partition("://")[2].partition("?")[0].removeprefix("/"))


def check_file(path: Path) -> None:
    """Fails at once where MLflow tries for minutes; makes the folder."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA schema_version")
    except (OSError, sqlite3.Error) as error:
        raise TrackingError(
            f"The tracking database {path} cannot be opened: {error}.",
            hint="Correct the tracking URI in shoal.toml, or move the file away.",
        ) from error


def check_server(uri: str) -> None:
    """Fails within seconds, where MLflow's own retries take minutes."""
    parts = urlsplit(uri)
    port = parts.port or _PORTS.get(parts.scheme.split("+")[0])
    if not parts.hostname or port is None:
        return
    try:
        socket.create_connection((parts.hostname, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise Unavailable(
            f"The tracking server at {parts.hostname}:{port} does not answer ({error}).",
            hint="Start it (mlflow server ...), or correct the tracking URI in shoal.toml.",
        ) from error


def local_folder(uri: str) -> Path | None:
    """The folder that a URI names on this machine; None when it is elsewhere."""
    from urllib.request import url2pathname

    parts = urlsplit(uri)
    if parts.scheme == "":
        return Path(uri)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None
