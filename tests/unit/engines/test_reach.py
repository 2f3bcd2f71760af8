"""Endpoints that are not what is wanted: said in seconds, with what to do."""

import contextlib
import http.server
import socket
import threading
import time
from concurrent import futures

import grpc
import pytest
from pyspark.sql.connect.proto import AnalyzePlanResponse
from pyspark.sql.connect.proto.base_pb2_grpc import (
    SparkConnectServiceServicer,
    add_SparkConnectServiceServicer_to_server,
)

from shoal.engines import SparkHome, connect, java
from shoal.engines.reach import Unready, ask_version, check_delta, check_engine, check_folder
from shoal.errors import EngineError, Unavailable


@contextlib.contextmanager
def http_server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    server.RequestHandlerClass.log_message = lambda *_: None
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def grpc_server(servicer=None):
    with futures.ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        port = server.add_insecure_port("127.0.0.1:0")
        if servicer:
            add_SparkConnectServiceServicer_to_server(servicer, server)
        server.start()
        try:
            yield port
        finally:
            server.stop(None).wait()


class Old(SparkConnectServiceServicer):
    def AnalyzePlan(self, request, context):
        answer = AnalyzePlanResponse(session_id=request.session_id)
        answer.spark_version.version = "3.5.1"
        return answer


class Closed(SparkConnectServiceServicer):
    def AnalyzePlan(self, request, context):
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")


def refused(url, kind, *said):
    begun = time.monotonic()
    with pytest.raises(kind) as caught:
        connect(url)
    assert time.monotonic() - begun < 20
    for word in said:
        assert word in str(caught.value)
    return caught.value


def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    error = refused(f"sc://127.0.0.1:{port}", Unavailable, f"No server at sc://127.0.0.1:{port}")
    assert error.exit_code == 75
    assert "shoal.toml" in error.hint


def test_a_host_that_is_none() -> None:
    refused("sc://no-such-host.invalid:15002", Unavailable, "No server at")


def test_a_web_server_is_no_spark_connect() -> None:
    with http_server() as port:
        refused(f"sc://127.0.0.1:{port}", EngineError, "does not answer as Spark Connect", "15002")


def test_another_grpc_server_is_none_either() -> None:
    with grpc_server() as port:
        refused(f"sc://127.0.0.1:{port}", EngineError, "speaks gRPC, but is no Spark Connect")


def test_a_server_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"sc://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(Unready) as caught:
            ask_version(url, timeout=1.0)
        with pytest.raises(Unavailable, match="gives no answer"):
            check_engine(url, timeout=1.0)
    assert caught.value.retry


def test_an_old_spark() -> None:
    with grpc_server(Old()) as port:
        refused(f"sc://127.0.0.1:{port}", EngineError, "is Spark 3.5.1", "Run Spark 4")


def test_a_token_is_asked_for_and_never_shown() -> None:
    with grpc_server(Closed()) as port:
        error = refused(f"sc://localhost:{port}/;token=hush", EngineError, "refuses this client")
    assert "hush" not in str(error)


@pytest.mark.parametrize("url", ["sc://", "sc://host:many", "sc://host:1/path"])
def test_urls_that_are_none(url) -> None:
    with pytest.raises(EngineError):
        connect(url)


def test_names_that_are_none() -> None:
    refused("sparc", EngineError, "Did you mean 'spark'?", "sail-cluster")


def test_a_folder_that_both_see(engine, tmp_path) -> None:
    check_folder(engine.spark, engine.url, tmp_path / "lake")
    assert list((tmp_path / "lake").iterdir()) == []
    check_delta(engine.spark, engine.url)


def test_a_folder_that_the_engine_does_not_see(engine, tmp_path, monkeypatch) -> None:
    import shoal.engines.reach as reach
    from shoal.store import LocalStore

    class Elsewhere(LocalStore):
        """A file system of another machine: what is written here is nowhere else."""

        def write(self, *_):
            return None

    monkeypatch.setattr(reach, "open_store", Elsewhere)
    (tmp_path / "lake").mkdir()
    with pytest.raises(EngineError, match="do not share"):
        check_folder(engine.spark, "sc://far:15002/;token=hush", tmp_path / "lake")
    assert list((tmp_path / "lake").iterdir()) == []


def test_spark_and_java_that_are_missing(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SHOAL_SPARK_HOME", str(tmp_path / "none"))
    with pytest.raises(EngineError, match="shoal spark setup"):
        SparkHome.find()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(EngineError, match="needs Java 17"):
        java()
    old = tmp_path / "bin/java"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")
    old.chmod(0o755)
    with pytest.raises(EngineError, match="is 11"):
        java()
