"""An API server of Kubernetes for tests: it keeps objects, checks each request, and plays the
controllers of Deployments and a kubelet that pulls every image but those named "broken".

It checks what a real one checks first: the path, the content type, the field manager, the schema of
the newest version, and owners of fields.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import json
import re
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate
import yaml

TOKEN = "a-token-of-the-tests"
_PATH = re.compile(
    r"/(?:api/v1|apis/(?P<group>[a-z0-9.]+)/(?P<version>v[a-z0-9]+))"
    r"/namespaces/(?P<namespace>[^/]+)/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?(?P<log>/log)?"
)
_PROXY = re.compile(r"/api/v1/namespaces/ml/services/(?P<name>[^/]+):80/proxy(?P<path>/.*)")
REVISION = "deployment.kubernetes.io/revision"


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, str]
    content_type: str
    agent: str
    body: Any


@dataclass
class Kube:
    """A cluster of one namespace, ``ml``."""

    objects: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    forbidden: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    owners: dict[tuple[str, str], str] = field(default_factory=dict)
    quota: int | None = None
    stuck: bool = False
    service: str | None = None  # where requests for the Services' pods go on to
    busy: int = 0
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def kubeconfig(self, folder: Path, url: str) -> Path:
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [
                {"name": "test", "context": {"cluster": "test", "user": "test"}},
                {"name": "production", "context": {"cluster": "test", "user": "nobody"}},
            ],
            "clusters": [{"name": "test", "cluster": {"server": url}}],
            "users": [
                {"name": "test", "user": {"token": TOKEN}},
                {"name": "nobody", "user": {"token": "another"}},
            ],
        }
        path = folder / "kubeconfig"
        path.write_text(yaml.safe_dump(content))
        return path

    def applied(self, *, dry: bool) -> list[str]:
        """Names of the objects that were applied, in order."""
        return [
            f"{r.body['kind']}/{r.body['metadata']['name']}"
            for r in self.requests
            if r.content_type == "application/apply-patch+yaml"
            and (r.query.get("dryRun") == "All") == dry
        ]

    # What follows answers requests.

    def answer(self, request: Request, token: str) -> tuple[int, Any]:
        with self._lock:
            self.requests.append(request)
            if token != f"Bearer {TOKEN}":
                return _status(401, "Unauthorized")
            if self.busy:
                self.busy -= 1
                return _status(429, "too many requests")
            if (proxied := _PROXY.fullmatch(request.path)) and self.service:
                return self._proxy(request, proxied["name"], proxied["path"])
            found = _PATH.fullmatch(request.path)
            if not found or found["plural"] in self.missing:
                return _status(404, "the server could not find the requested resource")
            if found["namespace"] != "ml":
                if request.method == "GET" and not found["name"]:
                    return 200, {"items": []}
                return _status(404, f'namespaces "{found["namespace"]}" not found')
            if found["plural"] in self.forbidden:
                return _status(
                    403,
                    f'{found["plural"]} is forbidden: User "ann" cannot {request.method.lower()}',
                )
            handler = getattr(self, f"_{request.method.lower()}")
            return handler(request, found["plural"], found["name"], found["log"])

    def _proxy(self, request: Request, name: str, path: str):
        if ("services", name) not in self.objects:
            return _status(404, f'services "{name}" not found')
        asked = urllib.request.Request(
            f"{self.service}{path}",
            data=json.dumps(request.body).encode(),
            headers={"content-type": request.content_type},
        )
        with urllib.request.urlopen(asked) as answer:
            return answer.status, json.load(answer)

    def _get(self, request: Request, plural: str, name: str | None, log: str | None):
        if log:
            return 200, f"line of {name}\n"
        if name:
            found = self.objects.get((plural, name))
            return (200, found) if found else _status(404, f'{plural} "{name}" not found')
        wanted = dict(x.split("=") for x in request.query.get("labelSelector", "").split(",") if x)
        items = [
            o
            for (kind, _), o in sorted(self.objects.items())
            if kind == plural and wanted.items() <= o["metadata"].get("labels", {}).items()
        ]
        return 200, {"items": items}

    def _delete(self, request: Request, plural: str, name: str | None, log: str | None):
        if (plural, name) not in self.objects:
            return _status(404, f'{plural} "{name}" not found')
        found = self.objects.pop((plural, str(name)))
        if plural == "deployments":
            for key in [k for k, o in self.objects.items() if _owned(o, found)]:
                for pod in [k for k, o in self.objects.items() if _owned(o, self.objects[key])]:
                    del self.objects[pod]
                del self.objects[key]
        return 200, {"kind": "Status", "status": "Success"}

    def _patch(self, request: Request, plural: str, name: str | None, log: str | None):
        if request.query.get("fieldManager") != "shoal":
            return _status(422, "PatchOptions.meta.k8s.io is invalid: fieldManager: Required value")
        key = (plural, str(name))
        if request.content_type == "application/json-patch+json":
            found = copy.deepcopy(self.objects[key])
            for step in request.body:
                *parents, last = [p.replace("~1", "/") for p in step["path"].strip("/").split("/")]
                place: Any = found
                for part in parents:
                    place = place[int(part)] if isinstance(place, list) else place[part]
                place[last] = step["value"]
            return self._store(key, found)
        if request.content_type != "application/apply-patch+yaml":
            return _status(415, f"{request.content_type} is not supported")
        body = request.body
        if body["metadata"]["name"] != name or plural != _plural(body["kind"]):
            return _status(400, "the name of the object does not match the name on the URL")
        if fault := _invalid(json.dumps(body, sort_keys=True)):
            return _status(422, f"{body['kind']} is invalid: {fault}")
        owner = self.owners.get(key)
        if owner and request.query.get("force", "").lower() != "true":
            return _status(409, f'Apply failed with 1 conflict: conflict with "{owner}"')
        if request.query.get("dryRun") == "All":
            return 200, body
        found = copy.deepcopy(body)
        if (old := self.objects.get(key)) is not None:
            notes = {**old["metadata"].get("annotations", {})}
            notes |= found["metadata"].get("annotations", {})
            found["metadata"]["annotations"] = notes
            found.setdefault("status", old.get("status", {}))
            if plural == "deployments":
                found["spec"].setdefault("replicas", old["spec"].get("replicas", 1))
        return self._store(key, found)

    def _store(self, key: tuple[str, str], found: dict[str, Any]):
        old = self.objects.get(key, {})
        meta = found["metadata"]
        meta["uid"] = old.get("metadata", {}).get("uid") or f"uid-{len(self.requests)}"
        meta["generation"] = old.get("metadata", {}).get("generation", 0)
        if found.get("spec") != old.get("spec"):
            meta["generation"] += 1
        self.objects[key] = found
        if key[0] == "deployments":
            self._reconcile(found)
        return 200, found

    def _reconcile(self, deployment: dict[str, Any]) -> None:
        """The controllers of Deployments and ReplicaSets, and the kubelet, in one step."""
        meta, spec = deployment["metadata"], deployment["spec"]
        spec.setdefault("replicas", 1)
        text = json.dumps(spec["template"], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:10]
        sets = [
            o for (k, _), o in self.objects.items() if k == "replicasets" and _owned(o, deployment)
        ]
        numbers = [int(o["metadata"]["annotations"][REVISION]) for o in sets]
        name = f"{meta['name']}-{digest}"
        template = copy.deepcopy(spec["template"])
        labels = {**template["metadata"]["labels"], "pod-template-hash": digest}
        template["metadata"]["labels"] = labels
        new = self.objects.setdefault(
            ("replicasets", name),
            {
                "kind": "ReplicaSet",
                "metadata": {
                    "name": name,
                    "namespace": "ml",
                    "labels": labels,
                    "uid": f"uid-{name}",
                    "annotations": {},
                },
                "spec": {"selector": {"matchLabels": labels}, "template": template},
                "status": {},
            },
        )
        new["metadata"]["ownerReferences"] = [{"uid": meta["uid"]}]
        revision = str(max([*numbers, 0]) + 1)
        if new["metadata"]["annotations"].get(REVISION) != str(max([*numbers, 0])):
            new["metadata"]["annotations"][REVISION] = revision
            meta.setdefault("annotations", {})[REVISION] = revision
        image = template["spec"]["containers"][0]["image"]
        # Pods that are there stay; a rollout needs room for one more.
        there = int(new["status"].get("availableReplicas", 0)) >= spec["replicas"]
        refused = self.quota is not None and spec["replicas"] + 1 > self.quota and not there
        good = "broken" not in image and not refused and not self.stuck
        conditions = []
        if refused:
            message = f'pods "{name}-" is forbidden: exceeded quota: pods, limited: {self.quota}'
            conditions.append(
                {
                    "type": "ReplicaFailure",
                    "status": "True",
                    "reason": "FailedCreate",
                    "message": message,
                }
            )
        else:
            self._pod(new, good)
        others = [o for o in sets if o is not new]
        for one in others:
            if good:
                one["status"] = {"replicas": 0, "availableReplicas": 0}
                self.objects.pop(("pods", f"{one['metadata']['name']}-0"), None)
        new["status"] = {"availableReplicas": spec["replicas"] if good else 0}
        old = 0 if good else sum(int(o["status"].get("availableReplicas", 0)) for o in others)
        deployment["status"] = {
            "observedGeneration": meta["generation"],
            "replicas": old + (spec["replicas"] if good else int(not refused)),
            "updatedReplicas": spec["replicas"] if good else int(not refused),
            "availableReplicas": old + (spec["replicas"] if good else 0),
            "conditions": conditions,
        }

    def _pod(self, one: dict[str, Any], good: bool) -> None:
        name = f"{one['metadata']['name']}-0"
        waiting = {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}
        state: dict[str, Any] = {"running": {}} if good else {"waiting": waiting}
        if self.stuck:
            state = {"waiting": {"reason": "ContainerCreating"}}
        unscheduled = {
            "type": "PodScheduled",
            "status": "False",
            "message": "0/3 nodes are available",
        }
        self.objects["pods", name] = {
            "kind": "Pod",
            "metadata": {
                "name": name,
                "labels": one["metadata"]["labels"],
                "ownerReferences": [{"uid": one["metadata"]["uid"]}],
            },
            "status": {
                "phase": "Running" if good else "Pending",
                "conditions": [unscheduled] if self.stuck else [],
                "containerStatuses": [{"name": "server", "restartCount": 0, "state": state}],
            },
        }


@functools.cache  # a check takes tenths of a second, and tests apply the same objects
def _invalid(text: str) -> str | None:
    """What the schema of the newest version says; a custom resource has none here."""
    try:
        kubernetes_validate.validate(json.loads(text), "1.37", strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        return None
    except kubernetes_validate.ValidationError as error:
        return str(error)
    return None


def _owned(found: dict[str, Any], owner: dict[str, Any]) -> bool:
    owners = found["metadata"].get("ownerReferences", ())
    return any(one["uid"] == owner["metadata"].get("uid") for one in owners)


def _plural(kind: str) -> str:
    name = kind.lower()
    return name[:-1] + "ies" if name.endswith("y") else name + ("es" if name.endswith("s") else "s")


def _status(code: int, message: str) -> tuple[int, dict[str, Any]]:
    return code, {"kind": "Status", "status": "Failure", "code": code, "message": message}


@contextlib.contextmanager
def running_kube() -> Iterator[tuple[Kube, str]]:
    """A cluster on loopback, and its URL."""
    kube = Kube()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            parts = urlsplit(self.path)
            size = int(self.headers.get("content-length") or 0)
            body = self.rfile.read(size)
            request = Request(
                method=self.command,
                path=parts.path,
                query={key: values[0] for key, values in parse_qs(parts.query).items()},
                content_type=self.headers.get("content-type", ""),
                agent=self.headers.get("user-agent", ""),
                body=json.loads(body) if body else None,
            )
            status, content = kube.answer(request, self.headers.get("authorization", ""))
            text = content if isinstance(content, str) else json.dumps(content)
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_PATCH = do_DELETE = do_POST = do_PUT = do

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield kube, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
