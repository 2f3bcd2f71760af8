"""A plain script's run, and the same script run again on the versions that it read."""

import json
import subprocess
import sys

import pyarrow as pa
import pytest

from shoal.errors import TrackingError
from shoal.workspace import Workspace, start_run
from shoal.workspace.reproduce import reproduce

SCRIPT = """
import sys
import mlflow
import shoal

with shoal.start_run("explore") as run:
    rows = run.table("gold.sales").collect()
    mlflow.log_param("power", sys.argv[1])
    mlflow.log_metric("total", float((rows["y"] ** float(sys.argv[1])).sum()))
    {more}
    print(run.run_id)
"""


@pytest.fixture
def root(tmp_path):
    (tmp_path / "spark-pipeline.yml").write_text("name: shop\nstorage: lake\nlibraries: []\n")
    with Workspace.open(tmp_path) as space:
        space.lake.table("gold.sales").append(pa.table({"y": [1.0, 2.0, 3.0]}))
    return tmp_path


def run(root, more="") -> str:
    (root / "explore.py").write_text(SCRIPT.format(more=more))
    done = subprocess.run([sys.executable, "explore.py", "2"], cwd=root, check=True,
                          capture_output=True, text=True)  # fmt: skip
    return done.stdout.split()[-1]


def test_a_script_is_run_again_on_what_it_read(root) -> None:
    run_id = run(root)
    with Workspace.open(root) as space:
        space.lake.table("gold.sales").append(pa.table({"y": [100.0]}))
        (root / "explore.py").write_text("raise SystemExit(3)")
        tracked = space.tracker.run(run_id)
        assert (tracked.status, tracked.metrics["total"]) == ("FINISHED", 14.0)
        found = reproduce(space, run_id)
        assert found.verdicts == {"identical": 2}
        assert found.table == "gold.sales@0"
        assert "identical" in space.tracker.run(run_id).tags["shoal.reproduced"]
        assert len(space.tracker.runs()) == 1  # the second run was not the project's


def test_chance_is_found_out(root) -> None:
    run_id = run(root, 'import random; mlflow.log_metric("luck", random.random())')
    with Workspace.open(root) as space:
        found = reproduce(space, run_id)
    assert found.verdicts == {"identical": 2, "different": 1}
    assert found.different == ("luck",)
    assert "seed" in found.causes[0]


def test_a_failing_script_leaves_a_failed_run(root) -> None:
    (root / "explore.py").write_text(SCRIPT.format(more="raise ValueError(1)"))
    done = subprocess.run([sys.executable, "explore.py", "1"], cwd=root, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert "ValueError" in done.stderr
    with Workspace.open(root) as space:
        (tracked,) = space.tracker.runs()
        assert tracked.status == "FAILED"


def test_one_run_reads_one_version_of_a_table(root, monkeypatch) -> None:
    import mlflow

    monkeypatch.chdir(root)
    with Workspace.open(root) as space:
        space.lake.table("gold.sales").append(pa.table({"y": [100.0]}))
    with start_run("here") as here:
        assert here.table("gold.sales", version=0).collect().height == 3
        assert here.table("gold.sales").collect().height == 3
        with pytest.raises(TrackingError, match="has read version 0"):
            here.table("gold.sales", version=1)
        mlflow.log_metric("x", 1.0)
    with Workspace.open(root) as space:
        kept = space.tracker.kept(here.run_id)
        assert json.loads((kept / "script.json").read_text())["tables"] == {"gold.sales": 0}
        with pytest.raises(TrackingError, match="not a file of the project"):
            reproduce(space, here.run_id)
