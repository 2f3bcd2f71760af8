"""Real object stores for tests: moto's S3 server and Azurite, and a proxy that counts and throttles.

``python tests/stores.py`` fetches Azurite with npm into a cache folder, once; the tests themselves
fetch nothing.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "shoal-tests"
AZURITE = "3.35.0"
# Azurite's own account, the same on every machine.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
FAMILIES = ("AWS_", "AZURE_", "AZURITE_", "GOOGLE_", "STORAGE_EMULATOR_")


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """A running object store and what a client must have in its environment.

    Args:
        kind: ``s3``, ``azure`` or ``gs``.
        endpoint: Where it answers.
        environment: What clients need.
    """

    kind: str
    endpoint: str
    environment: dict[str, str]

    def at(self, endpoint: str) -> Cloud:
        """The same store behind another address."""
        old = self.endpoint
        moved = {k: v.replace(old, endpoint) for k, v in self.environment.items()}
        if account := moved.get("GOOGLE_SERVICE_ACCOUNT"):
            other = Path(account).with_name(f"account-{urlsplit(endpoint).port}.json")
            other.write_text(Path(account).read_text().replace(old, endpoint))
            moved["GOOGLE_SERVICE_ACCOUNT"] = str(other)
        return Cloud(kind=self.kind, endpoint=endpoint, environment=moved)

    def bucket(self) -> str:
        """Makes a bucket or container; gives its URL."""
        name = f"lake-{uuid.uuid4().hex[:12]}"
        if self.kind == "s3":
            self.s3().create_bucket(Bucket=name)
            return f"s3://{name}"
        if self.kind == "gs":
            self.google().create_bucket(name)
            return f"gs://{name}"
        self.blobs().create_container(name)
        return f"az://{name}"

    def s3(self) -> Any:
        """boto3's client, the second implementation that tests look with."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="testtest",
        )

    def blobs(self) -> Any:
        """Azure's own client, the second implementation that tests look with."""
        from azure.storage.blob import BlobServiceClient

        return BlobServiceClient.from_connection_string(connection(self.endpoint))

    def google(self) -> Any:
        """Google's own client, the second implementation that tests look with."""
        from google.auth.credentials import AnonymousCredentials
        from google.cloud.storage import Client

        return Client(
            "tests",
            credentials=AnonymousCredentials(),
            client_options={"api_endpoint": self.endpoint},
        )

    def names(self, url: str) -> set[str]:
        """The names of all objects of a bucket, as its own client lists them."""
        bucket = urlsplit(url).netloc
        if self.kind == "s3":
            pages = self.s3().get_paginator("list_objects_v2").paginate(Bucket=bucket)
            return {entry["Key"] for page in pages for entry in page.get("Contents", ())}
        if self.kind == "gs":
            return {blob.name for blob in self.google().list_blobs(bucket)}
        return {blob.name for blob in self.blobs().get_container_client(bucket).list_blobs()}

    def put(self, url: str, data: bytes) -> None:
        """Writes one object with the store's own client."""
        parts = url.partition("://")[2].split("/", 1)
        if self.kind == "s3":
            self.s3().put_object(Bucket=parts[0], Key=parts[1], Body=data)
        elif self.kind == "gs":
            self.google().bucket(parts[0]).blob(parts[1]).upload_from_string(data)
        else:
            self.blobs().get_blob_client(parts[0], parts[1]).upload_blob(data, overwrite=True)

    def read(self, url: str) -> bytes:
        """Reads one object with the store's own client."""
        bucket, _, name = url.partition("://")[2].partition("/")
        if self.kind == "s3":
            return bytes(self.s3().get_object(Bucket=bucket, Key=name)["Body"].read())
        if self.kind == "gs":
            return bytes(self.google().bucket(bucket).blob(name).download_as_bytes())
        return bytes(self.blobs().get_blob_client(bucket, name).download_blob().readall())

    @contextlib.contextmanager
    def set(self) -> Iterator[None]:
        """Puts what clients need into the environment, and nothing else of these stores."""
        before = {name: os.environ.pop(name) for name in list(os.environ) if _ours(name)}
        os.environ.update(self.environment)
        try:
            yield
        finally:
            for name in list(os.environ):
                if _ours(name):
                    del os.environ[name]
            os.environ.update(before)


def _ours(name: str) -> bool:
    return name.startswith(FAMILIES)


