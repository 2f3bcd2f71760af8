"""Objects for Kubernetes: valid by the schemas of its three newest versions, and as they are meant."""

import json
import shutil
import subprocess
from dataclasses import replace

import kubernetes_validate
import pytest
import yaml

from shoal.deploy import Bundle
from shoal.deploy.kubernetes import (
    Target,
    inference_service,
    job,
    manifests,
    sail,
    target_of,
    write_kustomize,
)
from shoal.errors import DeployError

DIGEST = "sha256:" + "ab" * 32
TARGET = Target(
    name="delay",
    namespace="ml",
    image=f"registry.example/delay@{DIGEST}",
    model="delay",
    version=3,
    digest="cd" * 32,
    route="ingress",
    host="delay.example",
    tls_secret="delay-tls",
    ingress_class="nginx",
    identity="00000000-0000-0000-0000-000000000001",
    secrets=["mlflow"],
    tokens="delay-tokens",
    settings={"LEVEL": "info"},
    command=["serve", "--bundle", "/srv/bundle"],
)
NEWEST = ["1.35", "1.36", "1.37"]


def check(objects, version):
    for found in objects:
        kubernetes_validate.validate(found, version, strict=True)


def kinds(objects):
    return {found["kind"]: found for found in objects}


@pytest.mark.parametrize("version", NEWEST)
def test_objects_fit_the_schemas_of_the_three_newest_versions(version):
    assert kubernetes_validate.latest_version().startswith(NEWEST[-1])
    check(manifests(TARGET), version)
    check(manifests(replace(TARGET, weight=10)), version)
    check(
        [job(["run"], name="nightly", namespace="ml", image="shop:1", schedule="0 3 * * *")],
        version,
    )
    check([job(["train", "delay"], name="train", namespace="ml", image="shop:1")], version)
    check(sail(namespace="ml", image="sail:1", identity="client"), version)


def test_the_schemas_do_refuse():
    broken = manifests(TARGET)
    kinds(broken)["Deployment"]["spec"]["template"]["spec"]["container"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        check(broken, NEWEST[-1])


def test_all_parts_are_there_and_find_each_other():
    found = kinds(manifests(replace(TARGET, monitor=True)))
    assert set(found) == {
        *("ServiceAccount", "ConfigMap", "Deployment", "Service", "HorizontalPodAutoscaler"),
        *("PodDisruptionBudget", "NetworkPolicy", "Ingress", "ServiceMonitor"),
    }
    pod = found["Deployment"]["spec"]["template"]
    for selecting in (
        found["Service"]["spec"]["selector"],
        found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        found["Deployment"]["spec"]["selector"]["matchLabels"],
    ):
        assert selecting.items() <= pod["metadata"]["labels"].items()
    assert pod["spec"]["serviceAccountName"] == found["ServiceAccount"]["metadata"]["name"]
    sources = pod["spec"]["containers"][0]["envFrom"]
    assert sources[0]["configMapRef"]["name"] == found["ConfigMap"]["metadata"]["name"]
    assert sources[1] == {"secretRef": {"name": "mlflow"}}
    assert pod["metadata"]["annotations"]["shoal/bundle"] == TARGET.digest
    assert pod["metadata"]["labels"]["azure.workload.identity/use"] == "true"
    client = found["ServiceAccount"]["metadata"]["annotations"]
    assert client == {"azure.workload.identity/client-id": TARGET.identity}
    # Replicas are the autoscaler's: a deploy must not take them back.
    assert "replicas" not in found["Deployment"]["spec"]


def test_pods_meet_the_restricted_standard_and_the_old_ones_answer_until_the_new_do():
    found = kinds(manifests(TARGET))["Deployment"]["spec"]
    pod = found["template"]["spec"]
    container = pod["containers"][0]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert found["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"


def test_a_server_of_a_bundle_alone_may_ask_nobody():
    plain = replace(TARGET, identity=None, secrets=())
    policy = kinds(manifests(plain))["NetworkPolicy"]["spec"]
    assert policy["egress"] == [] and "Egress" in policy["policyTypes"]


def test_a_canary_shares_the_requests_by_weight_and_leaves_the_stable_one_alone():
    canary = replace(TARGET, route="gateway", weight=10)
    found = kinds(manifests(canary))
    assert set(found) == {"ConfigMap", "Deployment", "Service", "HTTPRoute"}
    assert found["Deployment"]["metadata"]["name"] == "delay-canary"
    backends = found["HTTPRoute"]["spec"]["rules"][0]["backendRefs"]
    assert [(b["name"], b["weight"]) for b in backends] == [("delay", 90), ("delay-canary", 10)]
    stable = kinds(manifests(TARGET))["Deployment"]["spec"]["selector"]["matchLabels"]
    assert not stable.items() <= found["Service"]["spec"]["selector"].items()
    ingress = kinds(manifests(replace(TARGET, weight=25)))["Ingress"]
    assert ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/canary-weight"] == "25"
    with pytest.raises(DeployError, match="needs a route"):
        replace(TARGET, weight=10, route="none")


def test_kserve_gets_the_same_server():
    found = inference_service(replace(TARGET, weight=0))
    (container,) = found["spec"]["predictor"]["containers"]
    assert container["name"] == "kserve-container"
    assert container["image"] == TARGET.image
    assert container["ports"][0]["containerPort"] == 8080
    # Its containers are those of a pod: the pod's own schema checks them.
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}
    predictor = found["spec"]["predictor"]
    spec = {key: predictor[key] for key in ("containers", "securityContext", "volumes")}
    check([{**pod, "spec": spec}], NEWEST[-1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "a" * 60}, "60 characters; Kubernetes takes 56"),
        ({"name": "Delay_Model"}, "no name for Kubernetes"),
        ({"namespace": "n" * 64}, "The namespace .* has 64 characters"),
        ({"image": "no image"}, "is no image name"),
        ({"image": "a\nb"}, "is no image name"),
        ({"replicas": 11}, "11 replicas at least and 10 at most"),
        ({"route": "ingress", "host": None}, "needs a host name"),
    ],
)
def test_what_kubernetes_would_refuse_is_refused_first(changes, message):
    with pytest.raises(DeployError, match=message):
        replace(TARGET, **changes)


