"""Azure for tests: sign-in, Azure Resource Manager, blob storage and a scoring endpoint.

The real SDK's requests to Azure's hosts are led to a server on loopback, which keeps resources,
answers long-running operations in steps, and can refuse, be busy, or fail in the middle.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest import mock
from urllib.parse import parse_qs, urlsplit

import requests.adapters

WORKSPACE = (
    "/subscriptions/sub/resourceGroups/group/providers/Microsoft.MachineLearningServices"
    "/workspaces/ws"
)


@dataclass
class Azure:
    resources: dict[str, dict[str, Any]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    seen: list[tuple[str, str, Any]] = field(default_factory=list)
    operations: dict[str, list[str]] = field(default_factory=dict)
    busy: int = 0
    forbidden: str | None = None
    failing: str | None = None
    off: float = 0.0  # what the endpoint's answers are off by
    samples: dict[str, Any] = field(default_factory=dict)
    url: str = ""

    def puts(self, part: str) -> list[Any]:
        return [body for method, path, body in self.seen if method == "PUT" and part in path]

    def answer(self, method: str, host: str, path: str, query: str, headers: Any, body: bytes):
        if host.startswith("login."):
            return self._sign_in(path)
        if host.endswith(".blob.core.windows.net"):
            return self._blob(method, path, query, body)
        if host == "endpoint":
            return self._score(headers, body)
        content = json.loads(body) if body else None
        self.seen.append((method, path, content))
        if headers.get("authorization") != "Bearer the-token":
            return 401, {}, {"error": {"code": "InvalidAuthenticationToken", "message": "no token"}}
        if "operations/" in path or "Status/" in path:
            return self._operation(path)
        if self.busy:
            self.busy -= 1
            return 429, {"retry-after": "0"}, {"error": {"code": "TooManyRequests"}}
        if self.forbidden and self.forbidden in path and method == "PUT":
            message = "The client does not have authorization to perform action"
            return 403, {}, {"error": {"code": "AuthorizationFailed", "message": message}}
        return self._resource(method, path, content)

    def _sign_in(self, path: str):
        base = "https://login.microsoftonline.com/tenant"
        if path.endswith("openid-configuration"):
            return (
                200,
                {},
                {
                    "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                    "token_endpoint": f"{base}/oauth2/v2.0/token",
                    "issuer": f"{base}/v2.0",
                    "tenant_discovery_endpoint": f"{base}/v2.0/.well-known/openid-configuration",
                },
            )
        self.seen.append(("TOKEN", path, None))
        return 200, {}, {"token_type": "Bearer", "expires_in": 3600, "access_token": "the-token"}

    def _blob(self, method: str, path: str, query: str, body: bytes):
        if method == "HEAD" or method == "GET":
            return (200 if path in self.blobs else 404), {"content-length": "0"}, None
        if "comp=metadata" in query:
            return 200, {"etag": '"1"'}, None
        self.blobs[path] = body
        return 201, {"etag": '"1"', "last-modified": "Thu, 26 Nov 2026 00:00:00 GMT"}, None

    def _score(self, headers: Any, body: bytes):
        if headers.get("authorization") != "Bearer the-key":
            return 401, {}, {"message": "no key"}
        self.seen.append(("SCORE", headers.get("azureml-model-deployment"), None))
        predictions = self.samples[body.decode()]
        return (
            200,
            {},
            {"predictions": [p + self.off if isinstance(p, float) else p for p in predictions]},
        )

    def _operation(self, path: str):
        name = path.rpartition("/")[2]
        states = self.operations[name]
        state = states.pop(0) if len(states) > 1 else states[0]
        content: dict[str, Any] = {"status": state, "name": name}
        if state == "Failed":
            content["error"] = {
                "code": "ImageBuildFailure",
                "message": "the container did not start",
            }
        return 200, {"retry-after": "1"}, content  # the SDK takes 0 for thirty seconds

    def _resource(self, method: str, path: str, content: Any):
        if path.endswith("/listKeys"):
            return 200, {}, {"primaryKey": "the-key", "secondaryKey": "other"}
        if path.endswith("/listSecrets"):
            return 200, {}, {"secretsType": "AccountKey", "key": "a2V5"}
        if path.endswith("/datastores/workspaceblobstore"):
            store = {
                "datastoreType": "AzureBlob",
                "accountName": "store",
                "containerName": "models",
                "endpoint": "core.windows.net",
                "protocol": "https",
                "credentials": {"credentialsType": "AccountKey"},
                "isDefault": True,
            }
            return 200, {}, {"id": path, "name": "workspaceblobstore", "properties": store}
        if path == WORKSPACE:
            return (
                200,
                {},
                {
                    "id": path,
                    "name": "ws",
                    "location": "westeurope",
                    "properties": {"discoveryUrl": "https://westeurope.api.azureml.ms/discovery"},
                },
            )
        if method == "GET" and path.endswith("/deployments"):
            return 200, {}, {"value": [r for p, r in self.resources.items() if p.startswith(path)]}
        if method == "GET":
            found = self.resources.get(path)
            if found is None:
                error = {"code": "NotFound", "message": f"{path} not found"}
                return 404, {}, {"error": error}
            return 200, {}, found
        operation = f"op{len(self.operations)}"
        where = f"https://management.azure.com{WORKSPACE}/mfeOperationsStatus/{operation}"
        long = {"azure-asyncoperation": where, "retry-after": "1"}
        if method == "DELETE":
            self.resources.pop(path, None)
            self.operations[operation] = ["InProgress", "Succeeded"]
            return 202, {**long, "location": where}, None
        failing = self.failing is not None and self.failing in path
        self.operations[operation] = ["InProgress", "Failed" if failing else "Succeeded"]
        properties = {**content.get("properties", {}), "provisioningState": "Succeeded"}
        if "/deployments/" in path:  # what Azure adds itself
            properties.setdefault("scaleSettings", {"scaleType": "Default"})
        if "/models/" in path:
            properties.setdefault("flavors", {})
        if re.search(r"onlineEndpoints/[^/]+$", path):
            properties["scoringUri"] = f"{self.url}/endpoint/score"
        found = {**content, "id": path, "name": path.rpartition("/")[2], "properties": properties}
        if not failing:
            self.resources[path] = found
        endpoints = "Endpoints/" in path
        return (201 if endpoints else 200), (long if endpoints else {}), found


@contextlib.contextmanager
def running_azure() -> Iterator[Azure]:
    """Azure on loopback; `requests` leads all of Azure's hosts there while it runs."""
    azure = Azure()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            parts = urlsplit(self.path)
            _, host, *rest = parts.path.split("/")
            size = int(self.headers.get("content-length") or 0)
            path = "/" + "/".join(rest)
            status, headers, content = azure.answer(
                self.command, host, path, parts.query, self.headers, self.rfile.read(size)
            )
            body = b"" if content is None else json.dumps(content).encode()
            self.send_response(status)
            for name, value in headers.items():
                if name != "content-length":
                    self.send_header(name, value)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = do_HEAD = do

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    azure.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    send = requests.adapters.HTTPAdapter.send

    def led(self: Any, request: Any, **options: Any) -> Any:
        parts = urlsplit(request.url)
        if parts.scheme == "https":
            query = f"?{parts.query}" if parts.query else ""
            request.url = f"{azure.url}/{parts.hostname}{parts.path}{query}"
        return send(self, request, **options)

    try:
        with mock.patch.object(requests.adapters.HTTPAdapter, "send", led):
            yield azure
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


__all__ = ["WORKSPACE", "Azure", "parse_qs", "running_azure"]