def connection(endpoint: str) -> str:
    """Azurite's connection string at an address."""
    return (
        f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};"
        f"BlobEndpoint={endpoint}/{ACCOUNT};"
    )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def running_process(command: list[str], port: int, folder: Path) -> Iterator[None]:
    path = folder / "server.log"
    with path.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        until = time.monotonic() + 90
        while True:
            assert process.poll() is None, f"the server ended:\n{path.read_text()}"
            assert time.monotonic() < until, f"the server does not answer:\n{path.read_text()}"
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            threading.Event().wait(0.05)
        yield
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def running_s3(folder: Path) -> Iterator[Cloud]:
    """moto's S3 server in a process of its own."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with running_process(command, port, folder):
        endpoint = f"http://127.0.0.1:{port}"
        yield Cloud(
            kind="s3",
            endpoint=endpoint,
            environment={
                "AWS_ENDPOINT_URL": endpoint,
                "AWS_ALLOW_HTTP": "true",
                "AWS_REGION": "us-east-1",
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "testtest",
            },
        )


def azurite() -> Path:
    """Where Azurite is, or will be."""
    return CACHE / f"azurite-{AZURITE}" / "node_modules" / ".bin" / "azurite-blob"


def missing() -> str | None:
    """Why there is no Azurite here, or None when there is."""
    if shutil.which("node") is None:
        return "no Node.js: apt-get install nodejs npm"
    if not azurite().exists():
        why = "Azurite is missing: python tests/stores.py fetches it"
        if os.environ.get("SHOAL_TEST_AZURITE") == "1":  # whoever asks for the tests gets no skip
            raise RuntimeError(why)
        return why
    return None


def fetch() -> None:
    """Installs Azurite with npm."""
    if azurite().exists():
        return
    draft = CACHE / f".draft-{os.getpid()}"
    draft.mkdir(parents=True)
    try:
        command = ["npm", "install", "--no-audit", "--no-fund", "--silent", "--prefix", str(draft)]
        subprocess.run([*command, f"azurite@{AZURITE}"], check=True)
        shutil.rmtree(azurite().parents[2], ignore_errors=True)
        draft.rename(azurite().parents[2])
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextlib.contextmanager
def running_azure(folder: Path) -> Iterator[Cloud]:
    """Azurite's blob service in a process of its own."""
    port = free_port()
    command = [str(azurite()), "--location", str(folder), "--blobHost", "127.0.0.1"]
    command += ["--blobPort", str(port), "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    with running_process(command, port, folder):
        endpoint = f"http://127.0.0.1:{port}"
        yield Cloud(
            kind="azure",
            endpoint=endpoint,
            environment={
                "AZURE_STORAGE_USE_EMULATOR": "true",
                "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
                "AZURITE_BLOB_STORAGE_URL": endpoint,
            },
        )


_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}
_CONTROL = "/-/proxy"


class Proxy:
    """A process between clients and a store, which counts requests and refuses some.

    It is a process of its own, since libraries may hold Python's lock while they wait for it.

    Args:
        endpoint: Where it answers.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    def refuse(
        self, status: int, *, every: int = 1, kind: str = "", part: str = "", times: int = -1
    ) -> None:
        """Refuses each ``every``-th request of a kind whose path has a part; 0 refuses none.

        Args:
            status: What it answers.
            every: Which of them.
            kind: ``LIST``, ``GET``, ``HEAD``, ``PUT``, ``POST`` or ``DELETE``; any if empty.
            part: A part of the path.
            times: At most so often.
        """
        rule = {"status": status, "every": every, "kind": kind, "part": part, "times": times}
        self._ask("PUT", json.dumps(rule).encode())

    def seen(self) -> Counter[str]:
        """Requests by kind since the last time that was asked; ``refused`` counts those too."""
        return Counter(json.loads(self._ask("GET")))

    def _ask(self, method: str, body: bytes | None = None) -> bytes:
        where = urlsplit(self.endpoint)
        link = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
        with contextlib.closing(link):
            link.request(method, _CONTROL, body=body)
            return link.getresponse().read()


@contextlib.contextmanager
def proxied(cloud: Cloud) -> Iterator[tuple[Cloud, Proxy]]:
    """A store behind a proxy."""
    command = [sys.executable, str(Path(__file__)), "proxy", cloud.endpoint]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        endpoint = process.stdout.readline().strip()
        yield cloud.at(endpoint), Proxy(endpoint)
    finally:
        process.terminate()
        process.communicate(timeout=30)


def _serve_proxy(target: str) -> None:
    seen: Counter[str] = Counter()
    rule: dict[str, Any] = {"status": 0, "every": 1, "kind": "", "part": "", "times": -1}
    met: Counter[str] = Counter()
    lock = threading.Lock()

    def refused(kind: str, path: str) -> int:
        with lock:
            seen[kind] += 1
            fits = rule["status"] and rule["kind"] in ("", kind) and rule["part"] in unquote(path)
            if not fits or not rule["times"]:
                return 0
            met["all"] += 1
            if met["all"] % rule["every"]:
                return 0
            rule["times"] -= 1
            seen["refused"] += 1
            return int(rule["status"])

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path == _CONTROL:
                with lock:
                    if self.command == "PUT":
                        rule.update(json.loads(body))
                        met.clear()
                    text = json.dumps(seen).encode()
                    if self.command == "GET":
                        seen.clear()
                self._answer(200, {}, text)
                return
            asked = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
            listing = "list-type" in asked or asked.get("comp") == ["list"]
            if status := refused("LIST" if listing else self.command, self.path):
                text = b"<Error><Code>SlowDown</Code><Message>Reduce your rate.</Message></Error>"
                self._answer(status, {"Content-Type": "application/xml"}, text)
                return
            where = urlsplit(target)
            link = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
            with contextlib.closing(link):
                headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
                link.request(self.command, self.path, body=body or None, headers=headers)
                answer = link.getresponse()
                data = answer.read()
                kept = {k: v for k, v in answer.getheaders() if k.lower() not in _HOP}
                if self.command == "HEAD":
                    kept["Content-Length"] = answer.getheader("Content-Length") or "0"
                self._answer(answer.status, kept, data)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _any

        def _answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: Any) -> None:
            """A client that hangs up is no error of ours."""

    server = Server(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1:2] == ["proxy"]:
        _serve_proxy(sys.argv[2])
    else:
        fetch()
