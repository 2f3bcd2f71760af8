"""Azure Machine Learning through its real SDK, against a server that implements what it asks."""

import json
from dataclasses import replace

import pytest

pytest.importorskip("azure.ai.ml", reason="the extra azureml is not installed")

from azureml import WORKSPACE, running_azure
from fleets import trained_fleet
from shoal.deploy import Bundle
from shoal.deploy.azureml import AzureWorkspace, Online, deploy_batch, deploy_online, mlflow_folder
from shoal.deploy.bundle import seal
from shoal.deploy.samples import make_samples
from shoal.errors import DeployError, Unavailable
from shoal.models import Fleet
from shoal.tracking.signature import input_types

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("ignore"),  # the SDK's own
]
ENDPOINT = f"{WORKSPACE}/onlineEndpoints/shop-delay"
IMAGE = "registry.azurecr.io/delay@sha256:" + "ab" * 32


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    """A bundle's parts that Azure is given; the closure is tested elsewhere."""
    import shutil

    import pyarrow as pa

    root = tmp_path_factory.mktemp("azure")
    trained = trained_fleet(root)
    folder = root / "bundle"
    shutil.copytree(trained.artifact, folder / "artifact")
    inputs = input_types(trained)
    fleet = Fleet.open(trained.artifact)
    rows = pa.table({n: trained.input_example.column(n) for n in inputs})
    rows = rows.set_column(3, "hour", rows.column("hour").cast(pa.float64()))
    samples = make_samples(fleet, inputs, rows, "delay")
    (folder / "samples.json").write_text(json.dumps(samples))
    (folder / "server.json").write_text('{"port": 8080, "workers": 1, "max_rows": 1000}')
    (folder / "requirements.txt").write_text("numpy==2.4.6 \\\n    --hash=sha256:00\n")
    content = {
        "model": "delay",
        "version": 3,
        "run_id": "run",
        "python": "3.11",
        "shoal": "0.1.0",
        "pickled": False,
        "signature": {"inputs": inputs, "task": "regression", "interval": None},
    }
    return seal(folder, content)


@pytest.fixture
def azure(bundle, monkeypatch):
    monkeypatch.setenv("AZUREML_DISABLE_TELEMETRY", "true")
    with running_azure() as azure:
        azure.samples = {s["body"]: s["predictions"] for s in bundle.samples}
        yield azure


@pytest.fixture
def workspace(azure):
    from azure.identity import ClientSecretCredential

    credential = ClientSecretCredential("tenant", "client", "a-secret-of-the-tests")
    return AzureWorkspace(subscription="sub", group="group", name="ws", credential=credential)


def test_blue_then_green_and_the_traffic_moves_when_the_answers_are_right(azure, workspace, bundle):
    azure.busy = 2  # 429, and again
    wanted = Online(endpoint="shop-delay", image=IMAGE)
    first = deploy_online(workspace, bundle, wanted)
    assert (first["deployment"], first["traffic"]) == ("blue", {"blue": 100})
    assert ("TOKEN", "/tenant/oauth2/v2.0/token", None) in azure.seen
    (deployment,) = azure.puts("/deployments/blue")
    assert deployment["properties"]["endpointComputeType"] == "Managed"
    assert deployment["properties"]["instanceType"] == "Standard_DS3_v2"
    assert deployment["sku"]["capacity"] == 2
    assert deployment["tags"]["shoal-bundle"] == bundle.digest
    (environment,) = azure.puts("/environments/shoal-delay/")
    assert environment["properties"]["image"] == IMAGE
    routes = environment["properties"]["inferenceConfig"]
    assert routes["scoringRoute"] == {"path": "/invocations", "port": 8080}
    (model,) = azure.puts("/models/delay/versions/3")
    assert model["properties"]["modelType"] == "mlflow_model"
    assert any(path.endswith("/artifact/members.arrow") for path in azure.blobs)
    second = deploy_online(workspace, bundle, replace(wanted, percent=10))
    assert (second["deployment"], second["traffic"]) == ("green", {"blue": 90, "green": 10})
    assert len(azure.puts("/models/delay/versions/3")) == 1
    asked = [path for method, path, _ in azure.seen if method == "SCORE"]
    assert set(asked) == {"blue", "green"}
    puts = [(m, p) for m, p, _ in azure.seen if m in {"PUT", "SCORE"}]
    last = max(i for i, (m, p) in enumerate(puts) if m == "SCORE")
    assert puts[last + 1 :] == [("PUT", ENDPOINT)]  # the traffic, after the answers


