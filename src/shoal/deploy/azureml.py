"""Azure Machine Learning: managed online endpoints with two deployments, and batch endpoints.

An endpoint has a blue and a green deployment. The new version goes to the one without traffic,
must answer the bundle's samples as the registry does, and only then gets requests; what fails is
removed, and the traffic stays as it was.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from shoal.deploy.bundle import Bundle
from shoal.deploy.samples import differs
from shoal.errors import DeployError, Unavailable

if TYPE_CHECKING:
    from azure.ai.ml import MLClient

__all__ = ["AzureWorkspace", "Online", "deploy_batch", "deploy_online", "mlflow_folder"]

_COLOURS = ("blue", "green")
_ENDPOINT = re.compile(r"[a-z][a-z0-9-]{1,30}[a-z0-9]", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class AzureWorkspace:
    """A workspace of Azure Machine Learning.

    Args:
        subscription: The subscription's id.
        group: The resource group.
        name: The workspace.
        credential: Who asks; None is `azure.identity.DefaultAzureCredential`.
    """

    subscription: str
    group: str
    name: str
    credential: Any = None

    def client(self) -> MLClient:
        """Azure's own client.

        Raises:
            DeployError: It is not installed.
        """
        try:
            from azure.ai.ml import MLClient
            from azure.identity import DefaultAzureCredential
        except ModuleNotFoundError:
            raise DeployError(
                "Azure Machine Learning's client is not installed.",
                hint="pip install 'shoal[azureml]'",
            ) from None
        credential = self.credential or DefaultAzureCredential()
        return MLClient(credential, self.subscription, self.group, self.name)


@dataclass(frozen=True, kw_only=True)
class Online:
    """What an online endpoint is to be.

    Args:
        endpoint: Its name, unique in the region.
        image: The bundle's image; None deploys the MLflow model without code of one's own.
        instance_type: Size of the machines.
        instances: How many.
        percent: Share of the requests that the new deployment takes.
        keep: Keep the old deployment when it gets no more requests, to go back to.
    """

    endpoint: str
    image: str | None = None
    instance_type: str = "Standard_DS3_v2"
    instances: int = 2
    percent: int = 100
    keep: bool = True

    def __post_init__(self) -> None:
        _checked(self.endpoint)
        if not 0 <= self.percent <= 100:
            raise DeployError(f"{self.percent} percent is no share of the requests.")


def _checked(endpoint: str) -> None:
    if not _ENDPOINT.fullmatch(endpoint):
        raise DeployError(
            f"'{endpoint}' is no name of an endpoint: 3 to 32 letters, digits and '-', beginning "
            "with a letter.",
            hint="Give another one: --endpoint shop-delay",
        )


def deploy_online(
    workspace: AzureWorkspace,
    bundle: Bundle,
    wanted: Online,
    *,
    told: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Brings a bundle to a managed online endpoint, made when it is missing.

    Args:
        workspace: Where.
        bundle: What.
        wanted: How.
        told: Called with what happens, in words.

    Returns:
        ``endpoint``, ``deployment``, ``traffic``, ``scoring_uri``.

    Raises:
        DeployError: Azure refuses, or the new deployment answers otherwise than the registry; the
            traffic is as it was.
        Unavailable: Azure does not answer.
    """
    from azure.ai.ml.entities import ManagedOnlineEndpoint

    client = workspace.client()
    with _told_by_azure():
        endpoint = _found(client.online_endpoints.get, wanted.endpoint)
        if endpoint is None:
            told(f"making the endpoint {wanted.endpoint}")
            made = ManagedOnlineEndpoint(
                name=wanted.endpoint, auth_mode="key", tags={"managed-by": "shoal"}
            )
            endpoint = client.online_endpoints.begin_create_or_update(made).result()
        before = {name: share for name, share in (endpoint.traffic or {}).items() if share}
        busy = [colour for colour in _COLOURS if before.get(colour)]
        if len(busy) == 2:
            raise DeployError(
                f"Both deployments of {wanted.endpoint} take requests: {before}.",
                hint="Give all traffic to one of them first: --percent 100",
            )
        colour = next(colour for colour in _COLOURS if colour not in busy)
        model = _register(client, bundle)
        told(f"registered {model.name} version {model.version}; deploying {colour}")
    try:
        with _told_by_azure():
            deployment = _deployment(bundle, wanted, colour, model)
            client.online_deployments.begin_create_or_update(deployment).result()
            told(f"{colour} is there; asking it the samples")
            _rehearse(client, endpoint.scoring_uri, wanted.endpoint, colour, bundle)
    except (DeployError, Unavailable) as error:
        with contextlib.suppress(Exception):
            client.online_deployments.begin_delete(
                name=colour, endpoint_name=wanted.endpoint
            ).result()
        raise DeployError(
            f"{error.message} The deployment {colour} was removed; the traffic is as it was: "
            f"{before or 'none'}.",
            hint=error.hint,
        ) from error
    with _told_by_azure():
        endpoint.traffic = _traffic(before, colour, wanted.percent)
        endpoint = client.online_endpoints.begin_create_or_update(endpoint).result()
        old = busy[0] if busy else None
        if old and wanted.percent == 100 and not wanted.keep:
            client.online_deployments.begin_delete(name=old, endpoint_name=wanted.endpoint).result()
    return {
        "endpoint": wanted.endpoint,
        "deployment": colour,
        "traffic": {name: share for name, share in endpoint.traffic.items() if share},
        "scoring_uri": endpoint.scoring_uri,
        "model": f"{bundle.model}/{bundle.version}",
    }


