"""A real control plane of Kubernetes for tests: etcd, the API server, and the controllers.

``python tests/controlplane.py`` builds the three from their Go modules into a cache folder, once: a
quarter of an hour, so only who asks for it has it. There are no nodes: `Kubelet` tells the API server of
each pod what a kubelet would, through the pods' status.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import yaml

VERSION, ETCD = "1.37.2", "3.6.5"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "shoal-tests"
PROGRAMS = {
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "etcd": "go.etcd.io/etcd/server/v3",
}
CONTROLLERS = (
    "resourcequota,deployment,replicaset,serviceaccount,garbagecollector,namespace,endpointslice"
)


def home() -> Path:
    """Where the programs are, or will be."""
    return CACHE / f"kubernetes-{VERSION}"


def missing() -> str | None:
    """Why no control plane can be started here, or None when one can."""
    if all((home() / name).exists() for name in PROGRAMS):
        return None
    return (
        "no control plane: python tests/controlplane.py builds one with Go, in a quarter of an hour"
    )


def build() -> None:
    """Builds the programs from their Go modules."""
    if missing() is None:
        return
    with tempfile.TemporaryDirectory() as folder:

        def go(*arguments: str) -> str:
            environment = {**os.environ, "GOFLAGS": "-mod=mod"}
            done = subprocess.run(
                ["go", *arguments], cwd=folder, env=environment, check=True, stdout=subprocess.PIPE
            )
            return done.stdout.decode()

        go("mod", "init", "controlplane")
        module = f"k8s.io/kubernetes@v{VERSION}"
        source = Path(json.loads(go("mod", "download", "-json", module))["Dir"])
        # The parts that live in its repository are published under versions of their own.
        edit = json.loads(go("mod", "edit", "-json", str(source / "go.mod")))
        for part in edit["Replace"]:
            name = part["Old"]["Path"]
            go("mod", "edit", f"-replace={name}={name}@v0{VERSION.removeprefix('1')}")
        go("mod", "edit", f"-require={module}", f"-require=go.etcd.io/etcd/server/v3@v{ETCD}")
        home().mkdir(parents=True, exist_ok=True)
        for name, package in PROGRAMS.items():
            go("build", "-trimpath", "-ldflags=-s -w", "-o", f"{folder}/{name}", package)
            shutil.move(f"{folder}/{name}", home() / name)


class Kubelet:
    """Tells the API server that pods run, or that their image cannot be pulled."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            for pod in self._cluster.find("Pod", "ml", {}):
                self._tell(pod)

    def _tell(self, pod: dict[str, Any]) -> None:
        (container,) = pod["spec"]["containers"]
        good = "broken" not in container["image"]
        meta = pod["metadata"]
        if meta.get("deletionTimestamp"):
            self._cluster.delete("Pod", "ml", meta["name"])
            return
        if pod["status"].get("containerStatuses"):
            return
        state = {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}
        status = {
            "phase": "Running" if good else "Pending",
            "conditions": [{"type": "Ready", "status": str(good)}],
            "containerStatuses": [
                {
                    "name": container["name"],
                    "image": container["image"],
                    "imageID": "",
                    "ready": good,
                    "restartCount": 0,
                    "state": {"running": {}} if good else {"waiting": state},
                }
            ],
        }
        self._cluster.request(
            "patch",
            f"/api/v1/namespaces/ml/pods/{meta['name']}/status",
            {"status": status},
            content_type="application/merge-patch+json",
        )


@contextlib.contextmanager
def running_controlplane(folder: Path) -> Iterator[Path]:
    """A control plane on loopback with the namespace ``ml``.

    Args:
        folder: For its data, keys and logs.

    Yields:
        The kubeconfig, with a context ``test`` that may do all.
    """
    token = secrets.token_hex(16)
    (folder / "tokens.csv").write_text(f"{token},ann,1,system:masters\n")
    key = folder / "accounts.key"
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    client, peer, port = _ports(3)
    store = f"http://127.0.0.1:{client}"
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            _running(
                folder,
                "etcd",
                *("--data-dir", folder / "etcd", "--unsafe-no-fsync"),
                *("--listen-client-urls", store, "--advertise-client-urls", store),
                *("--listen-peer-urls", f"http://127.0.0.1:{peer}"),
            )
        )
        stack.enter_context(
            _running(
                folder,
                "kube-apiserver",
                *("--etcd-servers", store, "--cert-dir", folder / "certificates"),
                *("--bind-address", "127.0.0.1", "--secure-port", port),
                *("--token-auth-file", folder / "tokens.csv", "--authorization-mode", "RBAC"),
                *("--service-account-issuer", "https://tests", "--service-account-key-file", key),
                *("--service-account-signing-key-file", key),
                *("--service-cluster-ip-range", "10.0.0.0/24"),
            )
        )
        server = {"server": f"https://127.0.0.1:{port}", "insecure-skip-tls-verify": True}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": server}],
            "users": [{"name": "test", "user": {"token": token}}],
        }
        path = folder / "kubeconfig"
        path.write_text(yaml.safe_dump(config))
        _ready(path)
        stack.enter_context(
            _running(
                folder,
                "kube-controller-manager",
                *("--kubeconfig", path, "--controllers", CONTROLLERS, "--leader-elect=false"),
                *("--service-account-private-key-file", key, "--secure-port", "0"),
            )
        )
        yield path


def _ready(config: Path) -> None:
    """Waits for the API server, and makes the namespace."""
    from shoal.deploy.kubernetes.cluster import Cluster
    from shoal.errors import DeployError, Unavailable

    cluster = Cluster("test", config)
    end = time.monotonic() + 120
    made = False
    while not made:
        try:
            cluster.request("post", "/api/v1/namespaces", {"metadata": {"name": "ml"}})
            made = True
        except (DeployError, Unavailable):
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


@contextlib.contextmanager
def _running(folder: Path, name: str, *arguments: object) -> Iterator[None]:
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [home() / name, *map(str, arguments)], stdout=log, stderr=log, cwd=folder
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def _ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]


if __name__ == "__main__":
    build()
    sys.exit(missing())
