"""The infrastructure: formatted as Terraform does, each reference leads somewhere, and a valid compose file."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import hcl2
import pytest
import yaml

INFRA = Path(__file__).parents[2] / "infra"


@pytest.fixture(scope="module")
def parsed():
    found = {"resource": set(), "variable": set(), "data": set()}
    for path in INFRA.glob("*.tf"):
        content = hcl2.loads(path.read_text())
        for kind in ("resource", "data"):
            for block in content.get(kind, ()):
                for first, named in block.items():
                    found[kind] |= {
                        f"{first}.{name}".replace('"', "") for name in named if name[:2] != "__"
                    }
        for block in content.get("variable", ()):
            found["variable"] |= {name.replace('"', "") for name in block if name[:2] != "__"}
    return found


def test_each_reference_leads_to_something_declared(parsed):
    text = "\n".join(path.read_text() for path in INFRA.glob("*.tf"))
    text = re.sub(r"#.*", "", text)
    plain = text.replace("data.azurerm", "data-azurerm")
    used = set(re.findall(r"(?<![\w.\"-])((?:azurerm|random)_\w+\.\w+)", plain))
    assert used <= parsed["resource"]
    assert set(re.findall(r"\bvar\.(\w+)", text)) == parsed["variable"]
    assert set(re.findall(r"data\.(\w+\.\w+)", text)) == parsed["data"]


def test_the_reference_architecture_is_whole(parsed):
    kinds = {name.split(".")[0].removeprefix("azurerm_") for name in parsed["resource"]}
    assert {
        *("storage_account", "storage_data_lake_gen2_filesystem", "kubernetes_cluster"),
        *("machine_learning_workspace", "postgresql_flexible_server", "container_registry"),
        *("key_vault", "user_assigned_identity", "federated_identity_credential"),
    } <= kinds
    assert "is_hns_enabled                  = true" in (INFRA / "main.tf").read_text()


def test_terraform_finds_the_files_well_formed():
    if not shutil.which("terraform"):
        pytest.skip("terraform is not installed; the files are parsed by hcl2 above")
    done = subprocess.run(
        ["terraform", "fmt", "-check", "-diff", INFRA],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_compose_file_is_valid_and_open_to_this_machine_only():
    path = INFRA / "compose.yaml"
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*check, path], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
    services = yaml.safe_load(path.read_text())["services"]
    assert set(services) == {"serve", "ui", "mlflow", "postgres", "azurite"}
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)
