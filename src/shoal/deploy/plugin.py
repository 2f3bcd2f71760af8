"""MLflow's own words for Shoal on Kubernetes: ``mlflow deployments create -t shoal-k8s``.

The interface is that of MLflow's deployment plugins, ``mlflow.deployments.BaseDeploymentClient``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

import click
from mlflow.deployments import BaseDeploymentClient, PredictionsResponse
from mlflow.exceptions import MlflowException

from shoal.errors import DeployError, ShoalError, nearest

if TYPE_CHECKING:
    from shoal.deploy.bundle import Bundle
    from shoal.deploy.kubernetes.cluster import Cluster

__all__ = ["KubernetesClient", "run_local", "target_help"]

_FLAVOR = "shoal"
_HELP = """\
Shoal on Kubernetes: a registered model becomes a bundle, is rehearsed here as its container
would run, and is rolled out; what does not become ready is taken back.

Target URI
    shoal-k8s                          the kubeconfig's current context, namespace "default"
    shoal-k8s:/CONTEXT/NAMESPACE       another context and namespace

Model URI
    models:/NAME/VERSION or models:/NAME@ALIAS, of MLflow's tracking URI; or a bundle's folder

Configuration (-C key=value)
    image              the bundle's image, best by its digest; always needed
    build=true         build that image here first (buildah, docker or podman)
    bundles            folder that bundles are made in [default: bundles]
    force=true         deploy without a passed rehearsal
    timeout            seconds until it must be ready
    context, namespace as in the target URI
    kubeconfig         another kubeconfig
    replicas, max_replicas, route, host, gateway, ingress_class, tls_secret, identity, tokens,
    monitor            as the options of: shoal deploy k8s --help

Example
    mlflow deployments create -t shoal-k8s:/aks/ml --name delay -m models:/delay@champion \\
        -C image=registry.example/delay@sha256:...
