"""Bundles: what is in them, that the same model gives the same bytes, and what is refused."""

import csv
import hashlib
import io
import json
import shutil
import subprocess
import sys
import zipfile
from base64 import urlsafe_b64encode

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from shoal.deploy import Bundle
from shoal.deploy.closure import closure_of, hidden_modules, locked_hashes
from shoal.errors import DeployError, TrackingError
from shoal.workspace import Workspace
from shoal.workspace.bundles import bundle_model


def pinned(bundle):
    lines = (bundle.folder / "requirements.txt").read_text().splitlines()
    return {line.split("==")[0] for line in lines if "==" in line}


def test_the_same_version_gives_the_same_bytes(bundled, tmp_path):
    with Workspace.open(bundled.root) as space:
        again = bundle_model(space, "delay/1", tmp_path)
    assert again.digest == bundled.bundle.digest
    assert again.folder.name == bundled.bundle.folder.name == f"delay-1-{again.digest[:12]}"
    for name in again.content["files"]:
        assert (again.folder / name).read_bytes() == (bundled.bundle.folder / name).read_bytes()


def test_a_bundle_has_the_serving_closure_only_and_each_package_is_pinned_by_hash(bundled):
    names = pinned(bundled.bundle)
    assert {"numpy", "pyarrow", "scikit-learn", "uvicorn", "starlette"} <= names
    for absent in ("pyspark-client", "pysail", "mlflow", "deltalake", "polars", "optuna", "skops"):
        assert absent not in names
    text = (bundled.bundle.folder / "requirements.txt").read_text()
    assert bundled.bundle.content["hashes"] == "uv.lock"
    assert all("--hash=sha256:" in part for part in text.replace("\\\n", "").splitlines())


def test_samples_are_the_tables_rows_with_the_registrys_answers(bundled):
    samples = {sample["name"]: sample for sample in bundled.bundle.samples}
    rows = json.loads(samples["all rows"]["body"])["dataframe_split"]
    assert len(rows["data"]) == 17  # 4 of each of 4 segments, and one of no segment
    with Workspace.open(bundled.root) as space:
        fleet = space.tracker.fleet("delay/1")
    import pyarrow as pa

    columns = [list(column) for column in zip(*rows["data"], strict=True)]
    expected = fleet.predict(pa.table(dict(zip(rows["columns"], columns, strict=True))))
    found = [None if x != x else x for x in expected.column("prediction").to_pylist()]
    assert samples["all rows"]["predictions"] == found
    assert samples["a wrong request"]["status"] == 400
    assert {"tensors", "CSV", "row 0"} <= set(samples)


def test_the_sbom_is_valid_cyclonedx_and_lists_each_package(bundled):
    text = (bundled.bundle.folder / "sbom.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    content = json.loads(text)
    libraries = {c["name"] for c in content["components"] if c.get("purl")}
    assert libraries == pinned(bundled.bundle)
    refs = {c["bom-ref"] for c in content["components"]}
    assert {d["ref"] for d in content["dependencies"]} == refs
    assert all(other in refs for d in content["dependencies"] for other in d["dependsOn"])


def test_checksums_can_be_checked_without_shoal(bundled):
    command = ["sha256sum", "--check", "--quiet", "SHA256SUMS"]
    subprocess.run(command, cwd=bundled.bundle.folder, check=True, timeout=60)


def test_the_wheel_is_a_valid_wheel_that_requires_the_closure_only(bundled):
    (wheel,) = (bundled.bundle.folder / "wheels").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        info = next(n for n in archive.namelist() if n.endswith("/RECORD"))
        for name, digest, size in csv.reader(io.StringIO(archive.read(info).decode())):
            if name == info:
                continue
            content = archive.read(name)
            found = urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            assert (digest, int(size)) == (f"sha256={found}", len(content))
        metadata = archive.read(info.replace("RECORD", "METADATA")).decode()
    required = {x.split(": ")[1].split("==")[0] for x in metadata.splitlines() if "Requires" in x}
    assert required == pinned(bundled.bundle)


def copied(bundle, folder):
    shutil.copytree(bundle.folder, folder)
    return folder


def test_what_was_changed_after_it_was_made_is_refused(bundled, tmp_path):
    folder = copied(bundled.bundle, tmp_path / "one")
    with (folder / "artifact/members.arrow").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DeployError, match=r"members.arrow of the bundle .* is changed"):
        Bundle.open(folder)
    folder = copied(bundled.bundle, tmp_path / "two")
    (folder / "server.json").unlink()
    with pytest.raises(DeployError, match=r"server.json .* is missing"):
        Bundle.open(folder)
    folder = copied(bundled.bundle, tmp_path / "three")
    (folder / "artifact/more.py").touch()
    with pytest.raises(DeployError, match=r"was not made with: artifact/more.py"):
        Bundle.open(folder)
    with pytest.raises(DeployError, match="is no bundle") as caught:
        Bundle.open(tmp_path)
    assert "shoal bundle MODEL" in caught.value.hint


def test_an_artifact_that_was_changed_after_registration_is_refused(bundled, tmp_path):
    with Workspace.open(bundled.root) as space:
        version = space.tracker.resolve("delay")
        real = space.tracker.fleet_folder(version) / "members.arrow"
        kept = real.read_bytes()
        try:
            real.write_bytes(kept + b"\0")
            with pytest.raises(DeployError, match="was changed after it was registered"):
                bundle_model(space, "delay", tmp_path / "out")
        finally:
            real.write_bytes(kept)
    assert not (tmp_path / "out").exists()


def test_an_unknown_version_is_refused(bundled, tmp_path):
    with Workspace.open(bundled.root) as space, pytest.raises(TrackingError, match="version 9"):
        bundle_model(space, "delay/9", tmp_path)


def test_a_closure_follows_extras_and_hides_the_rest():
    closure = closure_of(["moto[server]"])
    assert {"flask", "moto"} <= set(closure.versions)
    assert "flask" not in closure_of(["moto"]).versions
    hidden = hidden_modules(closure)
    assert {"mlflow", "pyspark", "deltalake"} <= set(hidden)
    assert not {"numpy", "sklearn", "shoal"} & set(hidden)


def test_without_a_lock_of_these_versions_there_are_no_hashes(tmp_path):
    closure = closure_of([])
    (tmp_path / "uv.lock").write_text('[[package]]\nname = "numpy"\nversion = "1.0"\n')
    assert locked_hashes(closure, [tmp_path]) == ({}, None)
    (tmp_path / "uv.lock").write_text("[[package")
    with pytest.raises(DeployError, match=r"uv.lock cannot be read"):
        locked_hashes(closure, [tmp_path])


def test_a_bundle_serves_one_model_without_a_lake(bundled, tmp_path):
    command = [sys.executable, "-m", "shoal.cli", "serve", "--bundle", bundled.bundle.folder]
    refused = subprocess.run(
        [*command, "--log"], capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False
    )
    assert refused.returncode == 2
    assert "no lake" in refused.stderr
