"""Ways for tests to talk to the scoring server: over a socket, and straight to the application."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from shoal.models import TrainedFleet
from shoal.tracking import Tracker
from shoal.tracking.signature import input_types

JSON = {"content-type": "application/json"}

_SCRIPT = """
import json
import sys
from shoal.serving import ServedModel, ServedModels, create_app, serve

where, max_body = json.loads(sys.argv[1]), int(sys.argv[2])
if "uri" in where:
    from shoal.tracking import Tracker

    models = ServedModels.load(Tracker(where["uri"], None, "flights"))
else:  # without MLflow, which takes seconds to import
    from shoal.models import Fleet

    fleet = Fleet.open(where["artifact"])
    models = ServedModels(
        [ServedModel(name="delay", version=1, fleet=fleet, inputs=where["inputs"])]
    )
app = create_app(models, default=None, max_body=max_body)
serve(app, port=0, ready=lambda url: print(url, flush=True))
print("stopped", flush=True)
"""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, which must be JSON."""
        return orjson.loads(self.body)


@dataclass(frozen=True, kw_only=True)
class Running:
    """A scoring server in a process of its own."""

    url: str
    process: subprocess.Popen[str]


@contextlib.contextmanager
def running_server(
    source: Tracker | TrainedFleet, log: Path, *, max_body: int = 2**20
) -> Iterator[Running]:
    """Serve all models of a registry, or one artifact; the server says its URL when it listens."""
    if isinstance(source, Tracker):
        where: dict[str, Any] = {"uri": source.uri}
    else:
        where = {"artifact": str(source.artifact), "inputs": input_types(source)}
    script = log.with_suffix(".py")
    script.write_text(_SCRIPT)
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, script, orjson.dumps(where), str(max_body)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        assert url, log.read_text()
        yield Running(url=url, process=process)
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


def send(
    url: str,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] = JSON,
) -> Answer:
    """Make one request on a connection of its own."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        return Answer(
            status=answer.status,
            headers={name.lower(): value for name, value in answer.getheaders()},
            body=answer.read(),
        )


def call(
    app: Any, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = JSON
) -> Answer:
    """Call an ASGI application without a socket, the body in two parts."""
    parts = [body[: len(body) // 2], body[len(body) // 2 :]]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def reply(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "replace"),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    asyncio.run(app(scope, receive, reply))
    return Answer(
        status=sent[0]["status"],
        headers={name.decode(): value.decode() for name, value in sent[0]["headers"]},
        body=b"".join(message.get("body", b"") for message in sent[1:]),
    )


def own_certificate(folder: Path) -> tuple[Path, Path]:
    """A key, and a certificate for 127.0.0.1 that it signs itself."""
    import datetime as dt
    from ipaddress import IPv4Address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    own = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(own, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    files = folder / "key.pem", folder / "certificate.pem"
    files[0].write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    files[1].write_bytes(made.public_bytes(pem))
    return files
