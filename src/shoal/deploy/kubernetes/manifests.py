"""A target as Kubernetes objects: plain data, for an API server or for files."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from shoal.deploy.kubernetes.target import Target

__all__ = ["manifests"]

Object = dict[str, Any]

_USER = 65532  # as in the image
_PROBE_SECONDS = 2


def manifests(target: Target) -> list[Object]:
    """All objects of a target, in the order in which they are applied.

    A canary brings its own Deployment, Service and ConfigMap, and the route that shares the
    requests; the rest belongs to the stable deployment.
    """
    own = [_config(target), _deployment(target), _service(target)]
    if target.weight:
        return [*own, *_routes(target)]
    found = [_account(target), *own, _scaler(target), _budget(target), _network(target)]
    found += _routes(target)
    if target.monitor:
        found.append(_monitor(target))
    return found


def _object(target: Target, api: str, kind: str, name: str | None = None, **more: Any) -> Object:
    return {
        "apiVersion": api,
        "kind": kind,
        "metadata": {
            "name": name or target.full_name,
            "namespace": target.namespace,
            "labels": target.labels,
        },
        **more,
    }


def _account(target: Target) -> Object:
    account = _object(target, "v1", "ServiceAccount", target.name)
    account["automountServiceAccountToken"] = False
    if target.identity:
        account["metadata"]["annotations"] = {"azure.workload.identity/client-id": target.identity}
    return account


def _config(target: Target) -> Object:
    """The settings, under a name of their content: pods of another version keep theirs."""
    data = {"SHOAL_MODEL": target.model, **target.settings}
    text = json.dumps(data, sort_keys=True)
    name = f"{target.full_name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return _object(target, "v1", "ConfigMap", name, data=data)


def _deployment(target: Target) -> Object:
    annotations = {"shoal/bundle": target.digest, "shoal/model": f"{target.model}/{target.version}"}
    found = _object(
        target,
        "apps/v1",
        "Deployment",
        spec={
            "revisionHistoryLimit": 5,
            "progressDeadlineSeconds": target.start_seconds + 120,
            "selector": {"matchLabels": target.selector},
            # The old version answers until the new one does.
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
            },
            "template": {
                "metadata": {"labels": _pod_labels(target), "annotations": annotations},
                "spec": _pod(target),
            },
        },
    )
    found["metadata"]["annotations"] = annotations
    if target.weight:
        found["spec"]["replicas"] = 1
    return found  # without replicas: they are the autoscaler's


def _pod_labels(target: Target) -> dict[str, str]:
    use = {"azure.workload.identity/use": "true"} if target.identity else {}
    return {**target.labels, **use}


def _pod(target: Target) -> Object:
    spread = {
        "maxSkew": 1,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": target.selector},
    }
    volumes: list[Object] = [{"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}}]
    if target.tokens:
        volumes.append({"name": "tokens", "secret": {"secretName": target.tokens}})
    return {
        "serviceAccountName": target.name,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 45,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [
            {**spread, "topologyKey": "topology.kubernetes.io/zone"},
            {**spread, "topologyKey": "kubernetes.io/hostname"},
        ],
        "containers": [_container(target)],
        "volumes": volumes,
    }


def _container(target: Target) -> Object:
    mounts: list[Object] = [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108
    if target.tokens:
        mounts.append({"name": "tokens", "mountPath": "/etc/shoal", "readOnly": True})
    sources: list[Object] = [{"configMapRef": {"name": _config(target)["metadata"]["name"]}}]
    sources += [{"secretRef": {"name": name}} for name in target.secrets]
    container: Object = {
        "name": "server",
        "image": target.image,
        "ports": [{"name": "http", "containerPort": target.port, "protocol": "TCP"}],
        "envFrom": sources,
        "resources": {"requests": dict(target.requests), "limits": dict(target.limits)},
        "startupProbe": {
            **_probe("/ready"),
            "periodSeconds": _PROBE_SECONDS,
            "failureThreshold": math.ceil(target.start_seconds / _PROBE_SECONDS),
        },
        "readinessProbe": {**_probe("/ready"), "periodSeconds": 5, "failureThreshold": 2},
        "livenessProbe": {**_probe("/v2/health/live"), "periodSeconds": 10, "failureThreshold": 3},
        # Endpoints forget a pod a moment after it is told to stop; until then it goes on.
        "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts,
    }
    if target.command is not None:
        container |= {"command": ["shoal"], "args": list(target.command)}
    return container


def _probe(path: str) -> Object:
    return {"httpGet": {"path": path, "port": "http"}, "timeoutSeconds": 3}


def _service(target: Target) -> Object:
    return _object(
        target,
        "v1",
        "Service",
        spec={
            "type": "ClusterIP",
            "selector": target.selector,
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
        },
    )


def _scaler(target: Target) -> Object:
    return _object(
        target,
        "autoscaling/v2",
        "HorizontalPodAutoscaler",
        spec={
            "scaleTargetRef": {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "name": target.full_name,
            },
            "minReplicas": target.replicas,
            "maxReplicas": target.max_replicas,
            "metrics": [
                {
                    "type": "Resource",
                    "resource": {
                        "name": "cpu",
                        "target": {"type": "Utilization", "averageUtilization": 60},
                    },
                }
            ],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 300}},
        },
    )


def _budget(target: Target) -> Object:
    return _object(
        target,
        "policy/v1",
        "PodDisruptionBudget",
        spec={"maxUnavailable": 1, "selector": {"matchLabels": target.selector}},
    )


def _network(target: Target) -> Object:
    """Requests may come in; a server of a bundle asks nobody, but for tokens of its identity."""
    egress: list[Object] = []
    if target.identity or target.secrets:
        egress = [
            {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]},
            {"ports": [{"port": 443, "protocol": "TCP"}]},
        ]
    return _object(
        target,
        "networking.k8s.io/v1",
        "NetworkPolicy",
        spec={
            "podSelector": {"matchLabels": {"app.kubernetes.io/name": target.name}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"ports": [{"port": target.port, "protocol": "TCP"}]}],
            "egress": egress,
        },
    )


def _routes(target: Target) -> list[Object]:
    if target.route == "gateway":
        return [_gateway_route(target)]
    if target.route == "ingress":
        return [_ingress(target)]
    return []


def _gateway_route(target: Target) -> Object:
    """One route with both versions in it: weights must be changed together."""
    backends = [{"name": target.name, "port": 80, "weight": 100 - target.weight}]
    if target.weight:
        backends.append({"name": target.full_name, "port": 80, "weight": target.weight})
    spec: Object = {
        "parentRefs": [{"name": target.gateway}],
        "rules": [
            {
                "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                "backendRefs": backends,
            }
        ],
    }
    if target.host:
        spec["hostnames"] = [target.host]
    api = "gateway.networking.k8s.io/v1"
    return _object(target, api, "HTTPRoute", target.name, spec=spec)


def _ingress(target: Target) -> Object:
    """A canary is a second Ingress of the same host, as ingress-nginx shares requests."""
    backend = {"service": {"name": target.full_name, "port": {"name": "http"}}}
    path = {"path": "/", "pathType": "Prefix", "backend": backend}
    spec: Object = {"rules": [{"host": target.host, "http": {"paths": [path]}}]}
    if target.ingress_class:
        spec["ingressClassName"] = target.ingress_class
    if target.tls_secret:
        spec["tls"] = [{"hosts": [target.host], "secretName": target.tls_secret}]
    found = _object(target, "networking.k8s.io/v1", "Ingress", spec=spec)
    if target.weight:
        found["metadata"]["annotations"] = {
            "nginx.ingress.kubernetes.io/canary": "true",
            "nginx.ingress.kubernetes.io/canary-weight": str(target.weight),
        }
    return found


def _monitor(target: Target) -> Object:
    return _object(
        target,
        "monitoring.coreos.com/v1",
        "ServiceMonitor",
        spec={
            "selector": {"matchLabels": {"app.kubernetes.io/name": target.name}},
            "endpoints": [{"port": "http", "path": "/metrics", "interval": "15s"}],
        },
    )
