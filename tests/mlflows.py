"""MLflow's own server on PostgreSQL, a proxy that is as busy as a test wants, and a browser."""

from __future__ import annotations

import contextlib
import http.client
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit


def missing_postgres() -> str | None:
    """Why no PostgreSQL can be started here; None when it can."""
    if postgres_folder() is None:
        return "PostgreSQL's server is not installed"
    if os.getuid() == 0 and shutil.which("runuser") is None:
        return "initdb refuses root, and there is no runuser"
    return None


def postgres_folder() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    program = shutil.which("initdb")
    return None if program is None else Path(program).parent


@contextlib.contextmanager
def running_postgres() -> Iterator[str]:
    """A private cluster; gives its SQLAlchemy URI."""
    programs = postgres_folder()
    assert programs is not None
    # Below pytest's own folders a user of another id may not pass.
    folder = Path(tempfile.mkdtemp(prefix="shoal-postgres-"))
    user, before = "postgres", list[str]()
    if os.getuid() == 0:
        about = pwd.getpwnam(user)
        os.chown(folder, about.pw_uid, about.pw_gid)
        before = ["runuser", "-u", user, "--"]
    port = free_port()

    def run(*command: str) -> None:
        done = subprocess.run(
            [*before, *command], capture_output=True, text=True, check=False, cwd="/"
        )
        assert done.returncode == 0, done.stderr

    data = str(folder / "data")
    run(str(programs / "initdb"), "-D", data, "-U", user, "--auth=trust", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
    pg_ctl = str(programs / "pg_ctl")
    run(pg_ctl, "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
    try:
        yield f"postgresql+psycopg://{user}@127.0.0.1:{port}/postgres"
    finally:
        run(pg_ctl, "-D", data, "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class MlflowServer:
    """``mlflow server`` on a port of its own, which can be stopped and started again.

    Args:
        store: URI of its database.
        folder: Where it keeps artifacts and its log.
    """

    def __init__(self, store: str, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._command = [sys.executable, "-m", "mlflow", "server", "--port", str(self.port)]
        self._command += ["--workers", "1", "--backend-store-uri", store, "--serve-artifacts"]
        self._command += ["--artifacts-destination", str(folder / "kept")]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        variables = os.environ | {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        variables.pop("MLFLOW_TRACKING_URI", None)
        log = self._folder / "mlflow.txt"
        with log.open("a") as stream:
            self._process = subprocess.Popen(
                self._command,
                env=variables,
                cwd=self._folder,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        deadline = time.monotonic() + 180
        while not self._answers():
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, 15)
            self._process.wait(30)


class BusyProxy:
    """Passes requests on, but answers the next ones with the statuses that it was told.

    Attributes:
        answers: What to answer next instead of passing on; ``0`` cuts the connection.
        asked: Method and path of each request.
        version: What ``/version`` says instead of the server; None passes it on.
    """

    def __init__(self, target: str) -> None:
        self.answers: list[int] = []
        self.asked: list[str] = []
        self.version: str | None = None
        proxy, host = self, urlsplit(target).netloc

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Says nothing."""

            def passed(self) -> None:
                proxy.asked.append(f"{self.command} {urlsplit(self.path).path}")
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if proxy.answers:
                    status = proxy.answers.pop(0)
                    if status == 0:
                        self.close_connection = True
                        self.connection.shutdown(socket.SHUT_RDWR)
                        return
                    self.reply(status, b'{"error_code": "BUSY"}', {})
                    return
                if proxy.version is not None and self.path == "/version":
                    self.reply(200, proxy.version.encode(), {})
                    return
                onward = http.client.HTTPConnection(host, timeout=120)
                sent = {k: v for k, v in self.headers.items() if k.lower() != "host"}
                onward.request(self.command, self.path, body, sent)
                answer = onward.getresponse()
                self.reply(answer.status, answer.read(), dict(answer.getheaders()))
                onward.close()

            def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() in {"content-type", "content-disposition"}:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = passed

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextlib.contextmanager
    def running(self) -> Iterator[BusyProxy]:
        thread = Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()
