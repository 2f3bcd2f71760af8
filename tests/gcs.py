"""A real Google Cloud Storage server for tests: fake-gcs-server, and what it lacks of the XML API.

``python tests/gcs.py`` builds it from Go modules into a cache folder, once. Clients of Google's own
speak its JSON API; delta-rs, Polars and Sail speak the XML API, of which fake-gcs-server only reads.
So a process stands before it that says each XML write as the JSON request that Google documents for
it (https://cloud.google.com/storage/docs/xml-api/reference-headers): objects and their generations
are the server's alone.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from stores import Cloud

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "shoal-tests"
VERSION = "v1.56.1"


def server() -> Path:
    """Where the server is, or will be."""
    return CACHE / f"fake-gcs-{VERSION}" / "fake-gcs-server"


def missing() -> str | None:
    """Why there is no such server here, or None when there is."""
    return (
        None if server().exists() else "fake-gcs-server is missing: python tests/gcs.py builds it"
    )


def build() -> None:
    """Builds the server, where there is a Go."""
    if server().exists():
        return
    go = shutil.which("go") or "/usr/local/go/bin/go"
    draft = CACHE / f".draft-{os.getpid()}"
    draft.mkdir(parents=True)
    try:
        module = f"github.com/fsouza/fake-gcs-server@{VERSION}"
        environment = {**os.environ, "GOBIN": str(draft), "CGO_ENABLED": "0"}
        subprocess.run([go, "install", module], check=True, env=environment)
        server().parent.mkdir(parents=True, exist_ok=True)
        (draft / "fake-gcs-server").replace(server())
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextlib.contextmanager
def running_gcs(folder: Path) -> Iterator[Cloud]:
    """The server, in memory.

    Args:
        folder: For the file with the service account, as Google's tools take one.
    """
    from stores import Cloud, free_port, running_process

    inner, outer = free_port(), free_port()
    endpoint = f"http://127.0.0.1:{outer}"
    command = [str(server()), "-scheme", "http", "-host", "127.0.0.1", "-port", str(inner)]
    command += ["-backend", "memory", "-public-host", f"127.0.0.1:{inner}", "-log-level", "error"]
    command += ["-external-url", endpoint]
    front = [sys.executable, str(Path(__file__).absolute()), str(inner), str(outer)]
    account = folder / "account.json"
    account.write_text(
        json.dumps(
            {"gcs_base_url": endpoint, "disable_oauth": True}
            | {"client_email": "", "private_key": "", "private_key_id": ""}
        )
    )
    parts = [folder / "server", folder / "front"]
    for part in parts:
        part.mkdir()
    with (
        running_process(command, inner, parts[0]),
        running_process(front, outer, parts[1]),
    ):
        yield Cloud(
            kind="gs",
            endpoint=endpoint,
            environment={
                "GOOGLE_SERVICE_ACCOUNT": str(account),
                "STORAGE_EMULATOR_HOST": endpoint,
                "GOOGLE_CLOUD_PROJECT": "tests",
            },
        )


class _Front(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    inner = 0
    parts: ClassVar[dict[str, dict[int, bytes]]] = {}
    lock = threading.Lock()

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        where = urlsplit(self.path)
        asked = parse_qs(where.query, keep_blank_values=True)
        bucket, _, name = where.path.lstrip("/").partition("/")
        own = bucket not in ("storage", "upload", "batch", "download", "b", "_internal") and name
        if self.command == "GET" and "list-type" in asked and not name:
            self._listed(bucket.strip("/"), asked)
        elif own and self.command in ("PUT", "POST", "DELETE"):
            self._xml(bucket, unquote(name), asked, body)
        else:
            headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP}
            self._answer(*self._ask(self.command, self.path, body, headers))

    def _xml(self, bucket: str, name: str, asked: dict[str, list[str]], body: bytes) -> None:
        """A write in the words of the XML API."""
        upload = asked.get("uploadId", [""])[0]
        if "uploads" in asked:
            made = uuid.uuid4().hex
            with self.lock:
                self.parts[made] = {}
            text = f"<InitiateMultipartUploadResult><Bucket>{bucket}</Bucket><Key>k</Key>"
            self._answer(200, {}, f"{text}<UploadId>{made}</UploadId>"
                         "</InitiateMultipartUploadResult>".encode())  # fmt: skip
        elif upload and self.command == "PUT":
            number = int(asked["partNumber"][0])
            with self.lock:
                self.parts[upload][number] = body
            self._answer(200, {"ETag": f'"{number}"'}, b"")
        elif upload and self.command == "DELETE":
            with self.lock:
                self.parts.pop(upload, None)
            self._answer(204, {}, b"")
        elif upload:
            with self.lock:
                parts = self.parts.pop(upload)
            whole = b"".join(parts[number] for number in sorted(parts))
            status, headers, _ = self._written(bucket, name, whole)
            text = f"<CompleteMultipartUploadResult><ETag>{headers.get('ETag', '')}</ETag>"
            self._answer(status, headers, f"{text}</CompleteMultipartUploadResult>".encode())
        elif self.command == "DELETE":
            path = f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}"
            status, headers, said = self._ask("DELETE", path, b"", {})
            self._answer(204 if status == 200 else status, headers, said)
        elif source := self.headers.get("x-goog-copy-source"):
            from_bucket, _, from_name = unquote(source).lstrip("/").partition("/")
            path = f"/storage/v1/b/{from_bucket}/o/{quote(from_name, safe='')}"
            path += f"/rewriteTo/b/{bucket}/o/{quote(name, safe='')}?{urlencode(self._condition())}"
            status, _, said = self._ask("POST", path, b"", {})
            self._answer(status, {}, b"<CopyObjectResult/>" if status == 200 else said)
        else:
            self._answer(*self._written(bucket, name, body))

    def _listed(self, bucket: str, asked: dict[str, list[str]]) -> None:
        """A listing in the words of the XML API."""
        given = {name: values[0] for name, values in asked.items()}
        query = {"prefix": given.get("prefix", ""), "maxResults": given.get("max-keys", "1000")}
        if after := given.get("start-after"):
            query["startOffset"] = after + chr(0)  # theirs is included, ours is not
        if "delimiter" in given:
            query["delimiter"] = given["delimiter"]
        if token := given.get("continuation-token"):
            query["pageToken"] = token
        path = f"/storage/v1/b/{bucket}/o?{urlencode(query)}"
        status, _, said = self._ask("GET", path, b"", {})
        if status == 404:
            said = b"<Error><Code>NoSuchBucket</Code><Message>The specified bucket does not exist."
            said += b"</Message></Error>"
        if status != 200:
            self._answer(status, {}, said)
            return
        found = json.loads(said)
        parts = ["<ListBucketResult>"]
        for one in found.get("items", []):
            etag = escape(one["etag"], {'"': "&quot;"})
            parts.append(
                f"<Contents><Key>{escape(one['name'])}</Key><Size>{one['size']}</Size>"
                f"<LastModified>{one['updated']}</LastModified><ETag>{etag}</ETag></Contents>"
            )
        for prefix in found.get("prefixes", []):
            parts.append(f"<CommonPrefixes><Prefix>{escape(prefix)}</Prefix></CommonPrefixes>")
        if following := found.get("nextPageToken"):
            parts.append(f"<NextContinuationToken>{escape(following)}</NextContinuationToken>")
        parts.append("</ListBucketResult>")
        self._answer(200, {"Content-Type": "application/xml"}, "".join(parts).encode())

    def _condition(self) -> dict[str, str]:
        wanted = self.headers.get("x-goog-if-generation-match")
        return {} if wanted is None else {"ifGenerationMatch": wanted}

    def _written(self, bucket: str, name: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        query = urlencode({"uploadType": "media", "name": name, **self._condition()})
        kind = self.headers.get("Content-Type", "application/octet-stream")
        path = f"/upload/storage/v1/b/{bucket}/o?{query}"
        status, _, said = self._ask("POST", path, body, {"content-type": kind})
        if status != 200:
            return status, {}, said
        made = json.loads(said)
        return 200, {"ETag": f'"{made["etag"]}"', "x-goog-generation": made["generation"]}, b""

    def _ask(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, dict[str, str], bytes]:
        link = http.client.HTTPConnection("127.0.0.1", self.inner, timeout=60)
        with contextlib.closing(link):
            link.request(method, path, body=body, headers=headers)
            answer = link.getresponse()
            said = answer.read()
            found = {k: v for k, v in answer.getheaders() if k.lower() not in _HOP}
            if method == "HEAD" and (length := answer.getheader("Content-Length")):
                found["Content-Length"] = length
            return answer.status, found, said

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if "Content-Length" not in headers and status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and status not in (204, 304):
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = _any

    def log_message(self, *_: object) -> None:
        pass


_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive", "host"}

if __name__ == "__main__":
    if len(sys.argv) == 1:
        build()
        print(server())
    else:
        _Front.inner = int(sys.argv[1])
        ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), _Front).serve_forever()
