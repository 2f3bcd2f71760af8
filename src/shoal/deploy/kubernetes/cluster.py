"""An API server, asked through Kubernetes' own client."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shoal.errors import Conflict, DeployError, Unavailable, nearest

__all__ = ["MANAGER", "PATHS", "Cluster"]

MANAGER = "shoal"
Object = dict[str, Any]

# Kind to the path of its collection; {} is the namespace.
PATHS = {
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Service": "/api/v1/namespaces/{}/services",
    "Pod": "/api/v1/namespaces/{}/pods",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "ReplicaSet": "/apis/apps/v1/namespaces/{}/replicasets",
    "HorizontalPodAutoscaler": "/apis/autoscaling/v2/namespaces/{}/horizontalpodautoscalers",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
    "Ingress": "/apis/networking.k8s.io/v1/namespaces/{}/ingresses",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
    "Job": "/apis/batch/v1/namespaces/{}/jobs",
    "CronJob": "/apis/batch/v1/namespaces/{}/cronjobs",
    "HTTPRoute": "/apis/gateway.networking.k8s.io/v1/namespaces/{}/httproutes",
    "ServiceMonitor": "/apis/monitoring.coreos.com/v1/namespaces/{}/servicemonitors",
    "InferenceService": "/apis/serving.kserve.io/v1beta1/namespaces/{}/inferenceservices",
}


class Cluster:
    """One cluster, by a context of the kubeconfig.

    Args:
        context: The context's name; None takes the current one, or inside a cluster this one.
        kubeconfig: Another file than ``KUBECONFIG`` or ``~/.kube/config``.

    Raises:
        DeployError: There is no such context, or no configuration at all.
    """

    def __init__(self, context: str | None = None, kubeconfig: str | Path | None = None) -> None:
        try:
            from kubernetes import config as kubernetes_config
            from kubernetes.dynamic import DynamicClient
        except ModuleNotFoundError:
            raise DeployError(
                "Kubernetes' client is not installed.", hint="pip install 'shoal[kubernetes]'"
            ) from None
        config: Any = kubernetes_config
        self.context = context or "the current context"
        # The client looks at the variable once, when it is imported.
        given = kubeconfig if kubeconfig is not None else os.environ.get("KUBECONFIG")
        file = None if given is None else str(given)
        try:
            contexts, _ = config.list_kube_config_contexts(config_file=file)
            names = [found["name"] for found in contexts]
            if context is not None and context not in names:
                close = nearest(context, names)
                raise DeployError(
                    f"The kubeconfig has no context '{context}'; it has "
                    f"{', '.join(sorted(names)) or 'none'}.",
                    hint=f"Did you mean '{close}'?" if close else "kubectl config get-contexts",
                )
            client = config.new_client_from_config(config_file=file, context=context)
        except config.ConfigException as error:
            if context is not None or kubeconfig is not None:
                raise DeployError(f"The kubeconfig cannot be used: {error}") from error
            client = self._inside(error)
        # A discovery of all kinds would be many requests; these are known.
        self._client: Any = DynamicClient(  # type: ignore[no-untyped-call]
            client, discoverer=lambda *_: None
        )

    @staticmethod
    def _inside(error: Exception) -> Any:
        from kubernetes import client, config

        try:
            config.load_incluster_config()  # type: ignore[no-untyped-call]
        except config.ConfigException:
            raise DeployError(
                f"There is no kubeconfig: {error}",
                hint="az aks get-credentials --resource-group GROUP --name CLUSTER",
            ) from error
        return client.ApiClient()

    def request(self, method: str, path: str, body: Any = None, **parameters: Any) -> Any:
        """One request; the answer as plain data.

        Raises:
            Conflict: Another client owns fields of the object.
            DeployError: The API server refuses.
            Unavailable: It does not answer.
        """
        from kubernetes.client.exceptions import ApiException
        from kubernetes.dynamic.exceptions import DynamicApiError
        from urllib3.exceptions import HTTPError

        try:
            answer = self._client.request(method, path, body=body, serialize=False, **parameters)
        except (ApiException, DynamicApiError) as error:
            raise _refusal(error, method, path) from error
        except (HTTPError, OSError) as error:
            raise Unavailable(
                f"The API server of {self.context} does not answer: {error}",
                hint="kubectl cluster-info",
            ) from error
        text = answer.data.decode("utf-8") if isinstance(answer.data, bytes) else answer.data
        return text if path.endswith("/log") else json.loads(text or "null")

    def apply(self, found: Object, *, dry: bool = False, force: bool = False) -> Object:
        """Server-side apply of one object.

        Args:
            found: The object.
            dry: Only ask whether it would be taken.
            force: Take over fields that other clients manage.
        """
        options: dict[str, Any] = {"field_manager": MANAGER, "force_conflicts": force}
        if dry:
            options["dry_run"] = "All"
        path = f"{_path(found)}/{found['metadata']['name']}"
        options["content_type"] = "application/apply-patch+yaml"
        try:
            answer: Object = self.request("patch", path, found, **options)
        except Conflict as conflict:
            # A version that was taken back left fields that Shoal itself changed by a patch.
            if set(re.findall(r'with "([^"]+)"', conflict.message)) != {MANAGER}:
                raise
            answer = self.request("patch", path, found, **{**options, "force_conflicts": True})
        return answer

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """An object; None where there is none."""
        try:
            answer: Object = self.request("get", f"{PATHS[kind].format(namespace)}/{name}")
        except DeployError as error:
            if getattr(error.__cause__, "status", None) == 404:
                return None
            raise
        return answer

    def find(self, kind: str, namespace: str, labels: Mapping[str, str]) -> list[Object]:
        """The objects of a kind that have these labels."""
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        answer = self.request("get", PATHS[kind].format(namespace), label_selector=selector)
        items: list[Object] = answer["items"]
        return items

    def patch(self, kind: str, namespace: str, name: str, steps: list[Object]) -> Object:
        """Changes an object by a JSON patch (RFC 6902)."""
        path = f"{PATHS[kind].format(namespace)}/{name}"
        answer: Object = self.request(
            "patch",
            path,
            steps,
            content_type="application/json-patch+json",
            field_manager=MANAGER,
        )
        return answer

    def delete(self, kind: str, namespace: str, name: str) -> bool:
        """Deletes an object with what it owns; false where there is none."""
        options = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        try:
            self.request("delete", f"{PATHS[kind].format(namespace)}/{name}", options)
        except DeployError as error:
            if getattr(error.__cause__, "status", None) == 404:
                return False
            raise
        return True


def _path(found: Object) -> str:
    return PATHS[found["kind"]].format(found["metadata"]["namespace"])


def _refusal(error: Any, method: str, path: str) -> DeployError | Conflict | Unavailable:
    """What an API server says, and what to do."""
    status = int(error.status or 0)
    try:
        said = json.loads(error.body)["message"]
    except (KeyError, TypeError, ValueError):
        said = str(error.reason or error)
    what = f"{method.upper()} {path}"
    if status == 401:
        return DeployError(
            f"The API server does not know who asks ({said}).",
            hint="Sign in again: az aks get-credentials ..., kubelogin convert-kubeconfig",
        )
    if status == 403 and "exceeded quota" in said:
        hint = "Lower replicas or resources, or raise the ResourceQuota."
        return DeployError(f"The namespace's quota refuses it: {said}", hint=hint)
    if status == 403:
        return DeployError(
            f"The API server refuses {what}: {said}",
            hint="Ask for a Role that allows it; kubectl auth can-i --list shows yours.",
        )
    if status == 409:
        return Conflict(
            f"Another client manages fields of it: {said}",
            hint="Give --force-conflicts to take them over.",
        )
    if status == 404 and method != "get":
        return DeployError(
            f"The API server does not know {path} ({said}).",
            hint="Is the namespace there, and the kind (Gateway API, Prometheus, KServe)?",
        )
    if status in {429, 500, 502, 503, 504}:
        return Unavailable(f"The API server answers {status}: {said}")
    return DeployError(f"The API server answers {status} to {what}: {said}")
