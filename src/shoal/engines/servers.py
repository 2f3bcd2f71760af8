"""Engines that Shoal starts beside its own process: Apache Spark, and Sail as a cluster."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from shoal.engines.reach import Unready, ask_version
from shoal.engines.sparkhome import SparkHome, java
from shoal.errors import EngineError

__all__ = ["LocalServer", "sail_cluster", "spark_server"]

_START = 300.0  # seconds; a JVM needs 8, on a machine with ten times too much to do 80


class LocalServer:
    """A Spark Connect server of this machine, on loopback, that ends with this process.

    Args:
        name: What it is called in errors.
        command: What to start; it listens on ``port``.
        port: A free port.
        environment: Variables beside this process's own.
        token: What the server asks of its clients; none where it cannot ask.
        folder: Its scratch space, removed at the end; its log is in there.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        port: int,
        folder: Path,
        environment: Mapping[str, str],
        token: str | None = None,
    ) -> None:
        self.name, self.folder, self.port = name, folder, port
        self.url = f"sc://localhost:{port}" + (f"/;token={token}" if token else "")
        self._log = folder / "server.log"
        leash = Path(__file__).with_name("leash.py")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - no shell, and our own arguments
                [sys.executable, "-I", str(leash), *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**os.environ, **environment},
                start_new_session=True,  # a terminal's Ctrl-C is for the run, not for its server
            )

    @property
    def pid(self) -> int:
        """The process that holds the server on its leash."""
        return self._process.pid

    def wait(self, seconds: float = _START) -> Self:
        """Returns when the server answers.

        Raises:
            EngineError: It ended, or did not answer in time; the message has its last lines.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self._process.poll() is not None:
                break
            try:
                ask_version(self.url, timeout=2.0)
            except Unready:
                time.sleep(0.1)
                continue
            return self
        said = self._log.read_text(errors="replace").strip().splitlines()[-8:]
        ended = self._process.poll()
        what = "did not answer" if ended is None else f"ended with {ended}"
        self.stop()
        raise EngineError(
            f"{self.name} {what}. It said last:\n" + "\n".join(said),
            hint='engine = "embedded" needs no server',
        )

    def stop(self) -> None:
        """Ends the server and removes its scratch space."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def spark_server(
    home: SparkHome | None = None, settings: Mapping[str, str] | None = None
) -> LocalServer:
    """Starts Apache Spark's Connect server with Delta Lake, on all cores of this machine.

    Args:
        home: Where Spark is; None finds it.
        settings: Spark's settings instead of those chosen here.

    Raises:
        EngineError: Spark or Java is missing, or the server does not start.
    """
    home = home or SparkHome.find()
    folder = Path(tempfile.mkdtemp(prefix="shoal-spark-"))
    port, token = _free_port(), secrets.token_urlsafe(24)
    chosen = {
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.connect.grpc.binding.port": str(port),
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.memory": _quarter(),
        "spark.local.dir": str(folder / "scratch"),
        "spark.log.level": "WARN",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.session.timeZone": "UTC",
        # On one machine: as many as there are cores, instead of a cluster's 200.
        "spark.sql.shuffle.partitions": str(max(os.cpu_count() or 1, 4)),
        "spark.databricks.delta.snapshotPartitions": "1",
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.ui.enabled": "false",
        **(_s3_settings(os.environ) if home.reads_s3 else {}),
        **(settings or {}),
    }
    command = [str(home.folder / "bin/spark-submit"), "--master", "local[*]"]
    command += ["--class", "org.apache.spark.sql.connect.service.SparkConnectServer"]
    command += ["--jars", ",".join(map(str, home.jars()))]
    for key, value in chosen.items():
        command += ["--conf", f"{key}={value}"]
    environment = {
        "JAVA_HOME": java(),
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_CONNECT_AUTHENTICATE_TOKEN": token,
        "SPARK_HOME": str(home.folder),
    }
    server = LocalServer(
        f"Apache Spark {home.version}",
        [*command, "spark-internal"],
        port=port,
        folder=folder,
        environment=environment,
        token=token,
    )
    return server.wait()


def _s3_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """What Spark needs for ``s3://`` paths, by the variables that all of Amazon's clients know."""
    found = {
        # Paths say s3, as everywhere; Hadoop calls the same store s3a.
        "spark.hadoop.fs.s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem",
        "spark.hadoop.fs.s3a.aws.credentials.provider": (
            "software.amazon.awssdk.auth.credentials.DefaultCredentialsProvider"
        ),
    }
    if region := environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION"):
        found["spark.hadoop.fs.s3a.endpoint.region"] = region
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    if endpoint:
        found["spark.hadoop.fs.s3a.endpoint"] = endpoint
        found["spark.hadoop.fs.s3a.path.style.access"] = "true"
        secure = str(endpoint.startswith("https:")).lower()
        found["spark.hadoop.fs.s3a.connection.ssl.enabled"] = secure
    return found


def sail_cluster(workers: int | None = None) -> LocalServer:
    """Starts Sail as a cluster on this machine: a driver and workers that exchange rows over gRPC.

    Args:
        workers: How many; None is one for each core, at least two.

    Raises:
        EngineError: It does not start.
    """
    count = workers or max(os.cpu_count() or 1, 2)
    folder = Path(tempfile.mkdtemp(prefix="shoal-sail-"))
    port = _free_port()
    environment = {
        "RUST_LOG": "error",
        "SAIL_MODE": "local-cluster",
        "SAIL_CLUSTER__WORKER_INITIAL_COUNT": str(count),
        "SAIL_CLUSTER__WORKER_MAX_COUNT": str(count),
        "SAIL_PARQUET__COMPRESSION": "zstd(1)",
    }
    command = [sys.executable, "-m", "pysail", "spark", "server"]
    server = LocalServer(
        f"Sail with {count} workers",
        [*command, "--ip", "127.0.0.1", "--port", str(port)],
        port=port,
        folder=folder,
        environment=environment,
    )
    return server.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _quarter() -> str:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{max(total // 4 // 2**20, 1024)}m"
