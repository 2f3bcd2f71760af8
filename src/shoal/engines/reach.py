"""Whether an endpoint is one that Shoal can work with, told in seconds.

pyspark's client retries what does not answer for ten minutes. So a server is asked once, without
retries, before a session is opened; then whether it writes Delta, and into the same folder.
Protocol: Spark Connect's ``base.proto`` (``AnalyzePlan`` with ``SparkVersion``).
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import grpc  # type: ignore[import-untyped]

from shoal.errors import EngineError, Unavailable
from shoal.store import open_store

if TYPE_CHECKING:
    from pyspark.sql.connect.session import SparkSession

__all__ = ["Unready", "ask_version", "check_delta", "check_engine", "check_folder"]

_DEFAULT_PORT = 15002
_NEWEST_OLD = 3  # Spark 3's Connect lacks what pyspark 4's client sends
_LOOK = "Look whether the server runs there, and at the engine= of the profile in shoal.toml"


class Unready(Exception):
    """An endpoint does not answer as Spark Connect does.

    Args:
        message: What was found.
        hint: What to do next.
        retry: It may answer later.
    """

    def __init__(self, message: str, hint: str, *, retry: bool = False) -> None:
        super().__init__(message)
        self.message, self.hint, self.retry = message, hint, retry


def check_engine(url: str, *, timeout: float = 10.0) -> str:
    """The version that an endpoint says it has.

    Args:
        url: A Spark Connect URL.
        timeout: Seconds for connecting, and again for its answer.

    Raises:
        Unavailable: Nobody answers there, which may pass.
        EngineError: It is no Spark Connect, refuses the token, or is too old.
    """
    try:
        version = ask_version(url, timeout=timeout)
    except Unready as found:
        kind = Unavailable if found.retry else EngineError
        raise kind(found.message, hint=found.hint) from found
    major = version.partition(".")[0]
    if major.isdigit() and int(major) <= _NEWEST_OLD:
        raise EngineError(
            f"The engine at {shown(url)} is Spark {version}; Shoal speaks Spark Connect 4.",
            hint="Run Spark 4 there, for example 4.2: its Connect server is sbin/"
            "start-connect-server.sh",
        )
    return version


def shown(url: str) -> str:
    """A URL without its parameters, which may hold a token."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def ask_version(url: str, *, timeout: float) -> str:
    """Asks an endpoint once.

    Raises:
        Unready: It is not there, or not what is wanted.
    """
    from pyspark.errors import PySparkException
    from pyspark.sql.connect.client import DefaultChannelBuilder
    from pyspark.sql.connect.proto import AnalyzePlanRequest, UserContext
    from pyspark.sql.connect.proto.base_pb2_grpc import SparkConnectServiceStub

    try:
        builder = DefaultChannelBuilder(url)
    except (PySparkException, ValueError) as error:
        raise Unready(
            f"'{shown(url)}' is no Spark Connect URL: {error}", "Write it as sc://host:15002"
        ) from error
    host, port = urlsplit(url).hostname or "", urlsplit(url).port or _DEFAULT_PORT
    try:
        socket.create_connection((host, port), timeout=timeout).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise Unready(f"No server at {shown(url)}: {reason}.", _LOOK + ".", retry=True) from error
    request = AnalyzePlanRequest(
        session_id=str(uuid.uuid4()),
        user_context=UserContext(user_id=builder.userId or ""),
        client_type=builder.userAgent,
        spark_version=AnalyzePlanRequest.SparkVersion(),
    )
    with contextlib.closing(builder.toChannel()) as channel:
        try:
            stub: Any = cast("Any", SparkConnectServiceStub)(channel)
            answer = stub.AnalyzePlan(request, timeout=timeout, metadata=builder.metadata())
        except grpc.RpcError as error:
            raise _why(url, error) from error
    version: str = answer.spark_version.version
    return version


def _why(url: str, error: grpc.RpcError) -> Unready:
    where, code, said = shown(url), error.code(), error.details() or ""
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return Unready(
            f"The engine at {where} refuses this client: {said}",
            f'Give its token: engine = "{where}/;token=..."',
        )
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return Unready(
            f"What answers at {where} speaks gRPC, but is no Spark Connect server ({said}).",
            _LOOK + "; Spark Connect's usual port is 15002.",
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Unready(
            f"The server at {where} takes connections but gives no answer.",
            _LOOK + "; Spark Connect's usual port is 15002.",
            retry=True,
        )
    return Unready(
        f"What listens at {where} does not answer as Spark Connect does ({code.name}: {said}).",
        _LOOK + "; Spark Connect's usual port is 15002, TLS is asked for by /;use_ssl=true.",
    )


def check_delta(spark: SparkSession, url: str) -> None:
    """Asks an engine whether it reads Delta tables.

    Args:
        spark: A session on it.
        url: For the message.

    Raises:
        EngineError: It does not.
    """
    from pyspark.errors import PySparkException

    try:
        _ = spark.read.format("delta").load(f"/shoal-{uuid.uuid4()}").schema
    except PySparkException as error:
        said = str(error)
        if "DATA_SOURCE_NOT_FOUND" in said or "ClassNotFoundException" in said:
            raise EngineError(
                f"The engine at {shown(url)} (Spark {spark.version}) has no Delta Lake.",
                hint="Start it with --packages io.delta:delta-spark_2.13:<version for its Spark> "
                "--conf spark.sql.extensions=io.delta.sql.DeltaSparkSessionExtension "
                "--conf spark.sql.catalog.spark_catalog="
                "org.apache.spark.sql.delta.catalog.DeltaCatalog",
            ) from error


def check_folder(spark: SparkSession, url: str, folder: Path | str) -> None:
    """Proves that an engine reads and writes the same folder as this process.

    Args:
        spark: A session on it.
        url: For the message.
        folder: The lake's, on a file system, or its URL.

    Raises:
        EngineError: It does not see what is written here, or its files are not seen here.
    """
    from pyspark.errors import PySparkException

    store, word = open_store(folder), secrets.token_hex(8)
    left, answer = f".shoal-{word}", f".shoal-{word}-answer"
    store.write(f"{left}/part.txt", word.encode())
    try:
        spark.read.text(store.path(f"{left}/part.txt")).write.text(store.path(answer))
        parts = [file.name for file in store.files(answer)]
        data = [name for name in parts if not name.rpartition("/")[2].startswith((".", "_"))]
        found = b"".join(store.read(name) for name in data).decode().strip()
        said = f"it read {found!r}" if found != word else ""
    except (PySparkException, OSError) as error:
        said = str(error).strip().splitlines()[0][:300]
    finally:
        store.remove(left)
        store.remove(answer)
    if said:
        raise EngineError(
            f"The engine at {shown(url)} and this process do not share {folder}: {said}",
            hint='Give the profile a storage that both see: storage = "/shared/lake" in '
            "shoal.toml, on a file system mounted at the same path; or an object store that both "
            "have credentials for (Apache Spark writes s3a:// for s3://)",
        )
