"""Watching a Deployment until it is ready, and taking it back when it will not be."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shoal.deploy.kubernetes.cluster import Cluster
from shoal.errors import DeployError

__all__ = ["Failed", "mark_failed", "previous", "take_back", "wait"]

Object = dict[str, Any]

# The kubelet says so after several tries, or at once where trying again cannot help.
_HOPELESS = {
    "ImagePullBackOff": "its image cannot be pulled",
    "ErrImageNeverPull": "its image is not on the node",
    "InvalidImageName": "its image's name is wrong",
    "CrashLoopBackOff": "it ends again and again",
    "CreateContainerConfigError": "its configuration is wrong",
    "CreateContainerError": "its container cannot be made",
    "RunContainerError": "its container cannot be started",
}
_HASH = "pod-template-hash"
_FAILED = "shoal/failed"
_REVISION = "deployment.kubernetes.io/revision"


class Failed(DeployError):
    """A rollout that will not become ready."""


@dataclass(frozen=True, kw_only=True)
class _State:
    done: bool
    told: str
    fault: str | None


def wait(
    cluster: Cluster,
    namespace: str,
    name: str,
    *,
    timeout: float,
    told: Callable[[str], object] = lambda _: None,
    pause: float = 1.0,
) -> Object:
    """Waits until a Deployment's newest template is available in all its replicas.

    Args:
        cluster: Where.
        namespace: Its namespace.
        name: Its name.
        timeout: Seconds at most.
        told: Called with each new state in words.
        pause: Seconds between two looks.

    Returns:
        The Deployment.

    Raises:
        Failed: It will not become ready, or did not in time.
    """
    until = time.monotonic() + timeout
    last = ""
    while True:
        found = cluster.get("Deployment", namespace, name)
        if found is None:
            raise Failed(f"The Deployment {name} was deleted while it was rolled out.")
        state = _state(cluster, found)
        if state.told != last:
            told(state.told)
            last = state.told
        if state.done:
            return found
        if state.fault:
            raise Failed(f"{name} does not become ready: {state.fault}")
        if time.monotonic() > until:
            why = _pending(cluster, found)
            raise Failed(f"{name} is not ready after {timeout:g} s ({last}){why}")
        time.sleep(pause)


def _state(cluster: Cluster, found: Object) -> _State:
    status = found.get("status", {})
    wanted = int(found["spec"].get("replicas", 1))
    if int(status.get("observedGeneration", 0)) < int(found["metadata"]["generation"]):
        return _State(done=False, told="waiting for the controller", fault=None)
    updated = int(status.get("updatedReplicas", 0))
    available = int(status.get("availableReplicas", 0))
    old = int(status.get("replicas", 0)) - updated
    told = f"{updated} of {wanted} replicas new, {available} available"
    if updated >= wanted and available >= wanted and old == 0:
        return _State(done=True, told=told, fault=None)
    conditions = {c["type"]: c for c in status.get("conditions", ())}
    fault = None
    if (failure := conditions.get("ReplicaFailure")) and failure["status"] == "True":
        fault = str(failure.get("message", failure.get("reason")))
    progress = conditions.get("Progressing", {})
    if progress.get("status") == "False":
        fault = fault or f"{progress.get('message', progress.get('reason'))}"
        fault += _pending(cluster, found)
    return _State(done=False, told=told, fault=fault or _hopeless(cluster, found))


def _hopeless(cluster: Cluster, found: Object) -> str | None:
    """What a kubelet says of a new pod that trying again will not mend."""
    for pod in _new_pods(cluster, found):
        for container in pod.get("status", {}).get("containerStatuses", ()):
            waiting = container.get("state", {}).get("waiting") or {}
            if (reason := waiting.get("reason")) in _HOPELESS:
                ended = (container.get("lastState", {}).get("terminated") or {}).get("exitCode")
                more = waiting.get("message") or (f"it ended with {ended}" if ended else "")
                return f"{_HOPELESS[reason]} ({reason}{': ' + more if more else ''})"
    return None


def _pending(cluster: Cluster, found: Object) -> str:
    """Why a new pod waits, such as for room on a node."""
    for pod in _new_pods(cluster, found):
        for condition in pod.get("status", {}).get("conditions", ()):
            if condition["status"] == "False" and condition.get("message"):
                return f"; {pod['metadata']['name']}: {condition['message']}"
    return ""


def _new_pods(cluster: Cluster, found: Object) -> list[Object]:
    newest = max(_sets(cluster, found), key=_revision, default=None)
    if newest is None:
        return []
    labels = newest["spec"]["selector"]["matchLabels"]
    return cluster.find("Pod", found["metadata"]["namespace"], labels)


def _sets(cluster: Cluster, found: Object) -> list[Object]:
    """The ReplicaSets of a Deployment: one for each template that it had."""
    labels = found["spec"]["selector"]["matchLabels"]
    sets = cluster.find("ReplicaSet", found["metadata"]["namespace"], labels)
    own = found["metadata"]["uid"]
    return [
        one
        for one in sets
        if any(owner["uid"] == own for owner in one["metadata"].get("ownerReferences", ()))
    ]


def _revision(one: Object) -> int:
    return int(one["metadata"].get("annotations", {}).get(_REVISION, 0))


def previous(cluster: Cluster, found: Object, *, answering: bool = False) -> Object | None:
    """The ReplicaSet to go back to: the newest besides the current one.

    Args:
        cluster: Where.
        found: The Deployment.
        answering: Only one that has available pods: after a deploy that was interrupted, the
            Deployment's own template may never have been ready.
    """
    sets = sorted(_sets(cluster, found), key=_revision, reverse=True)
    for one in sets[1:]:
        if _FAILED in one["metadata"].get("annotations", {}):
            continue
        if not answering or int(one.get("status", {}).get("availableReplicas", 0)) > 0:
            return one
    return None


def mark_failed(cluster: Cluster, found: Object) -> None:
    """Notes on a Deployment's newest ReplicaSet that nobody is to go back to it."""
    newest = max(_sets(cluster, found), key=_revision, default=None)
    if newest is not None:
        step = {"op": "add", "path": "/metadata/annotations/shoal~1failed", "value": "true"}
        meta = newest["metadata"]
        cluster.patch("ReplicaSet", meta["namespace"], meta["name"], [step])


def take_back(cluster: Cluster, found: Object, to: Object) -> Object:
    """Gives a Deployment the template of one of its ReplicaSets, as ``rollout undo`` does."""
    template = {**to["spec"]["template"]}
    labels = {k: v for k, v in template["metadata"]["labels"].items() if k != _HASH}
    template["metadata"] = {**template["metadata"], "labels": labels}
    steps: list[Object] = [{"op": "replace", "path": "/spec/template", "value": template}]
    notes = template["metadata"].get("annotations", {})
    steps += [
        {"op": "add", "path": f"/metadata/annotations/{key.replace('/', '~1')}", "value": value}
        for key, value in notes.items()
        if key.startswith("shoal/")
    ]
    meta = found["metadata"]
    return cluster.patch("Deployment", meta["namespace"], meta["name"], steps)