def test_wrong_jobs_are_refused():
    with pytest.raises(DeployError, match="is no job"):
        job(["sql", "x"], name="a", namespace="ml", image="b")
    with pytest.raises(DeployError, match="no schedule"):
        job(["run"], name="a", namespace="ml", image="b", schedule="daily")
    with pytest.raises(DeployError, match="53 characters; Kubernetes takes 52"):
        job(["run"], name="a" * 53, namespace="ml", image="b", schedule="@daily")


def test_a_rehearsed_bundle_brings_its_resources(bundled, tmp_path):
    folder = tmp_path / "rehearsed"
    shutil.copytree(bundled.bundle.folder, folder)
    proposal = {
        "replicas": 4,
        "requests": {"cpu": "300m", "memory": "224Mi"},
        "limits": {"memory": "320Mi"},
    }
    report = {"digest": bundled.bundle.digest, "passed": True, "proposal": proposal}
    (folder / "rehearsal.json").write_text(json.dumps(report))
    target = target_of(Bundle.open(folder), namespace="ml", image="delay:1", tokens="secret")
    assert (target.name, target.replicas, target.max_replicas) == ("delay", 4, 12)
    container = kinds(manifests(target))["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"] == {
        "requests": proposal["requests"],
        "limits": proposal["limits"],
    }
    assert container["args"][-2:] == ["--tokens", "/etc/shoal/tokens.json"]
    assert "--open" not in container["args"]


def rendered(folder):
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed")
    done = subprocess.run(
        ["kubectl", "kustomize", folder], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize("overlay", ["dev", "prod"])
def test_kustomize_renders_the_overlays(tmp_path, overlay):
    write_kustomize(TARGET, tmp_path)
    found = rendered(tmp_path / "overlays" / overlay)
    check(found, NEWEST[-1])
    wanted = {(o["kind"], o["metadata"]["name"]) for o in manifests(TARGET)}
    assert {(o["kind"], o["metadata"]["name"]) for o in found} == wanted
    namespace = "ml" if overlay == "prod" else "ml-dev"
    assert {o["metadata"]["namespace"] for o in found} == {namespace}
    pod = kinds(found)["Deployment"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == TARGET.image
    scaler = kinds(found)["HorizontalPodAutoscaler"]["spec"]
    expected = (2, 10) if overlay == "prod" else (1, 2)
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == expected


def test_writing_again_keeps_what_a_person_wrote_into_an_overlay(tmp_path):
    write_kustomize(TARGET, tmp_path)
    path = tmp_path / "overlays/prod/kustomization.yaml"
    content = yaml.safe_load(path.read_text())
    content["commonAnnotations"] = {"team": "fleet"}
    path.write_text(yaml.safe_dump(content))
    other = "registry.example/delay@sha256:" + "ef" * 32
    write_kustomize(replace(TARGET, image=other), tmp_path)
    kept = yaml.safe_load(path.read_text())
    assert kept["commonAnnotations"] == {"team": "fleet"}
    assert [image["digest"] for image in kept["images"]] == ["sha256:" + "ef" * 32]
    pod = kinds(rendered(path.parent))["Deployment"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == other
