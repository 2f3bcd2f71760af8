"""Rehearsals: within limits, without network, with the answers compared."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from shoal.cli import cli
from shoal.cli.rehearse import size_of
from shoal.deploy import Bundle, rehearse
from shoal.deploy.bundle import seal
from shoal.deploy.rehearse import _report
from shoal.errors import DeployError, ProjectError

MIB = 2**20


_CURIOUS = """
import os, socket, sys

said = []
try:
    socket.create_connection(("192.0.2.1", 80), timeout=5)
except OSError as error:
    said.append(f"net {error.errno}")
try:
    open("here", "w")
except OSError as error:
    said.append(f"disk {error.errno}")
open(os.environ["TMPDIR"] + "/scratch", "w").close()
sys.exit(repr([said, sorted(os.environ)]))
"""


def measured(bundle, tmp_path, memory=1024 * MIB, command=None):
    """What the inside of a rehearsal measures, in this environment instead of a fresh one."""
    (tmp_path / "tmp").mkdir()
    serve = [sys.executable, "-m", "shoal.cli", "serve", "--bundle", str(bundle.folder)]
    settings = {
        "bundle": str(bundle.folder),
        "command": command or serve,
        "scratch": str(tmp_path / "tmp"),
        "memory": memory,
        "cpus": 1.0,
        "seconds": 0.5,
        "patience": 100,
    }
    module = [sys.executable, "-m", "shoal.deploy.driver", json.dumps(settings)]
    done = subprocess.run(module, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_rehearsal_replays_the_samples_and_proposes_resources(bundled, tmp_path):
    found = _report(bundled.bundle, measured(bundled.bundle, tmp_path), rate=5000, cold_start=100)
    assert found["passed"], found["failures"]
    assert found["digest"] == bundled.bundle.digest
    assert found["replayed"] == len(bundled.bundle.samples) > 10
    assert found["load"]["requests"] > 0
    assert 0 < found["load"]["p50_ms"] <= found["load"]["p99_ms"]
    assert 30 * MIB < found["memory_bytes"] < 1024 * MIB
    proposal = found["proposal"]
    expected = 5000 / (0.6 * found["load"]["requests_per_s"])
    assert proposal["replicas"] >= max(2, expected)
    assert int(proposal["requests"]["memory"][:-2]) * MIB > found["memory_bytes"]
    if os.getuid() == 0:
        assert found["limits"]["network"].startswith("none")


def test_the_network_is_cut_off_and_the_file_system_read_only(bundled, tmp_path):
    script = tmp_path / "server.py"
    script.write_text(_CURIOUS)
    found = measured(bundled.bundle, tmp_path, command=[sys.executable, str(script)])
    (failure,) = found["failures"]
    if not found["limits"]["network"].startswith("none"):
        pytest.skip(found["limits"]["network"])
    assert "net 101" in failure  # ENETUNREACH: at once, and not after five seconds
    assert "disk 30" in failure  # EROFS
    assert "UV" not in failure and "PATH" in failure


def test_too_little_memory_is_told(bundled, tmp_path):
    found = measured(bundled.bundle, tmp_path, memory=24 * MIB)
    report = _report(bundled.bundle, found, rate=1, cold_start=100)
    assert not report["passed"] and report["proposal"] is None
    assert report["failures"], found


def test_a_different_answer_does_not_pass(bundled, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(bundled.bundle.folder, folder)
    samples = json.loads((folder / "samples.json").read_text())
    samples[0]["predictions"][0] += 1e-6
    (folder / "samples.json").write_text(json.dumps(samples))
    content = {k: v for k, v in bundled.bundle.content.items() if k not in ("files", "format")}
    changed = seal(folder, content)
    report = _report(changed, measured(changed, tmp_path), rate=1, cold_start=100)
    assert not report["passed"]
    assert report["failures"][0].startswith("row 0: prediction 0 is ")


def test_a_slow_start_does_not_pass(bundled):
    found = {"failures": [], "cold_start_s": 31.0}
    report = _report(bundled.bundle, found, rate=1, cold_start=30)
    assert report["failures"] == ["it was ready after 31.0 s, allowed are 30 s"]


def test_a_report_of_other_bytes_does_not_count(bundled, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(bundled.bundle.folder, folder)
    (folder / "rehearsal.json").write_text(json.dumps({"digest": "0" * 64, "passed": True}))
    assert Bundle.open(folder).rehearsal is None
    digest = bundled.bundle.digest
    (folder / "rehearsal.json").write_text(json.dumps({"digest": digest, "passed": True}))
    assert Bundle.open(folder).rehearsal["passed"]


def test_sizes_are_those_of_kubernetes():
    assert size_of("512Mi") == 512 * MIB
    assert size_of("1.5G") == 1_500_000_000
    assert size_of("1024") == 1024
    with pytest.raises(ProjectError, match="'lots' is no size"):
        size_of("lots")


@pytest.mark.heavy
def test_a_fresh_environment_of_the_locked_packages_lacks_nothing(bundled, tmp_path):
    folder = tmp_path / bundled.bundle.folder.name
    shutil.copytree(bundled.bundle.folder, folder)
    done = CliRunner().invoke(cli, ["rehearse", str(folder), "--json", "--seconds", "1"])
    report = json.loads(done.output)
    assert done.exit_code == 0 and report["passed"], report["failures"]
    assert Bundle.open(folder).rehearsal == report
    assert report["environment_bytes"] < 700e6
    assert not list(Path(tmp_path).glob(".rehearsal-*"))


@pytest.mark.heavy
def test_a_package_that_does_not_match_its_hash_is_refused(bundled, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(bundled.bundle.folder, folder)
    text = (folder / "requirements.txt").read_text()
    start = text.index("--hash=sha256:") + len("--hash=sha256:")
    changed = text[:start] + "0" * 64 + text[start + 64 :]
    (folder / "requirements.txt").write_text(changed)
    content = {k: v for k, v in bundled.bundle.content.items() if k not in ("files", "format")}
    with pytest.raises(DeployError, match="environment cannot be made"):
        rehearse(seal(folder, content))
