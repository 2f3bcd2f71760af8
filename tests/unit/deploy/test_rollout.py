"""Deploying to an API server: each refusal and each failure leaves a version that answers."""

from dataclasses import replace

import pytest

from kube import running_kube
from shoal.deploy.kubernetes import Target, job
from shoal.deploy.kubernetes.cluster import Cluster
from shoal.deploy.kubernetes.deploy import apply, delete, deploy, logs, rollback, status
from shoal.errors import Conflict, DeployError, Unavailable

ONE = Target(
    name="delay",
    namespace="ml",
    image="registry.example/delay:1",
    model="delay",
    version=1,
    digest="11" * 32,
)
TWO = replace(ONE, image="registry.example/delay:2", version=2, digest="22" * 32)
BROKEN = replace(TWO, image="registry.example/broken:3", version=3)


@pytest.fixture
def kube(tmp_path):
    with running_kube() as (kube, url):
        kube.file = kube.kubeconfig(tmp_path, url)
        yield kube


@pytest.fixture
def cluster(kube):
    return Cluster("test", kube.file)


def image(kube):
    pod = kube.objects["deployments", "delay"]["spec"]["template"]["spec"]
    return pod["containers"][0]["image"]


def test_a_deploy_is_applied_dry_first_and_then_watched(kube, cluster):
    told = []
    found = deploy(cluster, ONE, told=told.append, pause=0.01)
    order = ["ServiceAccount", "ConfigMap", "Deployment", "Service", "HorizontalPodAutoscaler"]
    order += ["PodDisruptionBudget", "NetworkPolicy"]
    assert [name.split("/")[0] for name in kube.applied(dry=True)] == order
    assert kube.applied(dry=True) == kube.applied(dry=False)
    last_dry = max(i for i, r in enumerate(kube.requests) if r.query.get("dryRun"))
    first_real = min(
        i for i, r in enumerate(kube.requests) if r.method == "PATCH" and not r.query.get("dryRun")
    )
    assert last_dry < first_real
    for request in kube.requests:
        if request.method == "PATCH":
            assert request.content_type == "application/apply-patch+yaml"
            assert request.query["fieldManager"] == "shoal"
            assert request.query["force"].lower() == "false"
    (part,) = found["deployments"]
    assert part["model"] == "delay/1" and part["available"] == 1
    assert told[-1] == "1 of 1 replicas new, 1 available"


def test_an_image_that_never_gets_ready_is_taken_back(kube, cluster):
    deploy(cluster, ONE, pause=0.01)
    deploy(cluster, TWO, pause=0.01)
    with pytest.raises(DeployError) as caught:
        deploy(cluster, BROKEN, pause=0.01)
    assert "its image cannot be pulled (ImagePullBackOff" in caught.value.message
    assert "It was rolled back: delay/2 answers as before." in caught.value.message
    assert image(kube) == TWO.image
    (part,) = status(cluster, "ml", "delay")["deployments"]
    assert (part["model"], part["available"]) == ("delay/2", 1)
    patches = [r for r in kube.requests if r.content_type == "application/json-patch+json"]
    assert [step["op"] for step in patches[1].body] == ["replace", "add", "add"]
    # As on a real API server: what Shoal patched is Shoal's, and the next deploy takes it over.
    kube.owners["deployments", "delay"] = "shoal"
    deploy(cluster, replace(TWO, version=5, image="registry.example/delay:5"), pause=0.01)
    back = rollback(cluster, "ml", "delay", pause=0.01)
    assert back["deployments"][0]["model"] == "delay/2"  # not to the one that failed


def test_a_deploy_after_one_that_was_interrupted_goes_back_to_what_answers(kube, cluster):
    deploy(cluster, ONE, pause=0.01)
    # An earlier deploy died between applying and watching: its template never got ready.
    from shoal.deploy.kubernetes import manifests

    apply(cluster, manifests(BROKEN))
    assert image(kube) == BROKEN.image
    other = replace(BROKEN, image="registry.example/broken:4", version=4)
    with pytest.raises(DeployError, match="delay/1 answers as before"):
        deploy(cluster, other, pause=0.01)
    assert image(kube) == ONE.image
    found = deploy(cluster, TWO, pause=0.01)
    assert found["deployments"][0]["model"] == "delay/2"


def test_a_first_deploy_that_fails_leaves_nothing(kube, cluster):
    with pytest.raises(DeployError, match="what was made for it was removed"):
        deploy(cluster, BROKEN, pause=0.01)
    assert kube.objects == {}


def test_a_quota_refuses_and_the_old_version_answers(kube, cluster):
    deploy(cluster, ONE, pause=0.01)
    kube.quota = 1
    with pytest.raises(DeployError, match=r"exceeded quota.*delay/1 answers as before"):
        deploy(cluster, TWO, pause=0.01)
    assert image(kube) == ONE.image


def test_what_the_role_does_not_allow_changes_nothing(kube, cluster):
    deploy(cluster, ONE, pause=0.01)
    kube.forbidden.add("networkpolicies")
    before = dict(kube.objects)
    with pytest.raises(DeployError, match="networkpolicies is forbidden") as caught:
        deploy(cluster, TWO, pause=0.01)
    assert "Role" in caught.value.hint
    assert kube.objects == before and image(kube) == ONE.image