def _traffic(before: Mapping[str, int], colour: str, percent: int) -> dict[str, int]:
    if not before:
        return {colour: 100}
    (old,) = before
    return {old: 100 - percent, colour: percent}


def _deployment(bundle: Bundle, wanted: Online, colour: str, model: Any) -> Any:
    from azure.ai.ml.entities import Environment, ManagedOnlineDeployment

    settings: dict[str, Any] = {"model": f"azureml:{model.name}:{model.version}"}
    if wanted.image is not None:
        port = int(bundle.server["port"])
        routes = {
            "liveness_route": {"path": "/v2/health/live", "port": port},
            "readiness_route": {"path": "/ready", "port": port},
            "scoring_route": {"path": "/invocations", "port": port},
        }
        settings = {
            "environment": Environment(
                name=f"shoal-{_plain(bundle.model)}",
                version=bundle.digest[:12],
                image=wanted.image,
                inference_config=routes,
            )
        }
    return ManagedOnlineDeployment(
        name=colour,
        endpoint_name=wanted.endpoint,
        instance_type=wanted.instance_type,
        instance_count=wanted.instances,
        tags={"shoal-bundle": bundle.digest, "shoal-model": f"{bundle.model}/{bundle.version}"},
        **settings,
    )


def _register(client: MLClient, bundle: Bundle) -> Any:
    """Registers the model under its own name and version; what is there already stays."""
    from azure.ai.ml.constants import AssetTypes
    from azure.ai.ml.entities import Model

    name, version = _plain(bundle.model), str(bundle.version)
    there = _found(client.models.get, name, version)
    if there is not None:
        if there.tags.get("shoal-bundle") != bundle.digest:
            raise DeployError(
                f"The workspace has another model {name} version {version}: it was made from "
                f"bundle {str(there.tags.get('shoal-bundle'))[:12]}, this is {bundle.digest[:12]}.",
                hint="Train a new version, or use another workspace.",
            )
        return there
    with tempfile.TemporaryDirectory(prefix="shoal-azureml-") as folder:
        path = mlflow_folder(bundle, Path(folder) / "model")
        model = Model(
            name=name,
            version=version,
            type=AssetTypes.MLFLOW_MODEL,
            path=str(path),
            tags={"shoal-bundle": bundle.digest},
        )
        return client.models.create_or_update(model)


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")


def mlflow_folder(bundle: Bundle, folder: Path) -> Path:
    """A bundle as an MLflow model, which is deployed without code of one's own.

    Args:
        bundle: The bundle.
        folder: A new folder.
    """
    import shutil

    import yaml

    folder.mkdir(parents=True)
    shutil.copytree(bundle.artifact, folder / "artifact")
    lines = (bundle.folder / "requirements.txt").read_text("utf-8").splitlines()
    pins = [line.rstrip(" \\") for line in lines if "==" in line]
    own = f"shoal=={bundle.content['shoal']}"
    conda = {
        "name": "shoal",
        "channels": ["conda-forge"],
        "dependencies": [
            f"python={bundle.content['python']}",
            "pip",
            {"pip": ["mlflow", "azureml-inference-server-http", own, *pins]},
        ],
    }
    (folder / "conda.yaml").write_text(yaml.safe_dump(conda, sort_keys=False), "utf-8")
    signature = bundle.content["signature"]
    inputs = [{"type": k, "name": n, "required": True} for n, k in signature["inputs"].items()]
    model = {
        "flavors": {
            "python_function": {
                "data": "artifact",
                "env": {"conda": "conda.yaml"},
                "loader_module": "shoal.models.pyfunc",
                "python_version": bundle.content["python"],
            }
        },
        "run_id": bundle.content["run_id"],
        "signature": {"inputs": json.dumps(inputs)},
    }
    (folder / "MLmodel").write_text(yaml.safe_dump(model, sort_keys=False), "utf-8")
    return folder