"""
_OWN = {"image", "build", "bundles", "force", "timeout", "context", "namespace", "kubeconfig"}
_PASSED = {
    *("replicas", "max_replicas", "route", "host", "gateway", "ingress_class", "tls_secret"),
    *("identity", "tokens", "monitor"),
}


def target_help() -> str:
    """What ``mlflow deployments help -t shoal-k8s`` prints."""
    return _HELP


def run_local(
    target: str,  # noqa: ARG001  (MLflow gives these by name)
    name: str,  # noqa: ARG001
    model_uri: str,
    flavor: str | None = None,  # noqa: ARG001
    config: Mapping[str, Any] | None = None,
) -> None:
    """Makes the bundle, rehearses it and serves it on loopback until it is told to stop.

    Raises:
        MlflowException: There is no such model, or it does not pass its rehearsal.
    """
    from shoal.deploy.served import served_bundle
    from shoal.serving import create_app, serve

    settings = _checked(config)
    try:
        bundle = _bundle(model_uri, settings)
        served = served_bundle(bundle)
        app = create_app(served, default=bundle.model)
        with served.following(also=[app.state.publish]):
            port = int(bundle.server["port"])
            serve(app, host="127.0.0.1", port=port, ready=_say)
    except ShoalError as error:
        _refuse(error)


class KubernetesClient(BaseDeploymentClient):
    """Deployments in one namespace of one cluster.

    Args:
        target_uri: ``shoal-k8s`` or ``shoal-k8s:/CONTEXT/NAMESPACE``.
    """

    def __init__(self, target_uri: str) -> None:
        super().__init__(target_uri)  # type: ignore[no-untyped-call]
        parts = [part for part in urlsplit(target_uri).path.split("/") if part]
        if ":" not in target_uri:
            parts = []
        if len(parts) > 2:
            raise MlflowException.invalid_parameter_value(
                f"'{target_uri}' is no target. Write it like shoal-k8s:/CONTEXT/NAMESPACE."
            )
        self._context = parts[0] if parts else None
        self._namespace = parts[1] if len(parts) == 2 else "default"

    def create_deployment(
        self,
        name: str,
        model_uri: str,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Deploys a model under a new name, and waits until it answers.

        Args:
            name: Name of its objects.
            model_uri: ``models:/delay/7``, ``models:/delay@champion``, or a bundle's folder.
            flavor: Only ``shoal``.
            config: See `target_help`.
            endpoint: There are none here.

        Returns:
            The deployment, with ``name`` and ``flavor``.

        Raises:
            MlflowException: The name is taken, the rehearsal failed, or the cluster refuses.
        """
        cluster, namespace, settings = self._place(flavor, config, endpoint)
        try:
            if cluster.get("Deployment", namespace, name) is not None:
                raise DeployError(
                    f"{name} is deployed in {namespace} already.",
                    hint=f"mlflow deployments update -t {self.target_uri} --name {name}",
                )
            return self._deploy(cluster, namespace, name, model_uri, settings)
        except ShoalError as error:
            _refuse(error)

    def update_deployment(
        self,
        name: str,
        model_uri: str | None = None,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Brings another version under a name; the old one answers until the new one does.

        Raises:
            MlflowException: There is no such deployment or no ``model_uri``, or the cluster
                refuses; the old version answers as before.
        """
        cluster, namespace, settings = self._place(flavor, config, endpoint)
        if model_uri is None:
            raise MlflowException.invalid_parameter_value(
                "An update brings a model. Give --model-uri models:/NAME/VERSION."
            )
        try:
            if cluster.get("Deployment", namespace, name) is None:
                raise DeployError(
                    f"Nothing named {name} is deployed in {namespace}.",
                    hint=f"mlflow deployments create -t {self.target_uri} --name {name}",
                )
            return self._deploy(cluster, namespace, name, model_uri, settings)
        except ShoalError as error:
            _refuse(error)

    def delete_deployment(
        self, name: str, config: Mapping[str, Any] | None = None, endpoint: str | None = None
    ) -> None:
        """Deletes all that was made for a name; nothing happens where there is nothing."""
        from shoal.deploy.kubernetes.deploy import delete

        cluster, namespace, _ = self._place(None, config, endpoint)
        try:
            if cluster.get("Deployment", namespace, name) is not None:
                delete(cluster, namespace, name)
        except ShoalError as error:
            _refuse(error)

    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """The namespace's deployments that Shoal made."""
        cluster, namespace, _ = self._place(None, None, endpoint)
        labels = {"app.kubernetes.io/managed-by": "shoal", "app.kubernetes.io/component": "stable"}
        try:
            found = cluster.find("Deployment", namespace, labels)
        except ShoalError as error:
            _refuse(error)
        return [
            {
                "name": one["metadata"]["name"],
                "flavor": _FLAVOR,
                "model": one["metadata"].get("annotations", {}).get("shoal/model"),
            }
            for one in found
        ]

    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        """What runs under a name: versions, images, replicas and pods.

        Raises:
            MlflowException: Nothing does.
        """
        from shoal.deploy.kubernetes.deploy import status

        cluster, namespace, _ = self._place(None, None, endpoint)
        try:
            return {**status(cluster, namespace, name), "flavor": _FLAVOR}
        except ShoalError as error:
            _refuse(error)

    def predict(
        self, deployment_name: str | None = None, inputs: Any = None, endpoint: str | None = None
    ) -> PredictionsResponse:
        """Asks a deployment through the API server, with the kubeconfig's rights.

        Args:
            deployment_name: Its name.
            inputs: A pandas DataFrame, or what MLflow's scoring protocol takes as ``inputs``.
            endpoint: There are none here.
        """
        cluster, namespace, _ = self._place(None, None, endpoint)
        if hasattr(inputs, "itertuples"):
            rows = [[_plain(v) for v in row] for row in inputs.itertuples(index=False)]
            body = {"dataframe_split": {"columns": list(inputs.columns), "data": rows}}
        else:
            body = {"inputs": inputs.tolist() if hasattr(inputs, "tolist") else inputs}
        service = f"/api/v1/namespaces/{namespace}/services/{deployment_name}:80"
        try:
            found = cluster.request("post", f"{service}/proxy/invocations", body)
        except ShoalError as error:
            _refuse(error)
        return PredictionsResponse(found)

    def _place(
        self, flavor: str | None, config: Mapping[str, Any] | None, endpoint: str | None
    ) -> tuple[Cluster, str, dict[str, Any]]:
        from shoal.deploy.kubernetes.cluster import Cluster

        if flavor not in {None, _FLAVOR}:
            raise MlflowException.invalid_parameter_value(
                f"A fleet has the flavor '{_FLAVOR}' only, found '{flavor}'."
            )
        if endpoint is not None:
            raise MlflowException.invalid_parameter_value(
                "A deployment on Kubernetes has its own Service; there are no endpoints."
            )
        settings = _checked(config)
        try:
            cluster = Cluster(settings.get("context", self._context), settings.get("kubeconfig"))
        except ShoalError as error:
            _refuse(error)
        return cluster, settings.get("namespace", self._namespace), settings

    def _deploy(
        self,
        cluster: Cluster,
        namespace: str,
        name: str,
        model_uri: str,
        settings: Mapping[str, Any],
    ) -> dict[str, Any]:
        from shoal.deploy.image import build_image
        from shoal.deploy.kubernetes import target_of
        from shoal.deploy.kubernetes.deploy import deploy

        image = settings.get("image")
        if image is None:
            raise DeployError(
                "A deployment needs the bundle's image.",
                hint="-C image=registry.example/delay@sha256:...  (and -C build=true to build it)",
            )
        bundle = _bundle(model_uri, settings)
        if settings.get("build"):
            build_image(bundle, image)
        given = {key: value for key, value in settings.items() if key in _PASSED}
        target = target_of(bundle, name=name, namespace=namespace, image=image, **given)
        found = deploy(cluster, target, timeout=settings.get("timeout"), told=click.echo)
        return {**found, "flavor": _FLAVOR}


def _checked(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """The configuration with its values' types; the command line gives text."""
    found: dict[str, Any] = {}
    for key, value in (config or {}).items():
        if key not in _OWN | _PASSED:
            close = nearest(key, sorted(_OWN | _PASSED))
            hint = f" Did you mean '{close}'?" if close else ""
            raise MlflowException.invalid_parameter_value(f"There is no setting '{key}'.{hint}")
        try:
            if key in {"build", "force", "monitor"}:
                found[key] = {"true": True, "false": False}[str(value).lower()]
            elif key in {"replicas", "max_replicas"}:
                found[key] = int(value)
            else:
                found[key] = float(value) if key == "timeout" else str(value)
        except (KeyError, ValueError):
            raise MlflowException.invalid_parameter_value(
                f"'{value}' is no value of '{key}'. See: mlflow deployments help -t shoal-k8s"
            ) from None
    return found


def _bundle(model_uri: str, settings: Mapping[str, Any]) -> Bundle:
    """The rehearsed bundle of a model."""
    import mlflow

    from shoal.deploy.bundle import Bundle
    from shoal.deploy.make import make_bundle
    from shoal.deploy.rehearse import rehearse
    from shoal.tracking import Tracker

    if model_uri.startswith("models:/"):
        tracker = Tracker(mlflow.get_tracking_uri(), None, "shoal")
        bundle = make_bundle(
            tracker, model_uri, Path(settings.get("bundles", "bundles")), locks=[Path()]
        )
    else:
        bundle = Bundle.open(Path(model_uri))
    if settings.get("force") or (bundle.rehearsal or {}).get("passed"):
        return bundle
    report = rehearse(bundle, by="mlflow deployments")
    if not report["passed"]:
        raise DeployError(
            f"The bundle {bundle.folder} did not pass its rehearsal: "
            + "; ".join(report["failures"]),
            hint=f"shoal rehearse {bundle.folder}   (or -C force=true)",
        )
    return bundle


def _plain(value: Any) -> Any:
    """A cell as JSON has it; pandas' own writer rounds numbers to 15 digits at the most."""
    import pandas as pd

    if value is None or pd.isna(value):
        return None
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return value.item() if hasattr(value, "item") else value


def _say(url: str) -> None:
    click.echo(f"Serving at {url}")


def _refuse(error: ShoalError) -> NoReturn:
    hint = f"\nHint:  {error.hint}" if error.hint else ""
    raise MlflowException(f"{error.message}{hint}") from error
