"""Deploying a target, and looking after what was deployed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from shoal.deploy.kubernetes.cluster import PATHS, Cluster
from shoal.deploy.kubernetes.manifests import manifests
from shoal.deploy.kubernetes.rollout import Failed, mark_failed, previous, take_back, wait
from shoal.deploy.kubernetes.target import Target
from shoal.errors import DeployError

__all__ = ["apply", "delete", "deploy", "logs", "rollback", "status"]

Object = dict[str, Any]
_ROUTES = {"HTTPRoute", "Ingress"}
# In the order in which they are deleted: first what leads to the pods.
_KINDS = (
    *("HTTPRoute", "Ingress", "ServiceMonitor", "HorizontalPodAutoscaler", "Service"),
    *("Deployment", "InferenceService", "PodDisruptionBudget", "NetworkPolicy", "ConfigMap"),
    "ServiceAccount",
)
_OPTIONAL = {"HTTPRoute", "ServiceMonitor", "InferenceService"}


def deploy(
    cluster: Cluster,
    target: Target,
    *,
    timeout: float | None = None,
    force_conflicts: bool = False,
    told: Callable[[str], object] = lambda _: None,
    pause: float = 1.0,
) -> dict[str, Any]:
    """Applies a target and waits until it answers; what does not become ready is taken back.

    All objects are applied dry first, so that a refusal changes nothing. Routes come last: nobody
    is led to pods that are not ready.

    Args:
        cluster: Where.
        target: What.
        timeout: Seconds until it must be ready.
        force_conflicts: Take over fields that other clients manage.
        told: Called with what happens, in words.
        pause: Seconds between two looks.

    Returns:
        The status.

    Raises:
        Conflict: Another client manages fields of an object; nothing was changed.
        DeployError: The API server refuses, and nothing was changed; or the new version did not
            become ready, and the old one answers as before.
        Unavailable: The API server does not answer.
    """
    objects = manifests(target)
    for found in objects:
        cluster.apply(found, dry=True, force=force_conflicts)
    before = {
        (found["kind"], found["metadata"]["name"])
        for found in objects
        if cluster.get(found["kind"], target.namespace, found["metadata"]["name"]) is not None
    }
    routes = [found for found in objects if found["kind"] in _ROUTES]
    for found in objects:
        if found not in routes:
            cluster.apply(found, force=force_conflicts)
    told(f"applied {len(objects) - len(routes)} objects in {target.namespace}")
    patience = timeout if timeout is not None else target.start_seconds + 120.0
    try:
        wait(cluster, target.namespace, target.full_name, timeout=patience, told=told, pause=pause)
    except Failed as failed:
        undone = _undo(cluster, target, objects, before, patience, told, pause)
        raise DeployError(
            f"{failed.message} {undone}",
            hint=f"shoal deploy logs {target.name} --namespace {target.namespace}",
        ) from failed
    for found in routes:
        cluster.apply(found, force=force_conflicts)
    _forget_settings(cluster, target)
    return status(cluster, target.namespace, target.name)


def apply(cluster: Cluster, objects: Sequence[Object], *, force_conflicts: bool = False) -> None:
    """Applies objects that need no watching, such as jobs: all of them dry first."""
    for dry in (True, False):
        for found in objects:
            cluster.apply(found, dry=dry, force=force_conflicts)


def _undo(
    cluster: Cluster,
    target: Target,
    objects: Sequence[Object],
    before: set[tuple[str, str]],
    timeout: float,
    told: Callable[[str], object],
    pause: float,
) -> str:
    """Goes back to the version that answers; a first deploy that failed is removed."""
    live = cluster.get("Deployment", target.namespace, target.full_name)
    good = None if live is None else previous(cluster, live, answering=True)
    if live is not None and good is not None:
        which = good["spec"]["template"]["metadata"].get("annotations", {}).get("shoal/model", "")
        told(f"taking it back to {which or 'the version before'}")
        mark_failed(cluster, live)
        take_back(cluster, live, good)
        name = target.full_name
        try:
            wait(cluster, target.namespace, name, timeout=timeout, told=told, pause=pause)
        except Failed as failed:
            return f"It was rolled back to {which}, not all of which is ready: {failed.message}"
        return f"It was rolled back: {which or 'the version before'} answers as before."
    new = [found for found in objects if (found["kind"], found["metadata"]["name"]) not in before]
    if ("Deployment", target.full_name) not in before:
        for found in reversed(new):
            cluster.delete(found["kind"], target.namespace, found["metadata"]["name"])
        return "It was the first of this name; what was made for it was removed."
    return "No version of it answered before; it was left as it is."


def _forget_settings(cluster: Cluster, target: Target) -> None:
    """Deletes ConfigMaps that no template of the Deployment mentions any more."""
    live = cluster.get("Deployment", target.namespace, target.full_name)
    if live is None:
        return
    sets = cluster.find("ReplicaSet", target.namespace, target.selector)
    used = {
        source["configMapRef"]["name"]
        for one in [live, *sets]
        for container in one["spec"]["template"]["spec"]["containers"]
        for source in container.get("envFrom", ())
        if "configMapRef" in source
    }
    labels = {**target.selector, "app.kubernetes.io/managed-by": "shoal"}
    for found in cluster.find("ConfigMap", target.namespace, labels):
        name = found["metadata"]["name"]
        if name not in used:
            cluster.delete("ConfigMap", target.namespace, name)


def status(cluster: Cluster, namespace: str, name: str) -> dict[str, Any]:
    """What runs under a name.

    Raises:
        DeployError: Nothing does.
    """
    found = [_told(cluster, namespace, full) for full in (name, f"{name}-canary")]
    parts = [part for part in found if part is not None]
    if not parts:
        raise DeployError(
            f"Nothing named {name} is deployed in {namespace}.",
            hint="kubectl get deployments --all-namespaces -l app.kubernetes.io/part-of=shoal",
        )
    return {"name": name, "namespace": namespace, "deployments": parts}


def _told(cluster: Cluster, namespace: str, name: str) -> dict[str, Any] | None:
    live = cluster.get("Deployment", namespace, name)
    if live is None:
        return None
    notes = live["metadata"].get("annotations", {})
    now = live.get("status", {})
    pods = cluster.find("Pod", namespace, live["spec"]["selector"]["matchLabels"])
    return {
        "name": name,
        "model": notes.get("shoal/model"),
        "bundle": notes.get("shoal/bundle"),
        "image": live["spec"]["template"]["spec"]["containers"][0]["image"],
        "revision": int(notes.get("deployment.kubernetes.io/revision", 0)),
        "replicas": int(live["spec"].get("replicas", 0)),
        "updated": int(now.get("updatedReplicas", 0)),
        "available": int(now.get("availableReplicas", 0)),
        "pods": [
            {
                "name": pod["metadata"]["name"],
                "phase": pod.get("status", {}).get("phase"),
                "restarts": sum(
                    int(c.get("restartCount", 0))
                    for c in pod.get("status", {}).get("containerStatuses", ())
                ),
            }
            for pod in pods
        ],
    }


def logs(cluster: Cluster, namespace: str, name: str, *, lines: int = 100) -> dict[str, str]:
    """The last lines of each pod, by its name; of a container that died, its last ones.

    Raises:
        DeployError: There are no pods.
    """
    pods = cluster.find("Pod", namespace, {"app.kubernetes.io/name": name})
    if not pods:
        raise DeployError(f"{name} has no pods in {namespace}.")
    found = {}
    for pod in pods:
        path = f"{PATHS['Pod'].format(namespace)}/{pod['metadata']['name']}/log"
        try:
            query = [("tailLines", str(lines))]
            found[pod["metadata"]["name"]] = cluster.request("get", path, query_params=query)
        except DeployError as error:
            found[pod["metadata"]["name"]] = f"(no log: {error.message})"
    return found


def rollback(
    cluster: Cluster,
    namespace: str,
    name: str,
    *,
    timeout: float = 180.0,
    told: Callable[[str], object] = lambda _: None,
    pause: float = 1.0,
) -> dict[str, Any]:
    """Goes back to the version before.

    Raises:
        DeployError: There is none, or it does not become ready.
    """
    live = cluster.get("Deployment", namespace, name)
    if live is None:
        raise DeployError(f"Nothing named {name} is deployed in {namespace}.")
    to = previous(cluster, live)
    if to is None:
        raise DeployError(f"{name} has no version before this one.")
    take_back(cluster, live, to)
    wait(cluster, namespace, name, timeout=timeout, told=told, pause=pause)
    return status(cluster, namespace, name)


def delete(cluster: Cluster, namespace: str, name: str, *, canary: bool = False) -> list[str]:
    """Deletes all objects of a name that Shoal made, or those of its canary only.

    Returns:
        What was deleted, such as ``Deployment/delay``.

    Raises:
        DeployError: There is nothing to delete, or a deletion is refused.
    """
    labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/managed-by": "shoal"}
    if canary:
        labels["app.kubernetes.io/component"] = "canary"
        _end_share(cluster, namespace, name)
    gone = []
    for kind in _KINDS:
        try:
            found = cluster.find(kind, namespace, labels)
        except DeployError as error:
            if kind in _OPTIONAL and getattr(error.__cause__, "status", None) == 404:
                continue  # a kind that this cluster does not have
            raise
        for one in found:
            if canary and kind == "HTTPRoute":
                continue  # it leads to the stable one, too
            cluster.delete(kind, namespace, one["metadata"]["name"])
            gone.append(f"{kind}/{one['metadata']['name']}")
    if not gone:
        raise DeployError(f"Nothing named {name} that Shoal made is in {namespace}.")
    return gone


def _end_share(cluster: Cluster, namespace: str, name: str) -> None:
    """Leads all requests to the stable version, before its canary goes."""
    route = cluster.get("HTTPRoute", namespace, name)
    if route is None:
        return
    backends = [{"name": name, "port": 80, "weight": 100}]
    steps = [{"op": "replace", "path": "/spec/rules/0/backendRefs", "value": backends}]
    cluster.patch("HTTPRoute", namespace, name, steps)