def _rehearse(client: MLClient, uri: str, endpoint: str, colour: str, bundle: Bundle) -> None:
    """Asks one deployment of an endpoint the samples of MLflow's protocol."""
    key = client.online_endpoints.get_keys(endpoint).primary_key
    parts = urlsplit(uri)
    samples = [s for s in bundle.samples if s["type"] == "application/json" and s["status"] == 200]
    kind = http.client.HTTPConnection if parts.scheme == "http" else http.client.HTTPSConnection
    connection = kind(parts.hostname or "", parts.port, timeout=60)
    headers = {
        "content-type": "application/json",
        "authorization": f"Bearer {key}",
        "azureml-model-deployment": colour,
    }
    with contextlib.closing(connection):
        for sample in samples:
            if "/infer" in sample["path"]:
                continue
            try:
                connection.request("POST", parts.path, str(sample["body"]).encode(), headers)
                answer = connection.getresponse()
                fault = differs(sample, answer.status, answer.read())
            except (OSError, http.client.HTTPException) as error:
                raise Unavailable(f"The endpoint does not answer: {error}") from error
            if fault:
                raise DeployError(f"{colour} does not answer as the registry: {fault}.")


def deploy_batch(
    workspace: AzureWorkspace,
    bundle: Bundle,
    *,
    endpoint: str,
    compute: str,
    told: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Brings a bundle to a batch endpoint, which scores files on a cluster of machines.

    Args:
        workspace: Where.
        bundle: What.
        endpoint: Name of the endpoint; made when missing.
        compute: The cluster of machines.
        told: Called with what happens, in words.

    Returns:
        ``endpoint`` and ``deployment``, which answers from now on.

    Raises:
        DeployError: Azure refuses; the deployment that answered before still does.
        Unavailable: Azure does not answer.
    """
    from azure.ai.ml.entities import BatchEndpoint, ModelBatchDeployment

    _checked(endpoint)
    client = workspace.client()
    with _told_by_azure():
        found = _found(client.batch_endpoints.get, endpoint)
        if found is None:
            told(f"making the batch endpoint {endpoint}")
            made = BatchEndpoint(name=endpoint, tags={"managed-by": "shoal"})
            found = client.batch_endpoints.begin_create_or_update(made).result()
        model = _register(client, bundle)
        name = f"v{bundle.version}-{bundle.digest[:8]}"
        deployment = ModelBatchDeployment(
            name=name,
            endpoint_name=endpoint,
            model=f"azureml:{model.name}:{model.version}",
            compute=compute,
        )
        client.batch_deployments.begin_create_or_update(deployment).result()
        found.defaults = {"deployment_name": name}
        client.batch_endpoints.begin_create_or_update(found).result()
    return {"endpoint": endpoint, "deployment": name}


def _found(get: Callable[..., Any], *arguments: str) -> Any:
    """What Azure has under a name; None where it has nothing."""
    from azure.core.exceptions import ResourceNotFoundError

    try:
        return get(*arguments)
    except ResourceNotFoundError:
        return None


@contextlib.contextmanager
def _told_by_azure() -> Iterator[None]:
    """Azure's errors as Shoal's."""
    from azure.core.exceptions import (
        AzureError,
        ClientAuthenticationError,
        HttpResponseError,
        ServiceRequestError,
    )

    try:
        yield
    except ClientAuthenticationError as error:
        raise DeployError(
            f"Azure does not know who asks: {_short(error)}", hint="az login"
        ) from error
    except ServiceRequestError as error:
        raise Unavailable(f"Azure does not answer: {_short(error)}") from error
    except HttpResponseError as error:
        if error.status_code in {429, 500, 502, 503, 504}:
            raise Unavailable(f"Azure answers {error.status_code}: {_short(error)}") from error
        hint = "Ask for the role AzureML Data Scientist." if error.status_code == 403 else None
        raise DeployError(f"Azure refuses: {_short(error)}", hint=hint) from error
    except AzureError as error:
        raise DeployError(f"Azure: {_short(error)}") from error


def _short(error: Exception) -> str:
    return " ".join(str(getattr(error, "message", error)).split())[:600]
