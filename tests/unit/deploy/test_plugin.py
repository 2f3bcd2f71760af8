"""MLflow's own command line deploys to Kubernetes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow.deployments import get_deploy_client
from mlflow.exceptions import MlflowException

from kube import running_kube
from servers import running_server
from shoal.deploy import Bundle
from shoal.tracking import Tracker
from shoal.workspace import Workspace

IMAGE = "registry.example/delay:1"
TARGET = "shoal-k8s:/test/ml"


@pytest.fixture
def kube(tmp_path, monkeypatch):
    with running_kube() as (kube, url):
        monkeypatch.setenv("KUBECONFIG", str(kube.kubeconfig(tmp_path, url)))
        yield kube


@pytest.fixture
def tracking(bundled, monkeypatch):
    with Workspace.open(bundled.root) as space:
        uri = space.tracker.uri
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    yield uri
    mlflow.set_tracking_uri(before)


def deployments(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mlflow", "deployments", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=os.environ, check=False
    )


def test_mlflows_commands_deploy_ask_and_delete(kube, tracking, bundled, tmp_path) -> None:
    create = ["create", "-t", TARGET, "--name", "delay", "-m", "models:/delay@champion"]
    done = deployments(tmp_path, *create, "-C", f"image={IMAGE}", "-C", "force=true")
    assert done.returncode == 0, done.stderr
    assert "shoal deployment delay is created" in done.stdout
    assert kube.applied(dry=True) == kube.applied(dry=False)
    notes = kube.objects["deployments", "delay"]["metadata"]["annotations"]
    (made,) = (tmp_path / "bundles").iterdir()
    assert notes["shoal/bundle"] == Bundle.open(made).digest
    assert deployments(tmp_path, "list", "-t", TARGET).stdout.strip() == (
        "List of all deployments:\n[{'name': 'delay', 'flavor': 'shoal', 'model': 'delay/1'}]"
    )
    got = deployments(tmp_path, "get", "-t", TARGET, "--name", "delay")
    assert "model" in got.stdout and "delay/1" in got.stdout
    again = deployments(tmp_path, *create, "-C", f"image={IMAGE}", "-C", "force=true")
    assert again.returncode != 0
    assert "delay is deployed in ml already" in again.stderr

    sample = bundled.bundle.samples[0]
    rows = json.loads(sample["body"])["dataframe_records"]
    with running_server(Tracker(tracking, None, "flights"), tmp_path / "server") as server:
        kube.service = server.url
        found = get_deploy_client(TARGET).predict("delay", pd.DataFrame(rows))
    assert found["predictions"] == sample["predictions"]

    for _ in range(2):  # it may be asked for twice
        assert deployments(tmp_path, "delete", "-t", TARGET, "--name", "delay").returncode == 0
    assert kube.objects == {}


def test_an_update_that_fails_leaves_the_old_version(kube, tracking, bundled, tmp_path) -> None:
    client = get_deploy_client(TARGET)
    folder = str(bundled.bundle.folder)
    config = {"image": IMAGE, "force": "true"}
    with pytest.raises(MlflowException, match="Nothing named delay is deployed in ml"):
        client.update_deployment("delay", folder, config=config)
    client.create_deployment("delay", folder, config=config)
    broken = {**config, "image": "registry.example/broken:2"}
    with pytest.raises(MlflowException, match="answers as before"):
        client.update_deployment("delay", folder, config=broken)
    (part,) = client.get_deployment("delay")["deployments"]
    assert part["image"] == IMAGE
    assert client.update_deployment("delay", folder, config=config)["flavor"] == "shoal"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"imagee": IMAGE}, "Did you mean 'image'"),
        ({"image": IMAGE, "replicas": "many"}, "'many' is no value of 'replicas'"),
        ({"force": "true"}, "needs the bundle's image"),
        ({"image": IMAGE, "context": "aks"}, "has no context 'aks'"),
    ],
)
def test_what_it_cannot_do_is_said(kube, tracking, bundled, config, said) -> None:
    client = get_deploy_client(TARGET)
    with pytest.raises(MlflowException, match=said):
        client.create_deployment("delay", str(bundled.bundle.folder), config=config)
    assert kube.objects == {}


@pytest.mark.heavy
def test_a_bundle_that_was_not_rehearsed_is_first(kube, tracking, tmp_path) -> None:
    create = ["create", "-t", TARGET, "--name", "delay", "-m", "models:/delay/1"]
    done = deployments(tmp_path, *create, "-C", f"image={IMAGE}")
    assert done.returncode == 0, done.stderr
    (report,) = (tmp_path / "bundles").glob("*/rehearsal.json")
    assert json.loads(report.read_text())["passed"]
    assert kube.applied(dry=False)