def test_a_failure_in_the_middle_leaves_the_traffic_as_it_was(azure, workspace, bundle):
    wanted = Online(endpoint="shop-delay", image=IMAGE)
    deploy_online(workspace, bundle, wanted)
    azure.failing = "/deployments/green"
    with pytest.raises(DeployError, match="The deployment green was removed") as caught:
        deploy_online(workspace, bundle, wanted)
    assert "{'blue': 100}" in caught.value.message
    assert azure.resources[ENDPOINT]["properties"]["traffic"] == {"blue": 100}
    assert ("DELETE", f"{ENDPOINT}/deployments/green", None) in azure.seen
    azure.failing = None
    azure.off = 0.5
    with pytest.raises(DeployError, match="green does not answer as the registry"):
        deploy_online(workspace, bundle, wanted)
    assert azure.resources[ENDPOINT]["properties"]["traffic"] == {"blue": 100}
    assert f"{ENDPOINT}/deployments/green" not in azure.resources
    azure.off = 0.0
    assert deploy_online(workspace, bundle, wanted)["traffic"] == {"green": 100}


def test_refusals_are_told(azure, workspace, bundle):
    azure.forbidden = "/onlineEndpoints/"
    with pytest.raises(DeployError, match="does not have authorization") as caught:
        deploy_online(workspace, bundle, Online(endpoint="shop-delay"))
    assert "role" in caught.value.hint
    with pytest.raises(DeployError, match="is no name of an endpoint"):
        Online(endpoint="1_bad")


def test_another_model_of_that_version_is_not_overwritten(azure, workspace, bundle):
    deploy_online(workspace, bundle, Online(endpoint="shop-delay", image=IMAGE))
    path = f"{WORKSPACE}/models/delay/versions/3"
    azure.resources[path]["properties"]["tags"]["shoal-bundle"] = "other"
    with pytest.raises(DeployError, match="another model delay version 3"):
        deploy_online(workspace, bundle, Online(endpoint="shop-delay", image=IMAGE))
    assert azure.resources[ENDPOINT]["properties"]["traffic"] == {"blue": 100}


def test_no_code_and_batch_deployments_use_the_registered_model(azure, workspace, bundle):
    deploy_online(workspace, bundle, Online(endpoint="shop-delay"))
    (deployment,) = azure.puts("/deployments/blue")
    assert deployment["properties"]["model"].endswith("/models/delay/versions/3")
    azure.resources[f"{WORKSPACE}/computes/cpu"] = {
        "id": f"{WORKSPACE}/computes/cpu",
        "name": "cpu",
        "properties": {"computeType": "AmlCompute", "provisioningState": "Succeeded"},
    }
    found = deploy_batch(workspace, bundle, endpoint="shop-batch", compute="cpu")
    assert found["deployment"] == f"v3-{bundle.digest[:8]}"
    last = azure.puts("/batchEndpoints/shop-batch")[-1]
    assert last["properties"]["defaults"] == {"deploymentName": found["deployment"]}


def test_stock_mlflow_loads_what_is_registered(bundle, tmp_path):
    import mlflow.pyfunc
    import pandas as pd

    folder = mlflow_folder(bundle, tmp_path / "model")
    sample = next(s for s in bundle.samples if s["name"] == "all rows")
    split = json.loads(sample["body"])["dataframe_split"]
    frame = pd.DataFrame(split["data"], columns=split["columns"])
    frame["holiday"] = frame["holiday"].astype(bool)
    found = mlflow.pyfunc.load_model(str(folder)).predict(frame)
    expected = [float("nan") if p is None else p for p in sample["predictions"]]
    assert list(found) == pytest.approx(expected, nan_ok=True)


def test_a_server_that_is_away_is_told(workspace, azure, bundle, monkeypatch):
    azure.url = "http://127.0.0.1:9"
    monkeypatch.setattr("azure.core.pipeline.policies.RetryPolicy.sleep", lambda *_: None)
    with pytest.raises((Unavailable, DeployError)):
        deploy_online(workspace, bundle, Online(endpoint="shop-delay"))
