"""The workflows that `shoal init` writes: valid by the services' own schemas, and runnable commands."""

import re
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml
from click.testing import CliRunner

from shoal.cli import cli
from shoal.cli.project import write_template

FILES = {
    "vendor.github-workflows": ".github/workflows/shoal.yml",
    "vendor.azure-pipelines": "azure-pipelines.yml",
}


@pytest.fixture(scope="module", params=["flights", "energy"])
def project(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ci") / "mine"
    write_template(request.param, folder, "mine")
    return folder


@pytest.mark.parametrize("schema", sorted(FILES))
def test_workflows_fit_the_schemas(project, schema):
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema]
    if schema.endswith("pipelines"):  # its patterns have escapes that Unicode patterns refuse
        check += ["--data-transform", "azure-pipelines", "--regex-variant", "nonunicode"]
    path = project / FILES[schema]
    done = subprocess.run([*check, path], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout
    path = project / "broken.yml"
    path.write_text("jobs: {check: {steps: 3}}\nstages: 4\n")
    done = subprocess.run([*check, path], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1


def scripts(content):
    if isinstance(content, dict):
        for key, value in content.items():
            if key in {"run", "script", "inlineScript"} and isinstance(value, str):
                yield value
            else:
                yield from scripts(value)
    elif isinstance(content, list):
        for value in content:
            yield from scripts(value)


def plain(script):
    """Without what the services put in before the shell sees it, each command in one line."""
    return re.sub(r"\$\{\{.*?\}\}|\$\([A-Za-z.]+\)", "x", script).replace("\\\n", " ")


def test_each_shoal_command_in_them_exists_with_its_options(project):
    found = set()
    for name in FILES.values():
        for script in scripts(yaml.safe_load((project / name).read_text())):
            for line in re.findall(r"shoal [a-z].*", plain(script)):
                words = shlex.split(re.split(r"[|;)]| 2>&1", line)[0])
                group = cli
                names = words[1:]
                command = group.commands[names.pop(0)]
                if hasattr(command, "commands"):
                    command = command.commands[names.pop(0)]
                known = {option for p in command.params for option in p.opts}
                assert {w for w in names if w.startswith("--")} <= known, line
                found.add(command.name)
    assert found == {"plan", "run", "train", "promote", "bundle", "rehearse", "k8s"}


def test_scripts_parse_as_shell(project):
    for name in FILES.values():
        for script in scripts(yaml.safe_load((project / name).read_text())):
            text = plain(script)
            subprocess.run([shutil.which("bash"), "-n", "-c", text], check=True, timeout=20)


def test_they_are_about_the_projects_own_model(project):
    model = min(path.stem for path in (project / "models").glob("*.py"))
    content = yaml.safe_load((project / FILES["vendor.github-workflows"]).read_text())
    assert content["env"]["MODEL"] == model
    assert "@MODEL@" not in (project / FILES["vendor.azure-pipelines"]).read_text()
    assert CliRunner().invoke(cli, ["init", "--help"]).exit_code == 0
