"""Where a tracking database, server or artifact is, and whether it answers."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from shoal.errors import TrackingError, Unavailable

__all__ = [
    "artifact_uri",
    "azure_settings",
    "check_file",
    "check_server",
    "local_folder",
    "sqlite_file",
]

_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
_CONNECT_SECONDS = 5.0
# The package that MLflow reaches a store with, and the extra that brings it.
_NEEDED = {
    "s3": ("boto3", "s3"),
    "wasbs": ("azure.storage.blob", "azure"),
    "gs": ("google.cloud.storage", "gcs"),
}
# The account of Azure's storage emulator (Azurite), the same on every machine.
_EMULATED = (
    "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey=Eby8vdM02xNOcqFlqUwJPLl"
    "mEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==;"
)


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


def artifact_uri(url: str) -> str:
    """A URL as MLflow knows it, which reaches Azure through its Blob service.

    Raises:
        TrackingError: The package that reaches the store is not installed, or ``az://`` is used
            without an account.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "s3a":
        url = f"s3://{rest}"
    elif scheme in {"abfss", "abfs"}:
        host, _, path = rest.partition("/")
        url = f"wasbs://{host.replace('.dfs.', '.blob.')}/{path}"
    elif scheme == "az":
        account = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
        if not account and _emulated(os.environ):
            account = "devstoreaccount1"
        if not account:
            raise TrackingError(
                f"'{url}' does not name the storage account.",
                hint="Set AZURE_STORAGE_ACCOUNT_NAME, or write "
                "abfss://container@account.dfs.core.windows.net/path.",
            )
        container, _, path = rest.partition("/")
        url = f"wasbs://{container}@{account}.blob.core.windows.net/{path}"
    module, extra = _NEEDED.get(url.partition("://")[0], ("", ""))
    if module and not _installed(module):
        raise TrackingError(
            f"Artifacts at '{url}' need the package {module}, which is not installed.",
            hint=f"pip install 'shoal[{extra}]'",
        )
    return url


def azure_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """What MLflow calls the credentials for Azure that delta-rs and the engine read; else nothing.

    Args:
        environment: The environment's variables.
    """
    if environment.get("AZURE_STORAGE_CONNECTION_STRING"):
        return {}
    if _emulated(environment):
        where = environment.get("AZURITE_BLOB_STORAGE_URL", "http://127.0.0.1:10000")
        text = f"{_EMULATED}BlobEndpoint={where}/devstoreaccount1;"
        return {"AZURE_STORAGE_CONNECTION_STRING": text}
    account = environment.get("AZURE_STORAGE_ACCOUNT_NAME")
    if account and (token := environment.get("AZURE_STORAGE_SAS_TOKEN")):
        text = f"BlobEndpoint=https://{account}.blob.core.windows.net;SharedAccessSignature="
        return {"AZURE_STORAGE_CONNECTION_STRING": text + token.lstrip("?")}
    if key := environment.get("AZURE_STORAGE_ACCOUNT_KEY"):
        return {"AZURE_STORAGE_ACCESS_KEY": key}
    return {}


def _emulated(environment: Mapping[str, str]) -> bool:
    return environment.get("AZURE_STORAGE_USE_EMULATOR", "").lower() in {"true", "1"}


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
