"""Other objects: KServe's InferenceService, jobs that run a project, and Sail as its engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shoal.deploy.kubernetes.manifests import Object, manifests
from shoal.deploy.kubernetes.target import Target, checked_name
from shoal.errors import DeployError

__all__ = ["COMMANDS", "inference_service", "job", "sail"]

COMMANDS = ("run", "train", "score")
_RESTRICTED: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def inference_service(target: Target) -> Object:
    """The same server as a KServe ``InferenceService`` that speaks the Open Inference Protocol.

    KServe makes the service, the route and the scaling; ``canaryTrafficPercent`` shares requests
    with its last revision that was ready. Source: KServe's API serving.kserve.io/v1beta1.
    """
    plain = next(o for o in manifests(target) if o["kind"] == "Deployment")
    pod = plain["spec"]["template"]["spec"]
    container = {k: v for k, v in pod["containers"][0].items() if k not in {"lifecycle", "envFrom"}}
    container["name"] = "kserve-container"
    # KServe finds the port by these names.
    container["ports"] = [{"name": "http1", "containerPort": target.port, "protocol": "TCP"}]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        path = container[probe]["httpGet"]["path"]
        container[probe] = {
            **container[probe],
            "httpGet": {"path": path, "port": target.port},
        }
    predictor: Object = {
        "minReplicas": target.replicas,
        "maxReplicas": target.max_replicas,
        "securityContext": pod["securityContext"],
        "containers": [container],
        "volumes": pod["volumes"],
    }
    if target.weight:
        predictor["canaryTrafficPercent"] = target.weight
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": target.name,
            "namespace": target.namespace,
            "labels": {**target.labels, "app.kubernetes.io/component": "stable"},
            "annotations": {
                "shoal/bundle": target.digest,
                "serving.kserve.io/deploymentMode": "Standard",
            },
        },
        "spec": {"predictor": predictor},
    }


def job(
    command: Sequence[str],
    *,
    name: str,
    namespace: str,
    image: str,
    schedule: str | None = None,
    account: str | None = None,
    secrets: Sequence[str] = (),
    settings: Mapping[str, str] | None = None,
    requests: Mapping[str, str] | None = None,
    limits: Mapping[str, str] | None = None,
    time_zone: str = "Etc/UTC",
) -> Object:
    """A Job, or with a schedule a CronJob, that runs a project's image.

    Args:
        command: Such as ``["run"]`` or ``["train", "delay"]``.
        name: Its name; a CronJob's may have 52 characters.
        namespace: Where.
        image: An image with the project at ``/srv/project`` and Shoal installed.
        schedule: Five fields of cron, or ``@daily``.
        account: Service account, for workload identity.
        secrets: Secrets whose keys become environment variables.
        settings: Other environment variables.
        requests: What it is given.
        limits: What it may use.
        time_zone: The schedule's.

    Raises:
        DeployError: The name is too long, the command is none of run, train and score, or the
            schedule has not five fields.
    """
    checked_name(name, longest=52 if schedule else 63)
    if not command or command[0] not in COMMANDS:
        raise DeployError(
            f"'{' '.join(command)}' is no job.", hint=f"Jobs are {', '.join(COMMANDS)}."
        )
    if schedule is not None and not schedule.startswith("@") and len(schedule.split()) != 5:
        raise DeployError(
            f"'{schedule}' is no schedule.", hint='Write five fields of cron, such as "0 3 * * *".'
        )
    labels = {
        "app.kubernetes.io/name": name,
        "app.kubernetes.io/part-of": "shoal",
        "app.kubernetes.io/managed-by": "shoal",
    }
    use = {"azure.workload.identity/use": "true"} if account else {}
    pod: Object = {
        "restartPolicy": "Never",
        "containers": [
            {
                "name": "shoal",
                "image": image,
                "command": ["shoal"],
                "args": list(command),
                "workingDir": "/srv/project",
                "env": [{"name": k, "value": v} for k, v in sorted((settings or {}).items())],
                "envFrom": [{"secretRef": {"name": secret}} for secret in secrets],
                "resources": {
                    "requests": dict(requests or {"cpu": "1", "memory": "2Gi"}),
                    "limits": dict(limits or {"memory": "8Gi"}),
                },
                "securityContext": dict(_RESTRICTED),
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    if account:
        pod["serviceAccountName"] = account
    spec: Object = {
        # An interrupted run is completed by the next one; 75 means: try again.
        "backoffLimit": 2,
        "ttlSecondsAfterFinished": 86_400,
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": "shoal", "operator": "In", "values": [1, 2]},
                }
            ]
        },
        "template": {"metadata": {"labels": {**labels, **use}}, "spec": pod},
    }
    meta = {"name": name, "namespace": namespace, "labels": labels}
    if schedule is None:
        return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec}
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": meta,
        "spec": {
            "schedule": schedule,
            "timeZone": time_zone,
            "concurrencyPolicy": "Forbid",  # one run writes to a lake at a time
            "startingDeadlineSeconds": 600,
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 3,
            "jobTemplate": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


def sail(
    *, namespace: str, image: str, name: str = "sail", workers: int = 4, identity: str | None = None
) -> list[Object]:
    """A Sail cluster: a Spark Connect server that starts its workers as pods.

    A profile reaches it as ``engine = "sc://sail.NAMESPACE:50051"``. Source: Sail's guide to
    Kubernetes (SAIL_MODE=kubernetes-cluster).

    Args:
        namespace: Where.
        image: An image with pysail.
        name: Name of the objects.
        workers: Most workers.
        identity: Client id of the Entra workload identity that may read the lake.
    """
    checked_name(name)
    labels = {
        "app.kubernetes.io/name": name,
        "app.kubernetes.io/component": "spark-connect",
        "app.kubernetes.io/part-of": "shoal",
        "app.kubernetes.io/managed-by": "shoal",
    }
    meta = {"name": name, "namespace": namespace, "labels": labels}
    account: Object = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": dict(meta)}
    if identity:
        note = {"azure.workload.identity/client-id": identity}
        account["metadata"]["annotations"] = note
    role = "rbac.authorization.k8s.io"
    verbs = ["create", "get", "list", "watch", "delete", "deletecollection", "patch"]
    own = "valueFrom"
    environment: list[Object] = [
        {"name": "SAIL_MODE", "value": "kubernetes-cluster"},
        {"name": "SAIL_CLUSTER__DRIVER_LISTEN_HOST", "value": "0.0.0.0"},  # noqa: S104
        {
            "name": "SAIL_CLUSTER__DRIVER_EXTERNAL_HOST",
            own: {"fieldRef": {"fieldPath": "status.podIP"}},
        },
        {"name": "SAIL_CLUSTER__WORKER_MAX_COUNT", "value": str(workers)},
        {"name": "SAIL_KUBERNETES__IMAGE", "value": image},
        {"name": "SAIL_KUBERNETES__NAMESPACE", "value": namespace},
        {
            "name": "SAIL_KUBERNETES__DRIVER_POD_NAME",
            own: {"fieldRef": {"fieldPath": "metadata.name"}},
        },
        {"name": "SAIL_KUBERNETES__WORKER_SERVICE_ACCOUNT_NAME", "value": name},
    ]
    container: Object = {
        "name": "server",
        "image": image,
        "command": ["sail"],
        "args": ["spark", "server", "--ip", "0.0.0.0", "--port", "50051"],  # noqa: S104
        "env": environment,
        "ports": [{"name": "connect", "containerPort": 50051, "protocol": "TCP"}],
        "resources": {
            "requests": {"cpu": "1", "memory": "2Gi"},
            "limits": {"memory": "8Gi"},
        },
        "readinessProbe": {"tcpSocket": {"port": "connect"}, "periodSeconds": 5},
        "securityContext": dict(_RESTRICTED) | {"runAsUser": 65532},
    }
    use = {"azure.workload.identity/use": "true"} if identity else {}
    return [
        account,
        {
            "apiVersion": f"{role}/v1",
            "kind": "Role",
            "metadata": meta,
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": verbs}],
        },
        {
            "apiVersion": f"{role}/v1",
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": role, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": meta,
            "spec": {
                "replicas": 1,  # a Spark session lives in one pod
                "strategy": {"type": "Recreate"},
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": {**labels, **use}},
                    "spec": {"serviceAccountName": name, "containers": [container]},
                },
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": meta,
            "spec": {
                "selector": labels,
                "ports": [{"name": "connect", "port": 50051, "targetPort": "connect"}],
            },
        },
    ]
