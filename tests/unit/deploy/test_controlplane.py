"""Deploying to a real API server with the real controllers: as to the one that tests play."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from controlplane import Kubelet, missing, running_controlplane
from shoal.deploy.kubernetes import Target, job, sail
from shoal.deploy.kubernetes.cluster import Cluster
from shoal.deploy.kubernetes.deploy import apply, delete, deploy, rollback, status
from shoal.errors import Conflict, DeployError

WHY = missing()
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(WHY is not None, reason=str(WHY)),
    pytest.mark.filterwarnings("ignore:Unverified HTTPS request"),
]

ONE = Target(
    name="delay",
    namespace="ml",
    image="registry.example/delay:1",
    model="delay",
    version=1,
    digest="11" * 32,
    settings={"A": "1"},
)
TWO = replace(ONE, image="registry.example/delay:2", version=2, digest="22" * 32)
BROKEN = replace(TWO, image="registry.example/broken:3", version=3)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    with running_controlplane(tmp_path_factory.mktemp("plane")) as config:
        with Kubelet(Cluster("test", config)):
            yield config


@pytest.fixture
def cluster(config) -> Cluster:
    return Cluster("test", config)


def test_a_version_is_rolled_out_taken_back_rolled_back_and_deleted(cluster) -> None:
    found = deploy(cluster, ONE, pause=0.1)
    (part,) = found["deployments"]
    assert (part["model"], part["available"]) == ("delay/1", 1)
    assert deploy(cluster, TWO, pause=0.1)["deployments"][0]["model"] == "delay/2"
    with pytest.raises(DeployError, match="ImagePullBackOff") as caught:
        deploy(cluster, BROKEN, pause=0.1)
    assert "It was rolled back: delay/2 answers as before." in caught.value.message
    (part,) = status(cluster, "ml", "delay")["deployments"]
    assert (part["model"], part["available"]) == ("delay/2", 1)
    back = rollback(cluster, "ml", "delay", pause=0.1)
    assert back["deployments"][0]["model"] == "delay/1"
    deploy(cluster, TWO, pause=0.1)  # over fields that a rollback had patched
    gone = delete(cluster, "ml", "delay")
    assert "Deployment/delay" in gone and "NetworkPolicy/delay" in gone
    with pytest.raises(DeployError, match="Nothing named delay"):
        status(cluster, "ml", "delay")


def test_a_first_deploy_that_fails_leaves_nothing(cluster) -> None:
    with pytest.raises(DeployError, match="what was made for it was removed"):
        deploy(cluster, replace(BROKEN, name="first"), pause=0.1)
    for kind in ("Deployment", "Service", "ConfigMap", "NetworkPolicy", "ServiceAccount"):
        assert cluster.find(kind, "ml", {"app.kubernetes.io/name": "first"}) == []


def test_a_quota_refuses_and_the_old_version_answers(cluster) -> None:
    deploy(cluster, replace(ONE, name="small"), pause=0.1)
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "pods"}}
    path = "/api/v1/namespaces/ml/resourcequotas"
    quota["spec"] = {"hard": {"requests.memory": "1Mi"}}
    cluster.request("post", path, quota)
    end = time.monotonic() + 60
    while "hard" not in cluster.request("get", f"{path}/pods").get("status", {}):
        assert time.monotonic() < end
    try:
        with pytest.raises(DeployError, match=r"quota.*delay/1 answers as before"):
            deploy(cluster, replace(TWO, name="small"), pause=0.1, timeout=60)
    finally:
        cluster.request("delete", f"{path}/pods")
        delete(cluster, "ml", "small")


def test_fields_of_another_client_are_not_taken_without_asking(cluster) -> None:
    named = replace(ONE, name="edited")
    deploy(cluster, named, pause=0.1)
    cluster.request(
        "patch",
        "/apis/apps/v1/namespaces/ml/deployments/edited",
        [{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "by/hand:1"}],
        content_type="application/json-patch+json",
        field_manager="kubectl-edit",
    )
    with pytest.raises(Conflict, match="kubectl-edit"):
        deploy(cluster, replace(TWO, name="edited"), pause=0.1)
    deploy(cluster, replace(TWO, name="edited"), force_conflicts=True, pause=0.1)
    delete(cluster, "ml", "edited")


def test_what_the_role_does_not_allow_changes_nothing(cluster, config, tmp_path) -> None:
    account = "/api/v1/namespaces/ml/serviceaccounts"
    cluster.request("post", account, {"metadata": {"name": "reader"}})
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = cluster.request("post", f"{account}/reader/token", asked)["status"]["token"]
    path = tmp_path / "kubeconfig"
    path.write_text(
        config.read_text().split("users:")[0] + f"users: [{{name: test, user: {{token: {token}}}}}]"
    )
    with pytest.raises(DeployError, match=r"refuses PATCH .*cannot patch") as caught:
        deploy(Cluster("test", path), replace(ONE, name="mine"), pause=0.1)
    assert "Role" in caught.value.hint
    assert cluster.get("ServiceAccount", "ml", "mine") is None


def test_jobs_schedules_and_a_sail_cluster_are_taken(cluster) -> None:
    nightly = job(["run"], name="nightly", namespace="ml", image="a:1", schedule="0 3 * * *")
    once = job(["train"], name="once", namespace="ml", image="a:1")
    apply(cluster, [nightly, once, *sail(namespace="ml", image="sail:1")])
    assert cluster.get("CronJob", "ml", "nightly")["spec"]["timeZone"] == "Etc/UTC"
    assert cluster.get("Deployment", "ml", "sail")


def test_mlflows_commands_deploy_there(cluster, config, bundled, tmp_path) -> None:
    environment = {**os.environ, "KUBECONFIG": str(config)}

    def deployments(*arguments: str) -> str:
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "deployments",
            *arguments,
            "-t",
            "shoal-k8s:/test/ml",
        ]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    options = ["-C", "image=registry.example/delay:1", "-C", "force=true"]
    deployments("create", "--name", "plugged", "-m", str(bundled.bundle.folder), *options)
    assert "'name': 'plugged'" in deployments("list")
    deployments("delete", "--name", "plugged")
    assert "plugged" not in json.dumps(cluster.find("Deployment", "ml", {}))
