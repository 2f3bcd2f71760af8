"""``shoal deploy``: its commands, and that nothing goes out unrehearsed."""

import json
import shutil

import click
import pytest
import yaml
from click.testing import CliRunner

from kube import running_kube
from shoal.cli import cli
from shoal.deploy.bundle import seal

DEPLOY = cli.commands["deploy"]


@pytest.fixture
def kube(tmp_path):
    with running_kube() as (kube, url):
        kube.file = str(kube.kubeconfig(tmp_path, url))
        yield kube


@pytest.fixture
def bundle(tmp_path):
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "server.json").write_text('{"port": 8080, "workers": 1, "max_rows": 10}')
    return seal(folder, {"model": "delay", "version": 3, "pickled": False, "signature": {}})


def rehearsed(bundle, **more):
    report = {"digest": bundle.digest, "passed": True, **more}
    (bundle.folder / "rehearsal.json").write_text(json.dumps(report))


def run(*arguments):
    return CliRunner().invoke(cli, ["deploy", *map(str, arguments)])


@pytest.mark.parametrize("name", sorted(DEPLOY.commands))
def test_each_command_has_help_and_an_example(name):
    result = run(name, "--help")
    assert result.exit_code == 0
    assert f"Example:  shoal deploy {name}" in " ".join(result.output.split()).replace(
        "  ", " "
    ) or (f"shoal deploy {name}" in result.output)
    options = [p for p in DEPLOY.commands[name].params if isinstance(p, click.Option)]
    assert all(option.help for option in options)


def test_what_was_not_rehearsed_is_not_deployed(bundle, kube):
    command = ["k8s", bundle.folder, "--image", "delay:3", "--namespace", "ml"]
    command += ["--kubeconfig", kube.file]
    refused = run(*command)
    assert refused.exit_code == 1
    assert "was not rehearsed" in refused.output and "shoal rehearse" in refused.output
    rehearsed(bundle, passed=False)
    assert "did not pass its rehearsal" in run(*command).output
    assert kube.requests == []
    done = run(*command, "--force")
    assert done.exit_code == 0, done.output
    assert "delay: delay/3, revision 1" in done.output


def test_a_whole_life_of_a_deployment(bundle, kube):
    rehearsed(bundle)
    where = ["--namespace", "ml", "--kubeconfig", kube.file]
    done = run("k8s", bundle.folder, "--image", "delay:3", "--json", *where)
    assert json.loads(done.output)["deployments"][0]["model"] == "delay/3"
    failed = run("k8s", bundle.folder, "--image", "broken:4", *where)
    assert failed.exit_code == 1
    assert "delay/3 answers as before" in failed.output
    assert "1 of 1 replicas available (delay:3)" in run("status", "delay", *where).output
    assert "line of delay-" in run("logs", "delay", *where).output
    run("k8s", bundle.folder, "--image", "delay:5", *where)
    back = run("rollback", "delay", *where)
    assert back.exit_code == 0 and "(delay:3)" in back.output
    assert "Deployment/delay" in run("delete", "delay", *where).output
    assert run("status", "delay", *where).exit_code == 1


def test_wrong_arguments_are_told(bundle, kube):
    rehearsed(bundle)
    where = ["--namespace", "ml", "--kubeconfig", kube.file]
    unknown = run("k8s", bundle.folder, "--image", "a:1", "--context", "prod", *where)
    assert "no context 'prod'; it has production, test" in unknown.output
    long = run("k8s", bundle.folder, "--image", "a:1", "--name", "x" * 70, *where)
    assert "70 characters; Kubernetes takes 56" in long.output
    setting = run("k8s", bundle.folder, "--image", "a:1", "--set", "LEVEL", *where)
    assert setting.exit_code == 2 and "is no setting" in setting.output
    shutil.rmtree(bundle.folder / "server.json", ignore_errors=True)
    (bundle.folder / "server.json").write_text("{}")
    changed = run("k8s", bundle.folder, "--image", "a:1", *where)
    assert "server.json of the bundle" in changed.output
    assert kube.requests == []


def test_manifests_can_be_written_and_printed_without_a_cluster(bundle, tmp_path):
    rehearsed(bundle)
    done = run("k8s", bundle.folder, "--image", "delay:3", "--write", tmp_path / "gitops")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "gitops/base/deployment-delay.yaml").is_file()
    printed = run("job", "run", "--image", "a:1", "--schedule", "@daily", "--print")
    assert yaml.safe_load(printed.output)["kind"] == "CronJob"
    kinds = [o["kind"] for o in yaml.safe_load_all(run("sail", "--image", "s:1", "--print").output)]
    assert kinds == ["ServiceAccount", "Role", "RoleBinding", "Deployment", "Service"]


def test_kserve_is_one_object(bundle, kube):
    rehearsed(bundle)
    where = ["--namespace", "ml", "--kubeconfig", kube.file]
    done = run("k8s", bundle.folder, "--image", "delay:3", "--kserve", *where)
    assert done.exit_code == 0, done.output
    assert list(kube.objects) == [("inferenceservices", "delay")]