def test_fields_of_another_client_are_not_taken_without_asking(kube, cluster):
    deploy(cluster, ONE, pause=0.01)
    kube.owners["services", "delay"] = "kubectl-edit"
    with pytest.raises(Conflict, match="kubectl-edit"):
        deploy(cluster, TWO, pause=0.01)
    assert image(kube) == ONE.image
    deploy(cluster, TWO, force_conflicts=True, pause=0.01)
    assert image(kube) == TWO.image


def test_a_wrong_context_namespace_token_or_server_is_told(kube, cluster):
    with pytest.raises(DeployError, match="no context 'tset'") as caught:
        Cluster("tset", kube.file)
    assert "'test'" in caught.value.hint
    with pytest.raises(DeployError, match="does not know"):
        deploy(cluster, replace(ONE, namespace="nowhere"), pause=0.01)
    with pytest.raises(DeployError, match="does not know who asks"):
        deploy(Cluster("production", kube.file), ONE, pause=0.01)
    kube.missing.add("httproutes")
    with pytest.raises(DeployError, match="httproutes") as caught:
        deploy(cluster, replace(ONE, route="gateway"), pause=0.01)
    assert "Gateway API" in caught.value.hint
    assert kube.objects == {}
    kube.busy = 1
    with pytest.raises(Unavailable, match="answers 429"):
        deploy(cluster, ONE, pause=0.01)


def test_a_server_that_is_away_is_told(tmp_path):
    with running_kube() as (kube, url):
        file = kube.kubeconfig(tmp_path, url)
    with pytest.raises(Unavailable, match="does not answer"):
        status(Cluster("test", file), "ml", "delay")


def test_a_pod_that_finds_no_node_is_told_in_time(kube, cluster):
    deploy(cluster, ONE, pause=0.01)
    kube.stuck = True

    def told(text):
        if text.startswith("taking it back"):
            kube.stuck = False

    with pytest.raises(DeployError, match="0/3 nodes are available") as caught:
        deploy(cluster, TWO, timeout=0.2, told=told, pause=0.01)
    assert "delay/1 answers as before" in caught.value.message


def test_rollback_goes_to_the_version_before(kube, cluster):
    deploy(cluster, ONE, pause=0.01)
    with pytest.raises(DeployError, match="no version before"):
        rollback(cluster, "ml", "delay", pause=0.01)
    deploy(cluster, TWO, pause=0.01)
    found = rollback(cluster, "ml", "delay", pause=0.01)
    assert found["deployments"][0]["model"] == "delay/1"
    assert image(kube) == ONE.image


def test_a_canary_gets_requests_when_it_is_ready_and_none_when_it_goes(kube, cluster):
    stable = replace(ONE, route="gateway", host="delay.example")
    deploy(cluster, stable, pause=0.01)
    with pytest.raises(DeployError, match="its image cannot be pulled"):
        deploy(cluster, replace(BROKEN, route="gateway", weight=10), pause=0.01)
    route = kube.objects["httproutes", "delay"]["spec"]["rules"][0]
    assert [b["weight"] for b in route["backendRefs"]] == [100]
    deploy(cluster, replace(TWO, route="gateway", weight=10), pause=0.01)
    route = kube.objects["httproutes", "delay"]["spec"]["rules"][0]
    assert [b["weight"] for b in route["backendRefs"]] == [90, 10]
    assert image(kube) == ONE.image
    found = status(cluster, "ml", "delay")
    assert [part["model"] for part in found["deployments"]] == ["delay/1", "delay/2"]
    gone = delete(cluster, "ml", "delay", canary=True)
    assert "Deployment/delay-canary" in gone
    route = kube.objects["httproutes", "delay"]["spec"]["rules"][0]
    assert [(b["name"], b["weight"]) for b in route["backendRefs"]] == [("delay", 100)]
    assert ("services", "delay") in kube.objects


def test_settings_of_versions_that_are_gone_are_forgotten(kube, cluster):
    deploy(cluster, replace(ONE, settings={"A": "1"}), pause=0.01)
    deploy(cluster, replace(TWO, settings={"A": "2"}), pause=0.01)
    configs = [key for key in kube.objects if key[0] == "configmaps"]
    assert len(configs) == 2  # the old one, too: a rollback needs it
    for key in [k for k in kube.objects if k[0] == "replicasets"]:
        if kube.objects[key]["status"].get("availableReplicas") == 0:
            del kube.objects[key]
    deploy(cluster, replace(TWO, settings={"A": "2"}), pause=0.01)
    assert len([key for key in kube.objects if key[0] == "configmaps"]) == 1


def test_delete_removes_what_shoal_made_and_nothing_else(kube, cluster):
    deploy(cluster, ONE, pause=0.01)
    kube.missing |= {"httproutes", "servicemonitors", "inferenceservices"}
    kube.objects["configmaps", "mine"] = {
        "metadata": {"name": "mine", "labels": {"app.kubernetes.io/name": "delay"}}
    }
    gone = delete(cluster, "ml", "delay")
    assert gone[:2] == ["HorizontalPodAutoscaler/delay", "Service/delay"]
    assert list(kube.objects) == [("configmaps", "mine")]
    with pytest.raises(DeployError, match="Nothing named delay"):
        delete(cluster, "ml", "delay")


def test_logs_of_each_pod_and_jobs(kube, cluster):
    deploy(cluster, ONE, pause=0.01)
    ((name, text),) = logs(cluster, "ml", "delay", lines=5).items()
    assert text == f"line of {name}\n"
    assert kube.requests[-1].query == {"tailLines": "5"}
    apply(cluster, [job(["run"], name="nightly", namespace="ml", image="a:1", schedule="@daily")])
    assert ("cronjobs", "nightly") in kube.objects
